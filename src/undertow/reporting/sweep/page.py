"""Training runs side by side: the arms of a sweep, or any runs that a reader names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undertow.errors import DataError
from undertow.reporting.page.shell import Figure, render
from undertow.reporting.training import charts
from undertow.reporting.training.reading import Run, read_run, renamed, spread
from undertow.training.sweep import SUMMARY, arm_row
from undertow.wording.numbers import counted, nats, percent, shown_as, signed, token
from undertow.wording.visible import shown as text_of

__all__ = ["arms_table", "figures", "headline", "multi", "names", "read_arms", "report", "row_of", "side_by_side"]

MOST_LOOKS, MOST_NAMES = 150, 4
"""Looks a panel draws, and runs a sentence names, at most."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of runs: ``best`` is ``highest``, ``lowest`` or empty where no value is better."""

    name: str
    title: str
    best: str = ""
    form: str = "number"


COLUMNS = (
    Column("displaced", "displaced", "lowest", "percent"),
    Column("chosen_change", "chosen", "highest", "signed"),
    Column("rejected_change", "rejected", "", "signed"),
    Column("margin_change", "margin", "highest", "signed"),
    Column("reward_accuracy", "reward accuracy", "highest", "percent"),
    Column("largest_decrease", "largest decrease", "lowest", "number"),
)


def report(folder: str | Path) -> str:
    """The page of a sweep: its arms side by side.

    Raises:
        DataError: the folder holds no sweep, or an arm's folder is not there.
    """
    folder = Path(folder)
    return _page(f"Sweep: {folder.resolve().name}", "arm", read_runs(folder), read_arms(folder))


def figures(folder: str | Path) -> tuple[Figure, ...]:
    """The charts of a sweep's page.

    Raises:
        DataError: the folder holds no sweep, or an arm's folder is not there.
    """
    return side_by_side(read_runs(Path(folder)))


def read_runs(folder: Path) -> list[Run]:
    """The runs of a sweep's arms."""
    return [read_run(folder / "arms" / arm["arm"], arm["arm"]) for arm in read_arms(folder)]


def multi(folders: Sequence[str | Path]) -> str:
    """One page over several training runs.

    Raises:
        DataError: a folder holds no training run.
    """
    paths = [Path(folder).resolve() for folder in folders]
    runs = [read_run(path, name) for path, name in zip(paths, names(paths), strict=True)]
    return _page("Training runs side by side", "run", runs, [row_of(run) for run in runs])


def read_arms(folder: Path) -> list[dict[str, Any]]:
    """The arms' rows of ``sweep.json``.

    Raises:
        DataError: it is not there, or is none of ours.
    """
    try:
        arms = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["arms"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no finished sweep: give its `undertow train … --sweep` command again."
        ) from error
    return [renamed(arm) for arm in arms]


def row_of(run: Run) -> dict[str, Any]:
    """A run as a row of the table, as ``sweep.json`` has them."""
    pairs = (run.summary or {}).get("data", {}).get("trained")
    loss = run.arguments.get("loss")
    return arm_row(run.name, loss=loss, steps=run.steps, pairs=pairs, tracked=run.final or {})


def names(paths: Sequence[Path]) -> list[str]:
    """A name for each folder, longer where two have the same last part."""
    depth, most = 1, max(len(path.parts) for path in paths)
    while depth < most and len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    found = [str(Path(*path.parts[-depth:])) for path in paths]
    seen: Counter[str] = Counter()
    for n, name in enumerate(found):
        seen[name] += 1
        found[n] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return found


def _page(title: str, noun: str, runs: Sequence[Run], arms: Sequence[Mapping[str, Any]]) -> str:
    return render(
        "sweep.html.j2",
        title=title,
        figures=side_by_side(runs),
        eyebrow=_same(runs, "data", "model"),
        headline=headline(noun, arms),
        noun=noun,
        data={
            "noun": noun,
            "gained": True,
            "columns": [
                {"name": column.name, "label": column.title, "down": column.best != "lowest"} for column in COLUMNS
            ],
            "rows": [_cells(row) for row in arms_table(arms)],
        },
        unfinished=[run.name for run in runs if run.unfinished],
    )


def _same(runs: Sequence[Run], *names: str) -> str:
    """What all runs have in common of some settings, in short."""
    values = [{str(run.arguments.get(name)) for run in runs} for name in names]
    return " · ".join(Path(found.pop()).name for found in values if len(found) == 1)


def _cells(row: Mapping[str, Any]) -> list[Any]:
    """A row for the page's script: the values to sort by, in the order of the columns; then how these are shown."""
    named = [text_of(row["arm"]), text_of(str(row["loss"])), row["steps"], row["pairs"]]
    gained = ", ".join(map(token, row["gained"]))
    shown = [{"text": cell["text"], "best": cell["best"]} for cell in row["cells"]]
    return [*named, *(cell["value"] for cell in row["cells"]), gained, shown]


def side_by_side(runs: Sequence[Run]) -> tuple[Figure, ...]:
    """The small multiples: a panel a run that was tracked."""
    looks = {run.name: spread(run.looks, MOST_LOOKS) for run in runs if run.looks}
    if not looks:
        return ()
    parts = [
        f"{name} {signed(rows[-1]['chosen_change'])} and {signed(rows[-1]['rejected_change'])}"
        for name, rows in looks.items()
    ]
    says = (
        f"Change of the mean chosen and of the mean rejected log-probability at the end, in nats: {'; '.join(parts)}."
    )
    chart, narrow = charts.small_multiples(looks), charts.small_multiples(looks, narrow=True)
    return (Figure("panels", "Chosen and rejected, run by run", chart, says, narrow=narrow),)


def headline(noun: str, arms: Sequence[Mapping[str, Any]]) -> str:
    """What the comparison shows, in a sentence: where the fewest pairs are displaced, among those that learned."""
    counts = counted(len(arms), noun)
    known = [arm for arm in arms if arm.get("displaced") is not None and arm.get("margin_change") is not None]
    if not known:
        return f"{counts}; none was looked at while it trained."
    learned = [arm for arm in known if arm["margin_change"] > 0]
    if not learned:
        return f"{counts}; the margin grew in none of them."
    best, worst = (pick(learned, key=_displacement) for pick in (min, max))
    share = f"{percent(best['displaced'])} of the probe pairs"
    grew = f"the margin grew by {nats(best['margin_change'])}"
    if len(learned) == 1:
        return f"{counts}; only in {best['arm']} {grew}, with {share} displaced."
    if best["displaced"] == worst["displaced"]:
        return f"{counts}; {share} are displaced in every {noun} that learned."
    least = [str(arm["arm"]) for arm in learned if arm["displaced"] == best["displaced"]]
    most = f"{worst['arm']} displaces {percent(worst['displaced'])}"
    if len(least) > 1:
        return f"Of {counts}, {_enumeration(least)} displace least, {share}; {most}."
    return f"Of {counts}, {least[0]} displaces least, {share}, while {grew}; {most}."


def _enumeration(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) <= MOST_NAMES else f"{len(names)} of them"


def _displacement(arm: Mapping[str, Any]) -> tuple[float, float]:
    return arm["displaced"], -arm["chosen_change"]


def arms_table(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table's rows: text, the number to sort by, and whether a value is the best of its column, for each cell."""
    best = {column.name: _best(column, arms) for column in COLUMNS}
    return [
        {
            **{name: arm.get(name) for name in ("arm", "loss", "steps", "pairs", "gained")},
            "cells": [
                {
                    "value": arm.get(column.name),
                    "text": shown_as(column.form)(arm.get(column.name)),
                    "best": arm.get(column.name) is not None and arm[column.name] == best[column.name],
                }
                for column in COLUMNS
            ],
        }
        for arm in arms
    ]


def _best(column: Column, arms: Sequence[Mapping[str, Any]]) -> float | None:
    """The best value of a column; None where no value is better than another."""
    values: list[float] = [arm[column.name] for arm in arms if arm.get(column.name) is not None]
    if not column.best or len(set(values)) < 2:
        return None
    return max(values) if column.best == "highest" else min(values)

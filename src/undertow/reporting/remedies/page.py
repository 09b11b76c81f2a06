"""Simulated arms side by side: which loss, which learning rate, which pairs to leave out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from undertow.errors import DataError
from undertow.files import write_atomically
from undertow.reporting.page import theme
from undertow.reporting.page.shell import Figure, render
from undertow.runs.names import SIMULATED_ARMS, SIMULATED_PAGE
from undertow.wording import remedies as words
from undertow.wording.numbers import nats_of, percent, shown_as
from undertow.wording.visible import shown

__all__ = ["figures", "report", "write_simulated"]

NAME = 40
"""Characters of an arm's name."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: where in a row its value stands, which end is better, how it is written."""

    path: tuple[str, ...]
    title: str
    best: str = ""
    form: str = "number"

    @property
    def name(self) -> str:
        """Its key on the page."""
        return ".".join(self.path)

    def of(self, row: Mapping[str, Any]) -> float | None:
        """Its value in a row."""
        found: Any = row
        for part in self.path:
            found = found.get(part) if found else None
        return found  # type: ignore[no-any-return]


COLUMNS = (
    Column(("equal", "displaced"), "displaced at equal margin", "lowest", "percent"),
    Column(("looked", "displaced"), "the same by a look", "lowest", "percent"),
    Column(("equal", "held_out_displaced"), "held-out at equal margin", "lowest", "percent"),
    Column(("looked", "held_out_displaced"), "the same by a look (held-out)", "lowest", "percent"),
    Column(("equal", "lr"), "its learning rate"),
    Column(("displaced",), "displaced", "lowest", "percent"),
    Column(("kept", "displaced"), "of those trained on", "", "percent"),
    Column(("left_out", "displaced"), "of those left out", "", "percent"),
    Column(("held_out", "displaced"), "of held-out pairs", "lowest", "percent"),
    Column(("chosen_change",), "chosen", "highest", "signed"),
    Column(("rejected_change",), "rejected", "", "signed"),
    Column(("margin_change",), "margin", "highest", "signed"),
    Column(("worst_tenth",), "worst tenth", "highest", "signed"),
    Column(("reward_accuracy",), "reward accuracy", "highest", "percent"),
    Column(("mean_loss",), "mean loss"),
)


def report(folder: str | Path) -> str:
    """The page of the arms that were simulated on a forecast.

    Raises:
        DataError: none were.
    """
    folder = Path(folder)
    summary = read_simulated(folder)
    rows = summary["arms"]
    columns = [column for column in COLUMNS if any(column.of(row) is not None for row in rows)]
    return render(
        "remedies.html.j2",
        title=f"Remedies: {folder.resolve().name}",
        figures=figures_of(summary),
        headline=words.best_says(summary),
        eyebrow=folder.resolve().name,
        margin=words.margin_says(summary),
        filters=words.filters_say(rows),
        counts=summary["counts"],
        assumed=summary["assumed"],
        data={
            "noun": "arm",
            "columns": [{"name": one.name, "label": one.title, "down": one.best != "lowest"} for one in columns],
            "rows": _table(rows, columns),
        },
    )


def figures(folder: str | Path) -> tuple[Figure, ...]:
    """The charts of that page.

    Raises:
        DataError: no arms were simulated.
    """
    return tuple(figures_of(read_simulated(Path(folder))))


def read_simulated(folder: Path) -> dict[str, Any]:
    """What ``simulated.json`` holds.

    Raises:
        DataError: it is not there, or is none of ours.
    """
    try:
        found: dict[str, Any] = json.loads((folder / SIMULATED_ARMS).read_text(encoding="utf-8"))
        found["arms"][0]["equal"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{folder} holds no simulated arms: give `undertow simulate {folder} --sweep common` first."
        ) from error
    return found


def write_simulated(folder: str | Path) -> Path:
    """Make the page, and write it beside the forecast's.

    Raises:
        DataError: no arms were simulated.
        OutputError: the page cannot be written.
    """
    path = Path(folder) / SIMULATED_PAGE
    page = report(folder)
    with write_atomically(path) as file:
        file.write(page.encode("utf-8"))
    return path


def figures_of(summary: Mapping[str, Any]) -> list[Figure]:
    """A dot an arm and kind of pairs, in the order of what they displace."""
    rows = [row for row in summary["arms"] if row["equal"] is not None]
    if not rows or not summary["counts"]:
        return []
    rows.sort(key=lambda row: (row["equal"]["displaced_everywhere"], row["arm"]))
    kinds = {"displaced": "all pairs", "held_out_displaced": "held-out pairs"}
    data = [
        {"arm": shown(row["arm"], NAME), "share": row["equal"][key], "of": kind, "chosen": row["equal"]["chosen"]}
        for row in rows
        for key, kind in kinds.items()
        if row["equal"].get(key) is not None
    ]
    used = [kind for kind in kinds.values() if any(one["of"] == kind for one in data)]
    chart = (
        alt.Chart({"values": data})
        .mark_point(filled=True, size=80, opacity=0.9)
        .encode(
            x=alt.X("share:Q", title="displaced at an equal margin gain", axis=alt.Axis(format="%", tickCount=8)),
            y=alt.Y("arm:N", sort=[shown(row["arm"], NAME) for row in rows], title=None),
            color=alt.Color("of:N", title=None, scale=alt.Scale(domain=used, range=[theme.REJECTED, theme.CHOSEN])),
            shape=alt.Shape("of:N", title=None, scale=alt.Scale(domain=used, range=["circle", "diamond"])),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("of:N"),
                alt.Tooltip("share:Q", format=".1%", title="displaced"),
                alt.Tooltip("chosen:Q", format="+.2f", title="mean change of chosen (nats)"),
            ],
        )
        .properties(width="container", height=alt.Step(17))
    )
    least, most = rows[0], rows[-1]
    says = (
        f"Share displaced where each run's margin gains {nats_of(summary['equal_margin'])} nats, least first: from "
        f"{percent(least['equal']['displaced'])} ({shown(least['arm'], NAME)}) to "
        f"{percent(most['equal']['displaced'])} ({shown(most['arm'], NAME)}) of all pairs."
    )
    return [Figure("arms-shares", "What each arm displaces", chart, says)]


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[list[Any]]:
    """Rows for the page's script: the values to sort by, in the order of the columns; then how these are shown."""
    best = {column.name: _best(column, rows) for column in columns}
    found = []
    for row in rows:
        values = [column.of(row) for column in columns]
        cells = [
            {"text": shown_as(column.form)(value), "best": value is not None and value == best[column.name]}
            for column, value in zip(columns, values, strict=True)
        ]
        named = [shown(row["arm"], NAME), shown(str(row["loss"])), row["steps"], row["pairs"]]
        found.append([*named, *values, cells])
    return found


def _best(column: Column, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The best value of a column; None where no value is better than another."""
    values = [value for row in rows if (value := column.of(row)) is not None]
    if not column.best or len(set(values)) < 2:
        return None
    return max(values) if column.best == "highest" else min(values)

"""Many training runs on a forecast's stored features, side by side: ``undertow simulate --sweep``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from undertow.errors import OptionError
from undertow.files import without_nonfinite, write_json
from undertow.forecasting.outcome import means_record, outcome_of
from undertow.forecasting.settings import not_simulated
from undertow.forecasting.simulation import CurvePoint, Simulation, Study, simulated
from undertow.forecasting.stored import Stored, planned, read_stored
from undertow.runs.names import SIMULATED_ARMS
from undertow.runs.progress import Silent, Watcher
from undertow.runs.recipes import Arm, Entry, read_arms
from undertow.training.settings import typed_options
from undertow.training.sweep import about_arm

__all__ = ["AS_FORECAST", "COMMON", "best_arm", "simulate_sweep"]

COMMON = "common"
"""In place of a file: the arms that people ask for most, which come with Undertow."""
AS_FORECAST = "(as forecast)"
"""The arm that differs in nothing."""
ENOUGH = 0.75
"""The share of the forecast's own margin gain that arms are compared at: one that learns less is no remedy."""
_TENTH = 10
_TIMES = re.compile(r"x\s*(\d+|\d*\.\d+|\d+\.\d*)")
_MULTIPLIED = ("lr", "epochs")


def simulate_sweep(
    folder: str | Path, file: str | Path, *, watch: Watcher | None = None, **options: Any
) -> dict[str, Any]:
    """Simulate every arm of a file, and compare them; the table is kept beside the forecast.

    Args:
        folder: of the forecast.
        file: arms as of ``undertow train --sweep``; or ``common``. ``lr`` and ``epochs`` may also be given as a multiple
            of the forecast's: ``x0.5``.
        watch: told of the progress.
        **options: in which all arms differ from the forecast's run, by name.

    Returns:
        ``arms``, a row each, the forecast's own run first; ``equal_margin``, the margin gain in nats that they are
        compared at; ``best``, the name of the arm that displaces least there.

    Raises:
        DataError: no finished forecast stands there.
        OptionError: the file is none, or an arm needs other features; the message names it.
    """
    watch = watch or Silent()
    path = Path(__file__).with_name("common.yaml") if str(file) == COMMON and not Path(COMMON).exists() else Path(file)
    stored = read_stored(folder)
    arms = {AS_FORECAST: {}, **read_arms(path)}
    plans = {}
    for name, arm in arms.items():  # all are looked at before the first is simulated
        with about_arm("" if name == AS_FORECAST else name):
            mine, rules = _options(arm, stored.options)
            plans[name] = planned(stored, folder, {**options, **mine}, rules)
    watch.phase("simulating the arms", pairs=len(plans))
    found = {}
    everyone = np.arange(stored.study.pairs)
    for name, (settings, kept) in plans.items():
        found[name] = simulated(
            stored.study,
            settings.train,
            kept,
            order=settings.order,
            orders=settings.orders,
            world_size=settings.world_size,
            counted=everyone,
        )
        watch.advance(pairs=1)
    target = ENOUGH * _gain(found[AS_FORECAST].curve[-1])
    rows = []
    for name, (settings, kept) in plans.items():
        what = {
            "arm": name,
            "loss": settings.train.record()["loss"],
            "lr": settings.train.lr,
            "epochs": settings.train.epochs,
            "filter": _rules(arms[name]),
        }
        rows.append(what | _row(stored.study, found[name], kept, target, settings.train.seed, settings.protect))
    told = {
        "counts": stored.study.curvature is not None,
        "data": stored.summary["data"],
        "assumed": not_simulated(plans[AS_FORECAST][0].train),
        "equal_margin": target,
        "best": best_arm(rows),
        "arms": rows,
    }
    summary: Any = without_nonfinite(told)
    write_json(Path(folder) / SIMULATED_ARMS, summary)
    return dict(summary)


def best_arm(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The arm with the fewest displaced at an equal margin gain, of all pairs and of held-out ones; of equal ones that
    whose chosen responses gain most. None where no arm gets so far.

    Args:
        rows: as :func:`simulate_sweep` gives them.
    """
    able = [row for row in rows if row["equal"] is not None]
    if not able:
        return None
    return str(min(able, key=lambda row: (row["equal"]["displaced_everywhere"], -row["equal"]["chosen"]))["arm"])


def _options(arm: Arm, there: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """An arm's options, and its rules of filtering."""
    entries = dict(arm)
    for name in _MULTIPLIED:
        entry = entries.get(name)
        if entry is not None and isinstance(entry.value, str) and (times := _TIMES.fullmatch(entry.value.strip())):
            entries[name] = replace(entry, value=float(times[1]) * there[name])
    found = typed_options(entries)
    return found, tuple(found.pop("filter", ()))


def _rules(arm: Arm) -> list[str]:
    given = arm.get("filter", Entry((), "")).value
    return [given] if isinstance(given, str) else list(given)


def _row(
    study: Study, found: Simulation, kept: Iterable[int], target: float, seed: int, protect: Any
) -> dict[str, Any]:
    """An arm's numbers, as JSON values: of all pairs, and of the kept, the left-out and the held-out apart."""
    outcome = outcome_of(study, found, protect=protect)
    inside = np.isin(study.sample, np.asarray(list(kept)))
    last = found.curve[-1]

    def means(some: np.ndarray) -> dict[str, Any]:
        record = means_record(outcome.chosen, outcome.rejected, outcome.displaced, some, seed)
        return {**record, "displaced": record["displaced"]["value"]}

    groups = {"all": np.ones(len(inside), dtype=bool), "kept": inside, "left_out": ~inside}
    records = {name: means(some) for name, some in groups.items()}
    if study.held_out:
        held = found.changes[2 * len(study.sample) : study.paired_rows].view(-1, 2)
        below = found.below[2 * len(study.sample) : study.paired_rows].view(-1, 2)[:, 0]
        record = means_record(held[:, 0], held[:, 1], below, np.ones(len(held), dtype=bool), seed)
        records["held_out"] = {**record, "displaced": record["displaced"]["value"]}
    return {
        "steps": found.steps,
        "pairs": len(list(kept)),
        "displaced": records["all"]["displaced"],
        "chosen_change": records["all"]["chosen"],
        "rejected_change": records["all"]["rejected"],
        "margin_change": _gain(last),
        "worst_tenth": _worst_tenth(outcome.chosen),
        "reward_accuracy": last.accuracy,
        "mean_loss": found.loss,
        **records,
        "equal": _at_margin(study, found.curve, target),
    }


def _worst_tenth(changes: Tensor) -> float:
    """The mean change of the tenth of chosen responses that lose most, in nats; of at least one."""
    ordered = changes.sort().values
    return float(ordered[: max(len(ordered) // _TENTH, 1)].mean())


def _gain(point: CurvePoint) -> float:
    return point.chosen - point.rejected


def _at_margin(study: Study, curve: Sequence[CurvePoint], target: float) -> dict[str, float] | None:
    """Where the mean margin of all pairs has first gained so much: between two points of the curve, on a line.

    None where it never has, or where the target is nothing to gain.
    """
    if not target > 0:
        return None
    n, h = len(study.sample), study.held_out
    before: dict[str, float] = dict.fromkeys(("step", "displaced", "chosen", "rejected"), 0.0)
    held_before, gain_before = dict.fromkeys(("displaced", "chosen", "rejected"), 0.0), 0.0
    for point in curve:
        now = {name: float(getattr(point, name)) for name in before}
        held, gain = point.held_out, _gain(point)
        if gain >= target:
            part = (target - gain_before) / (gain - gain_before)
            found = {name: value + part * (now[name] - value) for name, value in before.items()}
            found["displaced_everywhere"] = found["displaced"]
            if held:
                some = {name: value + part * (held[name] - value) for name, value in held_before.items()}
                found |= {f"held_out_{name}": value for name, value in some.items()}
                found["displaced_everywhere"] = (n * found["displaced"] + h * some["displaced"]) / (n + h)
            return found
        before, gain_before = now, gain
        held_before = {name: held[name] for name in held_before} if held else held_before
    return None

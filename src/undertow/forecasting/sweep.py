"""Many training runs on a forecast's stored features, side by side: ``undertow simulate --sweep``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from undertow.errors import OptionError
from undertow.files import without_nonfinite, write_json
from undertow.forecasting.outcome import held_out_record, means_record, outcome_of
from undertow.forecasting.settings import ForecastSettings, not_simulated
from undertow.forecasting.simulation import CurvePoint, Simulation, Study, simulated
from undertow.forecasting.stored import planned, read_stored
from undertow.runs.names import SIMULATED_ARMS
from undertow.runs.progress import Silent, Watcher
from undertow.runs.recipes import Arm, Entry, read_arms
from undertow.training.settings import typed_options
from undertow.training.sweep import about_arm

__all__ = ["AS_FORECAST", "COMMON", "arm_numbers", "best_arm", "simulate_sweep", "simulated_arm"]

COMMON = "common"
"""In place of a file: the arms that people ask for most, which come with Undertow."""
AS_FORECAST = "(as forecast)"
"""The arm that differs in nothing."""
_LOWEST, _HIGHEST = 1 / 8, 2
"""Of an arm's learning rate, the least and the greatest multiple at which it is compared."""
_TRIES, _CLOSE = 12, 0.02
_TENTH = 10
_TIMES = re.compile(r"x\s*(\d+|\d*\.\d+|\d+\.\d*)")
_MULTIPLIED = ("lr", "epochs")


def simulate_sweep(
    folder: str | Path, file: str | Path, *, look: int = 0, watch: Watcher | None = None, **options: Any
) -> dict[str, Any]:
    """Simulate every arm of a file, and compare them; the table is kept beside the forecast.

    Args:
        folder: of the forecast.
        file: arms as of ``undertow train --sweep``; or ``common``. ``lr`` and ``epochs`` may also be given as a
            multiple of the forecast's: ``x0.5``.
        look: so many of the arms that displace least at an equal margin gain are looked at, each where its own run
            ends, with the model; the best is then one of these.
        watch: told of the progress.
        **options: in which all arms differ from the forecast's run, by name.

    Returns:
        ``arms``, a row each, the forecast's own run first; ``equal_margin``, the margin gain in nats of that run; each
        arm's ``equal``, what it does at the learning rate that gives as much, and ``looked``, the same by a look;
        ``best``, the arm that displaces least there.

    Raises:
        DataError: no finished forecast stands there.
        OptionError: the file is none, or an arm needs other features; the message names it.
    """
    watch = watch or Silent()
    common = str(file) == COMMON and not Path(COMMON).exists()
    stored = read_stored(folder)
    arms: dict[str, Arm] = {AS_FORECAST: {}}
    arms |= read_arms(Path(__file__).with_name("common.yaml") if common else file)
    plans, skipped = {}, []
    for name, arm in arms.items():  # all are looked at before the first is simulated
        try:
            with about_arm("" if name == AS_FORECAST else name):
                mine, rules = _options(arm, stored.options)
                plans[name] = planned(stored, folder, {**options, **mine}, rules)
        except OptionError:
            if not common or name == AS_FORECAST:
                raise
            skipped.append(name)  # a question that these scores do not answer; nobody asked it by name
    if skipped:
        watch.note(
            f"Not asked, as the scores of {folder} do not tell (they come with --level unembedding): "
            f"{', '.join(skipped)}."
        )
    watch.phase("simulating the arms", pairs=len(plans))
    rows, target, compared = [], 0.0, {}
    for name, (settings, kept) in plans.items():
        study = stored.study_of(settings.train, kept, order=settings.order, world_size=settings.world_size)
        found = simulated_arm(study, settings, kept)
        target = target or _gain(found.curve[-1])  # of the first, which is the forecast's own run
        equal = _at_equal_margin(study, settings, kept, found, target)
        if equal is not None and name != AS_FORECAST:
            compared[name] = (study, settings, kept, *equal)
        rows.append(_named(name, arms[name], settings) | arm_numbers(study, found, kept, settings, equal))
        watch.advance(pairs=1)
    if look and compared:
        _look_at(rows, compared, folder, look, watch)
    told = {
        "counts": stored.study.curvature is not None,
        "data": stored.summary["data"],
        "assumed": not_simulated(plans[AS_FORECAST][0].train),
        "equal_margin": target,
        "best": best_arm(rows),
        "arms": rows,
        "skipped": skipped,
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
    able = _in_order(rows)
    if any(row.get("looked") for row in rows):
        able = [row for row in able if row.get("looked") or row["arm"] == AS_FORECAST]
    return str(able[0]["arm"]) if able else None


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The arms that can be compared, the one that displaces least first; by a look where one was taken."""
    there = [(row.get("looked") or row["equal"], row) for row in rows if row["equal"] is not None]
    there.sort(key=lambda one: (one[0]["displaced_everywhere"], -one[0]["chosen"]))
    return [row for _, row in there]


def _look_at(
    rows: Sequence[dict[str, Any]],
    compared: Mapping[str, tuple[Study, ForecastSettings, NDArray[np.int64], float, Simulation]],
    folder: str | Path,
    count: int,
    watch: Watcher,
) -> None:
    """Adds ``looked`` to the rows of the first arms: what they do at the same learning rates, with the curvature that a
    look at the end of the arm's own run tells."""
    from undertow.forecasting.forecast import looking

    by_name = {row["arm"]: row for row in rows}
    first = [str(row["arm"]) for row in _in_order(rows) if row["arm"] in compared][:count]
    with looking(folder, watch=watch) as look:
        for name in first:
            study, settings, kept, lr, found = compared[name]
            seen = look(study, found, kept)
            if seen is None:
                continue  # it was said why
            curved, size = seen
            there = replace(settings, train=replace(settings.train, lr=lr))
            again = simulated_arm(curved, there, kept)
            by_name[name]["looked"] = _equal(curved, lr, again) | {
                "size": size,
                "margin_change": _gain(again.curve[-1]),
            }


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


def simulated_arm(study: Study, settings: ForecastSettings, kept: NDArray[np.int64]) -> Simulation:
    """An arm's run; the curve is of all pairs, so that arms which leave some out can be compared."""
    return simulated(
        study,
        settings.train,
        kept,
        order=settings.order,
        orders=settings.orders,
        world_size=settings.world_size,
        counted=np.arange(study.pairs),
    )


def _named(name: str, arm: Arm, settings: ForecastSettings) -> dict[str, Any]:
    train = settings.train
    return {
        "arm": name,
        "loss": train.record()["loss"],
        "lr": train.lr,
        "epochs": train.epochs,
        "filter": _rules(arm),
    }


def arm_numbers(
    study: Study,
    found: Simulation,
    kept: NDArray[np.int64],
    settings: ForecastSettings,
    equal: tuple[float, Simulation] | None = None,
) -> dict[str, Any]:
    """An arm's numbers, as JSON values: of all pairs, and of the kept, the left-out and the held-out apart.

    Args:
        study: what was simulated on.
        found: the arm's run.
        kept: the numbers of the pairs that it trains on.
        settings: of it.
        equal: at which learning rate its margin gain is that of the others, and that run.
    """
    n, seed = len(study.sample), settings.train.seed
    outcome = outcome_of(study, found, protect=settings.protect)
    inside = np.isin(study.sample, kept)
    groups = {"all": np.ones(n, dtype=bool), "kept": inside, "left_out": ~inside}
    records = {
        name: _share(means_record(outcome.chosen, outcome.rejected, outcome.displaced, some, seed))
        for name, some in groups.items()
    }
    if study.held_out:
        records["held_out"] = _share(held_out_record(study, found, seed))
    last = found.curve[-1]
    return {
        "steps": found.steps,
        "pairs": len(kept),
        "displaced": records["all"]["displaced"],
        "chosen_change": records["all"]["chosen"],
        "rejected_change": records["all"]["rejected"],
        "margin_change": _gain(last),
        "worst_tenth": _worst_tenth(outcome.chosen),
        "reward_accuracy": last.accuracy,
        "mean_loss": found.loss,
        **records,
        "equal": None if equal is None else _equal(study, *equal),
    }


def _share(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "displaced": record["displaced"]["value"]}


def _equal(study: Study, lr: float, found: Simulation) -> dict[str, float]:
    """The numbers of an arm at the learning rate that gives the margin gain all are compared at."""
    last, n, h = found.curve[-1], len(study.sample), study.held_out
    numbers = {"lr": lr, "displaced": last.displaced, "chosen": last.chosen, "rejected": last.rejected}
    numbers["displaced_everywhere"] = last.displaced
    if h:
        numbers |= {f"held_out_{name}": last.held_out[name] for name in ("displaced", "chosen", "rejected")}
        numbers["displaced_everywhere"] = (n * last.displaced + h * last.held_out["displaced"]) / (n + h)
    return numbers


def _at_equal_margin(
    study: Study, settings: ForecastSettings, kept: NDArray[np.int64], found: Simulation, target: float
) -> tuple[float, Simulation] | None:
    """The learning rate at which the run's margin gain over all pairs is the target, and that run.

    None where the target is nothing to gain, or where it takes a rate that is too far from what was looked at.
    """
    if not target > 0:
        return None
    given = settings.train.lr
    low, high, at = given * _LOWEST, given * _HIGHEST, given
    for _ in range(_TRIES):
        gain = _gain(found.curve[-1])
        if abs(gain - target) <= _CLOSE * target:
            return at, found
        # More learning gives more margin, about in proportion.
        low, high = (at, high) if gain < target else (low, at)
        guess = at * target / gain if gain > 0 else (low * high) ** 0.5
        at = min(max(guess, low), high) if low < guess < high else (low * high) ** 0.5
        found = simulated_arm(study, replace(settings, train=replace(settings.train, lr=at)), kept)
    return None


def _worst_tenth(changes: Tensor) -> float:
    """The mean change of the tenth of chosen responses that lose most, in nats; of at least one."""
    ordered = changes.sort().values
    return float(ordered[: max(len(ordered) // _TENTH, 1)].mean())


def _gain(point: CurvePoint) -> float:
    return point.chosen - point.rejected

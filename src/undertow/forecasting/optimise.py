"""Which pairs to leave out, chosen by simulation: greedily, with the run simulated anew as pairs go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.errors import OptionError
from undertow.filtering.filter import FilterSummary, filter_file
from undertow.filtering.selection import Selector
from undertow.forecasting.settings import ForecastSettings
from undertow.forecasting.simulation import Simulation, Study, simulate_order
from undertow.forecasting.stored import Stored, planned, read_stored
from undertow.maths.linearised import pushes
from undertow.runs.progress import Silent, Watcher
from undertow.scoring.columns import PUSH, RANDOM
from undertow.scoring.shards import read_scores

__all__ = ["Choice", "Objective", "choose_dropped", "optimised_filter"]

Objective = Literal["displaced", "chosen"]
"""What is made better: fewer chosen responses that end lower, or more probability for all of them on average."""
OPTIMISED = "optimised"
"""The column that a filter then drops by: when a pair was chosen to be left out, from 1; 0 where it stays."""
ROUNDS, ORDERS = 10, 8
_SOFT = 0.5
"""Of the median change: a response within so much of zero counts as one that can be mended or lost."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Pairs to leave out.

    Attributes:
        dropped: their numbers in the data, in the order in which they were chosen.
        method: ``optimised``, or ``push`` where leaving out the lowest of that is foretold to do better.
        found: what leaving out is foretold to do, by method: ``none``, ``random``, ``push`` and ``optimised``; each the
            share displaced and the mean change of the chosen responses, of all and of held-out pairs, trained on or
            not.
    """

    dropped: NDArray[np.int64]
    method: str
    found: dict[str, dict[str, float]]


def choose_dropped(
    folder: str | Path, drop: str, objective: str = "displaced", *, watch: Watcher | None = None
) -> Choice:
    """The pairs whose leaving out makes all pairs fare best, those left out and held-out ones among them.

    A tenth of the number at a time: the run is simulated without those that are out already, each pair's pushes on all
    chosen responses are weighed by how much that response counts, the lowest go. What a pair gives its own response is
    in its push, as it loses that. Means are over eight random orders: leaving pairs out draws another one.

    Args:
        folder: of a forecast in which all pairs have features.
        drop: a share of the pairs as ``10%``, or a number.
        objective: ``displaced`` or ``chosen``.
        watch: told of the progress.

    Raises:
        DataError: no finished forecast stands there.
        OptionError: an option cannot be used, or the forecast is one of a sample.
    """
    if objective not in get_args(Objective):
        raise OptionError(f"--optimise {objective}: expected one of {', '.join(get_args(Objective))}.")
    stored, watch = read_stored(folder), watch or Silent()
    if not stored.study.complete:
        raise OptionError(
            f"--optimise: only {len(stored.study.sample):,} of the {stored.study.pairs:,} pairs have features in "
            f"{folder}. Forecast with --sample 0, or leave out by a column that all pairs have: --by {PUSH}."
        )
    settings, kept = planned(stored, folder, {}, ())
    study = stored.study.elsewhere()  # of orders that were not looked at
    count = _count(drop, len(kept))
    watch.phase("choosing what to leave out", pairs=count)
    dropped: list[int] = []
    for some in np.array_split(np.arange(count), min(ROUNDS, count)):
        staying = np.setdiff1d(kept, dropped)
        found = _simulated(study, settings, staying)
        harm = torch.stack([_weighed(study, one, objective) for one in found]).mean(0).numpy()
        dropped += staying[np.argsort(harm[staying], kind="stable")[: len(some)]].tolist()
        watch.advance(pairs=len(some))
    ways = {"none": [], "random": _lowest(stored, RANDOM, kept, count), "push": _lowest(stored, PUSH, kept, count)}
    ways |= {"optimised": dropped}
    told = {name: _told(study, settings, np.setdiff1d(kept, out)) for name, out in ways.items()}
    key, sign = ("displaced_everywhere", 1) if objective == "displaced" else ("chosen_everywhere", -1)
    method = min(("optimised", "push"), key=lambda name: sign * told[name][key])
    return Choice(np.asarray(ways[method], dtype=np.int64), method, told)


def optimised_filter(
    data: str | Path,
    scores: str | Path,
    out: str | Path,
    *,
    drop: str,
    objective: str = "displaced",
    watch: Watcher | None = None,
    **reading: Any,
) -> tuple[FilterSummary, Choice]:
    """Write the rows of a data set that stay, as ``undertow filter --optimise`` does.

    Args:
        data: as of :func:`~undertow.filtering.filter.filter_file`.
        scores: the folder of a forecast.
        out: the file.
        drop: a share of the pairs as ``10%``, or a number.
        objective: ``displaced`` or ``chosen``.
        watch: told of the progress.
        **reading: how the data are read, and ``decisions``.

    Raises:
        InputError: the data, the forecast, an option or the output cannot be used.
    """
    choice = choose_dropped(scores, drop, objective, watch=watch)
    table = read_scores(scores)
    rank = np.zeros(len(table))
    rank[choice.dropped] = np.arange(1, len(choice.dropped) + 1)
    table = table.append_column(OPTIMISED, pa.array(rank))
    selectors = [Selector("drop-above", 0.0)]
    return filter_file(data, scores, out, by=OPTIMISED, selectors=selectors, table=table, **reading), choice


def _count(drop: str, pairs: int) -> int:
    amount = Selector.parse("drop-lowest", drop).value
    count = int(amount * pairs) if isinstance(amount, float) else amount
    if not 0 < count < pairs:
        raise OptionError(f"--drop {drop}: of {pairs:,} pairs that leaves out {count:,}; at least one, and not all.")
    return count


def _simulated(study: Study, settings: ForecastSettings, kept: NDArray[np.int64], first: int = 0) -> list[Simulation]:
    train = settings.train
    return [
        simulate_order(study, train, kept, order="unknown", world_size=settings.world_size, seed=first + seed)
        for seed in range(ORDERS)
    ]


def _weighed(study: Study, found: Simulation, objective: str) -> Tensor:
    """What training on each pair adds to the objective, ``[n]``, in nats of a response that counts: below zero, it is
    better without."""
    n = len(study.sample)
    rows = torch.arange(0, study.paired_rows, 2)  # all chosen responses, trained on, left out or held out
    changes = found.changes[rows]
    if objective == "displaced":
        # How probable it is that a response ends lower falls fastest near zero: the density of a normal error.
        scale = _SOFT * float(changes.abs().median()) or 1.0
        weights = torch.exp(-0.5 * (changes / scale).square())
    else:
        weights = torch.ones_like(changes)
    blocks = study.products.blocks(n, 0, study.acting)
    return pushes(
        study.products, found.coefficients, rows, blocks=blocks, weights=weights, own=True, acting=study.acting
    )


def _lowest(stored: Stored, column: str, kept: NDArray[np.int64], count: int) -> list[int]:
    values = stored.table[column].to_numpy(zero_copy_only=False)[kept]
    found: list[int] = kept[np.argsort(values, kind="stable")[:count]].tolist()
    return found


def _told(study: Study, settings: ForecastSettings, kept: NDArray[np.int64]) -> dict[str, float]:
    """Of all and of held-out pairs, over other orders than those that were chosen by."""
    found = _simulated(study, settings, kept, first=ORDERS)
    rows = torch.arange(0, study.paired_rows, 2)
    below = torch.stack([one.below[rows] for one in found]).mean(0)
    changes = torch.stack([one.changes[rows] for one in found]).mean(0)
    n = len(study.sample)
    told = {"displaced": below[:n], "chosen": changes[:n], "displaced_everywhere": below, "chosen_everywhere": changes}
    if study.held_out:
        told |= {"held_out_displaced": below[n:], "held_out_chosen": changes[n:]}
    return {name: float(values.mean()) for name, values in told.items()}

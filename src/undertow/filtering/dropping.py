"""What stays of a data set when a growing share of its pairs is left out by a score: for every share of a grid.

The counts are those of ``undertow filter``: the same order, the same rounding of a share to whole rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undertow.filtering.filter import LENGTHS
from undertow.filtering.selection import Kind, Selector, ranked
from undertow.filtering.what_if import CHANGES, PREDICTORS

__all__ = ["MEASURES", "PERCENTS", "Dropping", "Groups", "dropping", "falls"]

Mask: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]

PERCENTS = tuple(f"{half / 2:g}" for half in range(121))
"""0, 0.5, 1, …, 60 percent, as they are typed."""

MEASURES = (*CHANGES, "pull")
"""By which change a chosen response counts as falling: its own pair's step, the same with free hidden embeddings, or
the whole data set's gradient."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Pairs by the values of a column: ``labels``, and of each pair the label's index, ``[pairs]``."""

    labels: Sequence[str]
    index: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Dropping:
    """Pairs left out by a score, for every share of the grid; counts are ``[shares]``.

    Attributes:
        by: the score.
        kind: the filter's option, ``drop-highest`` or ``drop-lowest``.
        dropped: pairs left out.
        kept_tokens: tokens of prompts and responses that stay.
        falling: of the pairs that stay, how many chosen responses fall, by measure.
        thresholds: the score of the last pair left out; NaN where none is.
        by_group: of the pairs left out, how many are of each label, ``[shares, labels]``, by column.
    """

    by: str
    kind: Kind
    dropped: Counts
    kept_tokens: Counts
    falling: Mapping[str, Counts]
    thresholds: NDArray[np.float64]
    by_group: Mapping[str, Counts]


def falls(table: pa.Table) -> dict[str, Mask]:
    """Whose chosen response falls, to first order, ``[pairs]`` by measure; only those that the scores tell of."""
    found = {name: table[change].to_numpy() < 0 for name, change in CHANGES.items() if change in table.column_names}
    if "pull_own" in table.column_names:
        found["pull"] = table["pull_own"].to_numpy() + table["pull_others"].to_numpy() < 0
    return found


def dropping(
    table: pa.Table, by: str, groups: Mapping[str, Groups] | None = None, percents: Sequence[str] = PERCENTS
) -> Dropping:
    """What leaving pairs out by a score would leave, for every share.

    Args:
        table: scores, in the order of ``row``.
        by: a score of :data:`~undertow.filtering.what_if.PREDICTORS`, whose displacing end goes first.
        groups: columns of the data by which the pairs left out are counted.
        percents: shares of pairs, as they are typed.
    """
    kind: Kind = "drop-highest" if PREDICTORS[by] == "highest" else "drop-lowest"
    scores = np.asarray(table[by].to_numpy(), dtype=np.float64)
    order = ranked(scores)
    first = order[::-1] if kind == "drop-highest" else order
    counts = np.array([Selector.parse(kind, f"{percent}%").count(len(order)) for percent in percents], dtype=np.int64)
    tokens = sum((table[name].to_numpy().astype(np.int64) for name in LENGTHS), np.zeros(len(table), np.int64))
    last = scores[first[np.maximum(counts - 1, 0)]] if len(first) else np.full(len(counts), np.nan)
    return Dropping(
        by=by,
        kind=kind,
        dropped=counts,
        kept_tokens=tokens.sum() - _upto(tokens[first], counts),
        falling={name: mask.sum() - _upto(mask[first], counts) for name, mask in falls(table).items()},
        thresholds=np.where(counts > 0, last, np.nan),
        by_group={name: _labels(group, first, counts) for name, group in (groups or {}).items()},
    )


def _upto(values: NDArray[Any], counts: Counts) -> Counts:
    """The sums of the first so many values."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[counts]


def _labels(group: Groups, first: NDArray[np.intp], counts: Counts) -> Counts:
    index = group.index[first]
    return np.stack([_upto(index == label, counts) for label in range(len(group.labels))], axis=1)

"""What if the most displacing pairs were left out: how many of those that stay would still be displaced.

From a table alone. A pair counts as displaced when a first-order change of its chosen response's log-probability is
below zero: that of a step on this pair (``own``), the same with the hidden embeddings free (``free``), or that of the
gradient of all pairs (``pull``). Leaving out other pairs changes neither of the first two, so no further forward pass
is needed. It does change the pull: what is said of it is said of the gradient of the whole data set.

The counts are those of ``undertow filter``: the same order, the same rounding of a share to whole rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undertow.errors import OptionError
from undertow.filtering.selection import Kind, Selector, ranked
from undertow.scoring.columns import PREDICTORS, PULL, numbers_of, tokens_of

__all__ = [
    "CHANGES",
    "MEASURES",
    "PERCENTS",
    "SHARES",
    "Dropping",
    "Groups",
    "best_predictor",
    "curves",
    "displaced",
    "dropping",
    "falling",
    "falls",
    "what_if",
]

Mask: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]

CHANGES = {"own": "dlogp_chosen", "free": "free_dlogp_chosen"}
"""Changes that leaving out other pairs does not change."""
MEASURES = {**CHANGES, "pull": PULL}
"""By which change a chosen response counts as falling."""
SHARES = tuple(q / 100 for q in range(0, 51, 5))
PERCENTS = tuple(f"{half / 2:g}" for half in range(121))
"""0, 0.5, 1, …, 60 percent, as they are typed."""


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


def best_predictor(columns: Iterable[str]) -> str:
    """The score to rank pairs by, of those that a table has: the one recommendation, for pages, terminal and docs."""
    there = set(columns)
    return next(name for name in PREDICTORS if name in there)


def falling(change: NDArray[np.floating]) -> Mask:
    """Which log-probabilities fall: a change below zero. One that is not known (NaN) does not count as a fall."""
    return np.asarray(change < 0)


def falls(table: pa.Table) -> dict[str, Mask]:
    """Whose chosen response falls, to first order, ``[pairs]`` by measure; only those that the scores tell of."""
    there = set(table.column_names)
    return {name: falling(numbers_of(table, column)) for name, column in MEASURES.items() if column in there}


def displaced(table: pa.Table) -> dict[str, int]:
    """How many chosen responses fall, by measure."""
    return {name: int(mask.sum()) for name, mask in falls(table).items()}


def what_if(table: pa.Table, by: str, *, change: str = "dlogp_chosen", shares: Iterable[float] = SHARES) -> list[float]:
    """The predicted share of displaced pairs among those that stay, for every share left out.

    Args:
        table: scores of level ``unembedding``.
        by: the score to leave pairs out by: one of :data:`PREDICTORS`, whose displacing end goes first.
        change: the first-order change that decides, ``dlogp_chosen`` or ``free_dlogp_chosen``.
        shares: the shares of pairs left out, each in [0, 1].

    Returns:
        One number for every share, in [0, 1]; NaN where no pair stays. Pairs whose change is NaN count as pairs that
        stay, not as displaced.

    Raises:
        OptionError: a score that is no predictor, or a column that the table does not have.
    """
    if by not in PREDICTORS:
        raise OptionError(f"by={by!r}: expected one of {', '.join(PREDICTORS)}.")
    for column in (by, change):
        if column not in table.column_names:
            raise OptionError(f"these scores have no column {column}; it comes with --level unembedding.")
    kind = _kind(by)
    first = _displacing_first(table, by)
    counts = _counts(len(first), [Selector(kind, float(share)) for share in shares])
    fall = falling(numbers_of(table, change))
    still, stay = _left(fall, first, counts), len(table) - counts
    return [float(n / of) if of else float("nan") for n, of in zip(still, stay, strict=True)]


def curves(table: pa.Table) -> dict[str, object]:
    """All curves of a table, for ``audit.json``."""
    there = [by for by in PREDICTORS if by in table.column_names]
    found = {name: {by: what_if(table, by, change=change) for by in there} for name, change in CHANGES.items()}
    return {"shares": list(SHARES), **found}


def dropping(
    table: pa.Table, by: str, groups: Mapping[str, Groups] | None = None, percents: Sequence[str] = PERCENTS
) -> Dropping:
    """What leaving pairs out by a score would leave, for every share.

    Args:
        table: scores, in the order of ``row``.
        by: a score of :data:`PREDICTORS`, whose displacing end goes first.
        groups: columns of the data by which the pairs left out are counted.
        percents: shares of pairs, as they are typed.
    """
    kind = _kind(by)
    first, scores = _displacing_first(table, by), numbers_of(table, by)
    counts = _counts(len(first), [Selector.parse(kind, f"{percent}%") for percent in percents])
    last = scores[first[np.maximum(counts - 1, 0)]] if len(first) else np.full(len(counts), np.nan)
    return Dropping(
        by=by,
        kind=kind,
        dropped=counts,
        kept_tokens=_left(tokens_of(table), first, counts),
        falling={name: _left(mask, first, counts) for name, mask in falls(table).items()},
        thresholds=np.where(counts > 0, last, np.nan),
        by_group={name: _labels(group, first, counts) for name, group in (groups or {}).items()},
    )


def _kind(by: str) -> Kind:
    return "drop-highest" if PREDICTORS[by] == "highest" else "drop-lowest"


def _displacing_first(table: pa.Table, by: str) -> NDArray[np.intp]:
    """The pairs that have a score, in the order in which the filter's shares take them."""
    order = ranked(numbers_of(table, by))
    return order[::-1] if _kind(by) == "drop-highest" else order


def _counts(scored: int, selectors: Sequence[Selector]) -> Counts:
    return np.array([selector.count(scored) for selector in selectors], dtype=np.int64)


def _left(values: NDArray[Any], first: NDArray[np.intp], counts: Counts) -> Counts:
    """The sum over the pairs that stay when the first so many go."""
    left: Counts = values.sum(dtype=np.int64) - _upto(values[first], counts)
    return left


def _upto(values: NDArray[Any], counts: Counts) -> Counts:
    """The sums of the first so many values."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[counts]


def _labels(group: Groups, first: NDArray[np.intp], counts: Counts) -> Counts:
    index = group.index[first]
    return np.stack([_upto(index == label, counts) for label in range(len(group.labels))], axis=1)

"""Pairs that repeat or contradict another pair of the same data, found by hashes: no text is kept in memory."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from undertow.data.pairs import Pair

Rows = NDArray[np.int64]
_NONE: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """Some rows, ascending, and the row that each of them points to."""

    rows: Rows = field(default_factory=lambda: _NONE)
    to: Rows = field(default_factory=lambda: _NONE)

    def of(self, rows: Rows) -> list[int | None]:
        """Where each of ``rows`` points to; None where nowhere."""
        if not len(self.rows):
            return [None] * len(rows)
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        found = self.rows[at] == rows
        return [int(to) if known else None for to, known in zip(self.to[at], found, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Repeats:
    """Which rows of a data set say again, or the opposite of, what another row says.

    ``duplicate_of`` points to the first row with the same prompt, chosen and rejected, from every later one;
    ``contradicts`` to the first row, earlier or later, with the same prompt and the two exchanged.
    """

    duplicate_of: Links = field(default_factory=Links)
    contradicts: Links = field(default_factory=Links)


class PairHashes:
    """The pairs of a data set as two hashes of 8 bytes each: of the pair, and of the pair with its responses exchanged.

    Two texts of a million have the same hash with a probability below 1e-7.
    """

    def __init__(self) -> None:
        self._rows, self._said, self._exchanged = array("q"), array("Q"), array("Q")

    def add(self, pair: Pair, pair_id: str) -> None:
        """Take note of a pair; ``pair_id`` is its own, which the caller knows already."""
        self._rows.append(pair.row)
        self._said.append(int(pair_id, 16))
        self._exchanged.append(int(exchanged(pair).pair_id, 16))

    def repeats(self) -> Repeats:
        """What repeats and what contradicts, among all pairs that were added, whatever their order."""
        rows = np.array(self._rows, np.int64)
        said, other = np.array(self._said, np.uint64), np.array(self._exchanged, np.uint64)
        order = np.argsort(rows, kind="stable")
        rows, said, other = rows[order], said[order], other[order]
        first = _first_with(said, said)
        opposite = _first_with(said, other)
        repeated = first < np.arange(len(rows))
        opposed = (opposite >= 0) & (said != other)
        return Repeats(
            Links(rows[repeated], rows[first[repeated]]),
            Links(rows[opposed], rows[opposite[opposed]]),
        )


def exchanged(pair: Pair) -> Pair:
    """The pair with chosen and rejected exchanged."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_extra=pair.rejected_extra,
        rejected_extra=pair.chosen_extra,
    )


def _first_with(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.intp]:
    """For each wanted key the first place where it stands in ``keys``; -1 where it stands nowhere."""
    if not len(keys):
        return np.empty(0, np.intp)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    at = np.minimum(np.searchsorted(ordered, wanted), len(keys) - 1)
    return np.where(ordered[at] == wanted, order[at], -1)

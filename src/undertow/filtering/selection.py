"""Which rows a filter keeps: pure functions over arrays of scores.

One total order serves all selectors: by score, and of equal scores the later row counts as the higher. A share of n
rows is rounded down to whole rows. A row whose score is NaN is neither high nor low: it is in no share's base,
``drop-*`` leaves it, ``keep-*`` does not take it. Infinite scores are ordinary extremes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undertow.errors import OptionError
from undertow.scoring.columns import CASES

ByScore = Literal["drop-highest", "drop-lowest", "keep-highest", "keep-lowest", "drop-above", "drop-below"]
ByCase = Literal["drop-case"]
ByLink = Literal["drop-duplicates", "drop-contradictions"]
Kind = ByScore | ByCase | ByLink
Mask: TypeAlias = NDArray[np.bool_]
Scores: TypeAlias = NDArray[np.float64]

SCORE_KINDS: tuple[Kind, ...] = get_args(ByScore)
"""Selectors that look at a score."""
LINKS: dict[Kind, str] = {"drop-duplicates": "duplicate_of", "drop-contradictions": "contradicts"}
"""Selectors that look at whether a pair points to another one, and in which column."""
KINDS: tuple[Kind, ...] = (*SCORE_KINDS, *get_args(ByCase), *LINKS)
_AMOUNT = re.compile(r"(\d+|\d*\.\d+|\d+\.\d*)\s*%")


@dataclass(frozen=True, slots=True)
class Selector:
    """One rule of a filter.

    Attributes:
        kind: the option's name without its dashes.
        value: for ``highest`` and ``lowest`` a share in [0, 1] as a float, or a number of rows as an int; for ``above``
            and ``below`` a threshold, which itself is kept; for ``drop-case`` the case, 0 to 4; True for
            ``drop-duplicates`` and ``drop-contradictions``.

    Raises:
        OptionError: on creation, for a kind that does not exist or a value out of its range.
    """

    kind: Kind
    value: float | int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"No selector {self.kind!r}: expected one of {', '.join(KINDS)}.")
        if expected := _expected(self.kind, self.value):
            raise OptionError(f"--{self.kind}: got {self.value!r}, expected {expected}.")

    @classmethod
    def parse(cls, kind: Kind, text: str) -> Selector:
        """What was typed on the command line: ``10%`` is a share of the rows, ``25`` a number of rows.

        Raises:
            OptionError: the text is neither.
        """
        text = text.strip()
        if not _is_amount(kind):
            value = _number(kind, text)
        elif share := _AMOUNT.fullmatch(text):
            value = float(Decimal(share[1]) / 100)
        elif re.fullmatch(r"\d+", text):
            value = int(text)
        else:
            raise OptionError(
                f"--{kind} {text}: expected a share of the rows such as 10%, or a number of rows such as 25."
            )
        if expected := _expected(kind, value):
            raise OptionError(f"--{kind} {text}: expected {expected}.")
        return cls(kind, value)

    @property
    def by_score(self) -> bool:
        """Whether it looks at a score."""
        return self.kind in SCORE_KINDS

    def __str__(self) -> str:
        if self.kind in LINKS:
            return self.kind
        if _is_amount(self.kind) and isinstance(self.value, float):
            return f"{self.kind} {(Decimal(repr(float(self.value))) * 100).normalize():f}%"
        return f"{self.kind} {self.value:g}" if isinstance(self.value, float) else f"{self.kind} {self.value}"

    def count(self, rows: int) -> int:
        """How many of ``rows`` rows a share or number stands for: rounded down, and never more than there are."""
        if isinstance(self.value, int):
            return min(self.value, rows)
        # The share as it was typed: 0.29 is 29 of 100 rows, although the nearest binary fraction is less.
        return math.floor(Fraction(repr(float(self.value))) * rows)

    def drops(
        self, scores: Scores, cases: NDArray[np.integer] | None = None, links: Mapping[str, Mask] | None = None
    ) -> Mask:
        """True where this selector drops a row.

        Args:
            scores: shape ``(rows,)``, float64, NaN where a row has no score.
            cases: shape ``(rows,)``, what ``drop-case`` looks at.
            links: shape ``(rows,)`` by column of :data:`LINKS`: True where the pair points to another one.
        """
        if self.kind in LINKS:
            assert links is not None, f"{self.kind} needs the links"
            return links[LINKS[self.kind]]
        if self.kind == "drop-case":
            assert cases is not None, "drop-case needs the cases"
            return np.asarray(cases == self.value)
        if self.kind == "drop-above":
            return scores > self.value
        if self.kind == "drop-below":
            return scores < self.value
        dropping = self.kind.startswith("drop")
        selected = self._extreme(scores)
        return selected if dropping else ~selected

    def _extreme(self, scores: Scores) -> Mask:
        """True for the highest or the lowest, as many as asked for."""
        order = ranked(scores)
        count = self.count(len(order))
        mask = np.zeros(len(scores), dtype=bool)
        mask[order[len(order) - count :] if self.kind.endswith("highest") else order[:count]] = True
        return mask


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What several selectors said together: a row is dropped if any of them drops it, each judged over all rows."""

    by: str | None
    scores: Scores
    dropped_by: Mapping[Selector, Mask]

    @property
    def keep(self) -> Mask:
        """True where a row is kept."""
        dropped = np.zeros(len(self.scores), dtype=bool)
        for mask in self.dropped_by.values():
            dropped |= mask
        return ~dropped

    def counts(self) -> dict[str, int]:
        """How many rows each selector drops, by itself."""
        return {str(selector): int(mask.sum()) for selector, mask in self.dropped_by.items()}

    def name(self, selector: Selector) -> str:
        """A selector, with the score that it looks at, if any."""
        return f"{selector} by {self.by}" if selector.by_score else str(selector)

    def reason(self, index: int) -> str:
        """Why a row was dropped, all selectors that did; empty for a row that is kept."""
        return "; ".join(self._why(selector, index) for selector, mask in self.dropped_by.items() if mask[index])

    def _why(self, selector: Selector, index: int) -> str:
        rule = self.name(selector)
        if selector.kind.startswith("drop"):
            return rule
        return f"{rule}: " + ("the score is NaN" if np.isnan(self.scores[index]) else "not among them")


def numeric_columns(schema: pa.Schema) -> list[str]:
    """The columns that pairs can be ranked by."""
    return [field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]


def ranked(scores: Scores) -> NDArray[np.intp]:
    """The rows that have a score, from the lowest to the highest: the order in which shares are taken."""
    # The sort is stable and puts NaN last.
    return np.argsort(scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))]


def judge(
    scores: Scores,
    selectors: Iterable[Selector],
    *,
    by: str | None = "score",
    cases: NDArray[np.integer] | None = None,
    links: Mapping[str, Mask] | None = None,
) -> Verdict:
    """Judge every row by every selector.

    Args:
        scores: shape ``(rows,)``, float64, NaN where a row has no score.
        selectors: the rules, any number of them.
        by: the name of the score, for the reasons; None where no selector looks at one.
        cases: shape ``(rows,)``, needed by ``drop-case`` only.
        links: shape ``(rows,)`` by column, needed by the selectors of :data:`LINKS` only.
    """
    return Verdict(by, scores, {selector: selector.drops(scores, cases, links) for selector in selectors})


def make_selectors(values: Mapping[Kind, float | int | Sequence[float | int] | None]) -> tuple[Selector, ...]:
    """Selectors from option values; None and False are an option not given, a sequence one given several times.

    Raises:
        OptionError: no option was given, or one has a value out of its range.
    """
    found: list[Selector] = []
    for kind, value in values.items():
        several: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        plain = (one.item() if isinstance(one, np.generic) else one for one in several)
        found += [Selector(kind, one) for one in plain if one is not None and not (kind in LINKS and one is False)]
    if not found:
        raise OptionError(f"Nothing to filter by: give one of {', '.join('--' + kind for kind in KINDS)}.")
    return tuple(found)


def _is_amount(kind: Kind) -> bool:
    return kind.endswith(("highest", "lowest"))


def _number(kind: Kind, text: str) -> float | int:
    try:
        return int(text) if kind == "drop-case" else float(text)
    except ValueError:
        expected = "a case, 0 to 4" if kind == "drop-case" else "a number"
        raise OptionError(f"--{kind} {text}: expected {expected}.") from None


def _expected(kind: Kind, value: float | int) -> str:
    """What a value should have been, or nothing where it is right. ``True`` is no number here."""
    if kind in LINKS:
        return "" if value is True else "True or False"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind == "drop-case":
        return "" if whole and value in CASES else "a case, 0 to 4"
    if not whole and not isinstance(value, float):
        return "a number"
    if not _is_amount(kind):
        return "" if not math.isnan(value) else "a number"
    if whole:
        return "" if value >= 0 else "a number of rows, 0 or more"
    return "" if 0.0 <= value <= 1.0 else "a share from 0.0 to 1.0 (0% to 100%), or a whole number of rows"

"""The laws of selecting rows by score: order, shares, ties, NaN, thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undertow.errors import OptionError
from undertow.filtering.selection import KINDS, Selector, judge, make_selectors

NAN, INF = math.nan, math.inf
AMOUNTS = [kind for kind in KINDS if kind.endswith(("highest", "lowest"))]
MIRROR = {"drop-highest": "drop-lowest", "keep-highest": "keep-lowest"}

scores = hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(-5, 5) | st.sampled_from([0.0, 1.0, NAN, INF]))
amounts = st.integers(0, 50) | st.floats(0, 1)


def keep(values: object, kind: str, value: float) -> list[bool]:
    return judge(np.asarray(values, np.float64), [Selector(kind, value)]).keep.tolist()


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        ("drop-highest", 0.4, [3, 1, 2]),
        ("drop-lowest", 0.4, [5, 4, 3]),
        ("keep-highest", 0.4, [5, 4]),
        ("keep-lowest", 0.4, [1, 2]),
        ("drop-highest", 1, [4, 3, 1, 2]),
        ("drop-highest", 1.0, []),
        ("keep-lowest", 3, [3, 1, 2]),
        ("keep-lowest", 99, [5, 4, 3, 1, 2]),
        ("drop-above", 3, [3, 1, 2]),
        ("drop-below", 3.0, [5, 4, 3]),
    ],
)
def test_by_hand(kind: str, value: float, kept: list[float]) -> None:
    values = np.array([5.0, 4.0, 3.0, 1.0, 2.0])
    assert values[keep(values, kind, value)].tolist() == kept


def test_cases() -> None:
    verdict = judge(np.zeros(4), [Selector("drop-case", 2), Selector("drop-case", 4)], cases=np.array([1, 2, 3, 4]))
    assert verdict.keep.tolist() == [True, False, True, False]


@given(scores, st.data())
def test_keeping_the_lowest_is_dropping_the_highest_rest(values: np.ndarray, data: st.DataObject) -> None:
    """With ties as well: one order serves both. Among rows with a score, that is; NaN is told apart below."""
    ranked = ~np.isnan(values)
    kept = data.draw(st.integers(0, int(ranked.sum())))
    lowest = np.array(keep(values, "keep-lowest", kept), bool)
    rest = np.array(keep(values, "drop-highest", int(ranked.sum()) - kept), bool)
    assert np.array_equal(lowest[ranked], rest[ranked])
    assert lowest.sum() == kept


@given(scores, amounts, st.sampled_from(["highest", "lowest"]))
def test_keep_takes_exactly_what_drop_takes_away(values: np.ndarray, amount: float, end: str) -> None:
    kept, left = (
        np.array(keep(values, f"keep-{end}", amount), bool),
        np.array(keep(values, f"drop-{end}", amount), bool),
    )
    assert np.array_equal(kept, ~left)


@given(scores, amounts)
def test_no_kept_row_is_above_a_dropped_one(values: np.ndarray, amount: float) -> None:
    left = np.array(keep(values, "drop-highest", amount), bool)
    ranked = ~np.isnan(values)
    if (ranked & left).any() and (~left).any():
        assert values[ranked & left].max() <= values[~left].min()


@given(st.permutations(range(12)), amounts, st.sampled_from(AMOUNTS))
def test_without_ties_the_order_of_rows_does_not_matter(order: list[int], amount: float, kind: str) -> None:
    values = np.linspace(-1, 1, 12)
    assert np.array_equal(np.array(keep(values, kind, amount))[order], keep(values[order], kind, amount))


@given(scores, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_drops_those_and_more(values: np.ndarray, one: float, two: float) -> None:
    fewer, more = keep(values, "drop-highest", max(one, two)), keep(values, "drop-highest", min(one, two))
    assert all(m for f, m in zip(fewer, more, strict=True) if f)


@given(scores, amounts, st.sampled_from(AMOUNTS))
def test_the_ends_mirror_each_other(values: np.ndarray, amount: float, kind: str) -> None:
    """Highest of the scores is lowest of the negated scores, of the rows from behind."""
    other = {**MIRROR, **{b: a for a, b in MIRROR.items()}}[kind]
    assert keep(values, kind, amount) == keep(-values[::-1], other, amount)[::-1]


def test_of_equal_scores_the_later_row_is_the_higher() -> None:
    assert keep([7, 7, 7, 7], "drop-highest", 0.5) == [True, True, False, False]
    assert keep([7, 7, 7, 7], "keep-highest", 0.5) == [False, False, True, True]
    assert keep([7, 7, 7, 7], "drop-lowest", 1) == [False, True, True, True]


def test_a_row_without_a_score_is_neither_high_nor_low() -> None:
    values = [NAN, 1, 2, NAN, 3, 4]
    assert keep(values, "drop-highest", 0.5) == [True, True, True, True, False, False], "half of four, not of six"
    assert keep(values, "keep-highest", 0.5) == [False, False, False, False, True, True]
    assert keep(values, "drop-lowest", 99) == [True, False, False, True, False, False]
    assert keep(values, "keep-lowest", 1.0) == [False, True, True, False, True, True]
    assert keep(values, "drop-above", -9) == keep(values, "drop-below", 9) == [True, False, False, True, False, False]


def test_infinite_scores_are_extremes() -> None:
    assert keep([0, INF, -INF], "drop-highest", 1) == [True, False, True]
    assert keep([0, INF, -INF], "drop-lowest", 1) == [True, True, False]


def test_thresholds_are_strict() -> None:
    assert keep([1, 2, 3], "drop-above", 2) == [True, True, False]
    assert keep([1, 2, 3], "drop-below", 2) == [False, True, True]


@pytest.mark.parametrize(("share", "rows", "count"), [(0.29, 100, 29), (0.57, 100, 57), (0.1, 25, 2), (0.05, 19, 0)])
def test_a_share_is_rounded_down_as_typed(share: float, rows: int, count: int) -> None:
    """0.29 · 100 is 28.999… in binary floating point, and 29 rows to the one who typed it."""
    assert Selector("drop-highest", share).count(rows) == count
    assert keep(range(rows), "drop-highest", share).count(False) == count


def test_several_selectors_each_judge_all_rows() -> None:
    selectors = [Selector("drop-highest", 1), Selector("drop-below", 2.0), Selector("keep-lowest", 3)]
    verdict = judge(np.array([1.0, 2.0, 3.0, 4.0, NAN]), selectors, by="ches")
    assert verdict.keep.tolist() == [False, True, True, False, False]
    assert verdict.counts() == {"drop-highest 1": 1, "drop-below 2": 1, "keep-lowest 3": 2}
    assert [verdict.reason(index) for index in range(5)] == [
        "drop-below 2 by ches",
        "",
        "",
        "drop-highest 1 by ches; keep-lowest 3 by ches: not among them",
        "keep-lowest 3 by ches: the score is NaN",
    ]


@pytest.mark.parametrize(
    ("kind", "text", "value", "shown"),
    [
        ("drop-highest", "10%", 0.10, "drop-highest 10%"),
        ("drop-highest", " 12.5 %", 0.125, "drop-highest 12.5%"),
        ("keep-lowest", "100%", 1.0, "keep-lowest 100%"),
        ("keep-lowest", "25", 25, "keep-lowest 25"),
        ("keep-lowest", "1", 1, "keep-lowest 1"),
        ("drop-above", "-0.5", -0.5, "drop-above -0.5"),
        ("drop-case", "2", 2, "drop-case 2"),
    ],
)
def test_what_is_typed(kind: str, text: str, value: float, shown: str) -> None:
    selector = Selector.parse(kind, text)
    assert (selector.value, type(selector.value)) == (value, type(value))
    assert str(selector) == shown


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("drop-highest", "0.1", r"--drop-highest 0.1: expected a share of the rows such as 10%, or a number of rows"),
        ("drop-highest", "-5%", "expected a share"),
        ("drop-highest", "110%", r"--drop-highest 110%: expected a share from 0.0 to 1.0"),
        ("drop-case", "-1", "--drop-case -1: expected a case"),
        ("drop-above", "high", "--drop-above high: expected a number"),
        ("drop-below", "nan", "expected a number"),
        ("drop-case", "5", "expected a case, 0 to 4"),
        ("drop-case", "two", "expected a case, 0 to 4"),
    ],
)
def test_what_is_mistyped(kind: str, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Selector.parse(kind, text)


@pytest.mark.parametrize("value", [True, -1, 25.0, -0.1, NAN, "10%"])
def test_an_amount_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match="--drop-highest: got"):
        make_selectors({"drop-highest": value})


def test_selectors_from_options() -> None:
    assert make_selectors({"drop-highest": np.float64(0.1), "drop-lowest": None, "drop-case": [2, np.int64(4)]}) == (
        Selector("drop-highest", 0.1),
        Selector("drop-case", 2),
        Selector("drop-case", 4),
    )
    with pytest.raises(OptionError, match="Nothing to filter by: give one of --drop-highest"):
        make_selectors({"drop-highest": None})
    with pytest.raises(OptionError, match="No selector 'drop-most'"):
        Selector("drop-most", 1)

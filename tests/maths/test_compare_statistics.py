"""Means, lines, rank correlation and area under the curve: against SciPy and a double loop; intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, spearmanr

from undertow.maths.statistics import auc_of, bootstrap, equal_groups, line_of, means_of, spearman_of


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys(draw, ties: bool) -> None:
    a, b = draw.normal(size=(2, 60))
    if ties:
        a, b = a.round(), (a + b).round()
    assert spearman_of(a, b)(np.ones(60))[0] == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_the_line_is_scipys(draw) -> None:
    x = draw.normal(3.0, 2.0, size=50)
    y = 0.8 * x - 4 + draw.normal(size=50)
    expected = linregress(x, y)
    assert line_of(x, y)(np.ones(50)) == pytest.approx([expected.slope, expected.intercept], abs=1e-12)


def test_groups_are_equally_large_and_ordered(draw) -> None:
    values = draw.normal(size=53)
    groups = equal_groups(values, most=5, least=5)
    assert [len(group) for group in groups] == [11, 11, 11, 10, 10]
    assert np.concatenate([values[group] for group in groups]).tolist() == sorted(values)
    assert [len(group) for group in equal_groups(values[:14], most=5, least=5)] == [7, 7]
    assert [len(group) for group in equal_groups(values[:3], most=5, least=5)] == [3]
    assert equal_groups(values[:0], most=5) == []


def test_weights_are_how_often_a_pair_was_drawn(draw) -> None:
    """A resample by weights equals the statistic of the resampled pairs themselves, sorted anew."""
    a, b = draw.normal(size=(2, 40)).round(1)
    positive = b < 0
    drawn = draw.integers(0, 40, 40)
    weights = np.bincount(drawn, minlength=40).astype(float)
    ones = np.ones(40)
    assert spearman_of(a, b)(weights) == pytest.approx(spearman_of(a[drawn], b[drawn])(ones), abs=1e-12)
    assert auc_of(a, positive)(weights) == pytest.approx(auc_of(a[drawn], positive[drawn])(ones), abs=1e-12)
    assert line_of(a, b)(weights) == pytest.approx(line_of(a[drawn], b[drawn])(ones), abs=1e-12)
    columns = np.stack([a, b], axis=1)
    assert means_of(columns)(weights) == pytest.approx(columns[drawn].mean(0), abs=1e-12)


def test_auc_is_the_share_of_pairs_in_the_right_order(draw) -> None:
    score, positive = draw.normal(size=50).round(1), draw.random(50) < 0.4
    wins = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert auc_of(score, positive)(np.ones(50))[0] == pytest.approx(np.mean(wins), abs=1e-12)


def test_what_is_undefined_is_none_and_not_zero() -> None:
    scores, same = np.arange(5.0), np.zeros(5)
    for statistic in (
        spearman_of(scores, same),
        line_of(same + 0.1, scores),
        auc_of(scores, same < 0),
        auc_of(scores, same == 0),
    ):
        found = bootstrap(statistic, 5, resamples=20, seed=0)[-1]
        assert found.record() == {"value": None, "low": None, "high": None}
    assert [one.value for one in bootstrap(line_of(scores[:0], same[:0]), 0, resamples=5, seed=0)] == [None, None]
    assert bootstrap(means_of(np.zeros((0, 2))), 0, resamples=5, seed=0)[1].value is None
    (alone,) = bootstrap(means_of(np.full((1, 1), 3.0)), 1, resamples=5, seed=0)
    assert alone.record() == {"value": 3.0, "low": None, "high": None}


def test_intervals_repeat_with_the_seed_and_move_with_it(draw) -> None:
    statistic = means_of(draw.normal(size=(30, 1)))
    one, again, other = (bootstrap(statistic, 30, resamples=50, seed=seed)[0] for seed in (1, 1, 2))
    assert one == again
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_intervals_cover_the_truth_about_as_often_as_they_say(draw) -> None:
    """200 samples of 100 from a normal with mean 0: 95% of the intervals hold 0, within three standard errors."""
    held = 0
    for trial in range(200):
        (found,) = bootstrap(means_of(draw.normal(size=(100, 1))), 100, resamples=200, seed=trial)
        held += found.low <= 0 <= found.high
    assert 200 * 0.95 - 3 * np.sqrt(200 * 0.95 * 0.05) <= held
    assert held < 200

"""Means, lines, rank correlations and areas under curves, each with a bootstrap interval.

Every statistic is a function of weights, one a pair: ones give the value itself, and how often a resample drew each
pair gives the value of that resample. Nothing is sorted again for a resample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "auc_of", "bootstrap", "equal_groups", "line_of", "means_of", "spearman_of"]

Vector = NDArray[np.float64]
Statistic = Callable[[Vector], Vector]

LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its percentile bootstrap 95% interval; None where it is undefined, or too few pairs for one."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def record(self) -> dict[str, float | None]:
        """The estimate as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


def bootstrap(statistic: Statistic, count: int, *, resamples: int, seed: int) -> list[Estimate]:
    """A statistic's values and their 95% intervals: percentiles over resamples of the pairs, drawn with replacement.

    Args:
        statistic: weights of the pairs, ``[count]``, in; values ``[k]`` out, NaN where one is undefined.
        count: pairs.
        resamples: how many resamples.
        seed: of numpy's default generator: equal seeds, equal intervals.

    Returns:
        One estimate a value. Resamples where a value is undefined are left out of its interval. Of fewer than two pairs
        there is no interval.
    """
    if not count:
        return [Estimate(None)] * len(statistic(np.ones(0)))
    values = statistic(np.ones(count))
    if count < 2:
        return [Estimate(_number(value)) for value in values]
    draw = np.random.default_rng(seed)
    drawn = np.array([statistic(_drawn(draw, count)) for _ in range(resamples)])
    return [_estimate(value, column) for value, column in zip(values, drawn.T, strict=True)]


def _drawn(draw: np.random.Generator, count: int) -> Vector:
    return np.bincount(draw.integers(0, count, count), minlength=count).astype(np.float64)


def _estimate(value: float, drawn: Vector) -> Estimate:
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not defined.size:
        return Estimate(_number(value))
    low, high = np.quantile(defined, [LOW, HIGH])
    return Estimate(float(value), float(low), float(high))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def means_of(columns: NDArray[np.float64]) -> Statistic:
    """The means of columns, ``[pairs, k]``; NaN of no pair."""

    def means(weights: Vector) -> Vector:
        total = weights.sum()
        found: Vector = weights @ columns / total if total else np.full(columns.shape[1], np.nan)
        return found

    return means


def spearman_of(a: Vector, b: Vector) -> Statistic:
    """Spearman's rank correlation of two vectors, ties at their mean rank; NaN where one of them is constant."""
    groups = [np.unique(values, return_inverse=True)[1] for values in (a, b)]

    def spearman(weights: Vector) -> Vector:
        total = weights.sum()
        if not total:
            return np.array([np.nan])
        x, y = (_centred_ranks(group, weights, total) for group in groups)
        spread = np.sqrt((weights @ (x * x)) * (weights @ (y * y)))
        return np.array([weights @ (x * y) / spread if spread > 0 else np.nan])

    return spearman


def _centred_ranks(group: NDArray[np.intp], weights: Vector, total: float) -> Vector:
    """Mean ranks of values that occur ``weights`` times each, less the mean of all ranks."""
    sizes = np.bincount(group, weights)
    ranks: Vector = (np.cumsum(sizes) - (sizes - 1) / 2)[group] - (total + 1) / 2
    return ranks


def line_of(x: Vector, y: Vector) -> Statistic:
    """Slope and intercept of the least-squares line of ``y`` on ``x``; NaN where ``x`` is constant.

    The slope of what happened on what was foretold is 1 where a forecast neither over- nor understates differences
    (Mincer and Zarnowitz 1969, The Evaluation of Economic Forecasts); the intercept is then its bias, in units of
    ``y``.
    """

    def line(weights: Vector) -> Vector:
        drawn = x[weights > 0]
        if not drawn.size or drawn.min() == drawn.max():
            return np.full(2, np.nan)
        mean_x, mean_y = weights @ x / weights.sum(), weights @ y / weights.sum()
        apart = weights * (x - mean_x)
        slope = apart @ (y - mean_y) / (apart @ (x - mean_x))
        return np.array([slope, mean_y - slope * mean_x])

    return line


def equal_groups(values: Vector, *, most: int, least: int = 1) -> list[NDArray[np.intp]]:
    """The indices of values in groups of equally many (to one), from the lowest values to the highest.

    Args:
        values: finite.
        most: groups at most.
        least: values that a group has at least; fewer only where there are no more in all.
    """
    if not len(values):
        return []
    return np.array_split(np.argsort(values, kind="stable"), min(most, max(len(values) // least, 1)))


def auc_of(score: Vector, positive: NDArray[np.bool_]) -> Statistic:
    """The chance that a positive pair scores above another one, ties counted half; NaN where all are of a kind."""
    group = np.unique(score, return_inverse=True)[1]

    def auc(weights: Vector) -> Vector:
        ours = np.bincount(group, weights * positive)
        others = np.bincount(group, weights * ~positive)
        pairs = ours.sum() * others.sum()
        below = np.cumsum(others) - others / 2
        return np.array([ours @ below / pairs if pairs > 0 else np.nan])

    return auc

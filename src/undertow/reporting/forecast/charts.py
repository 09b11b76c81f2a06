"""Charts of a forecast that other pages do not have; the others are the training report's and the audit's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from undertow.reporting.audit.charts import inner_range, scatter

__all__ = ["looks", "parts"]

Vector = NDArray[np.float64]


def looks(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The curve as looks at a probe set, from step 0, as the training report's charts take them."""
    start = {"step": 0, "chosen_change": 0.0, "rejected_change": 0.0, "margin_change": 0.0, "displaced": 0.0}
    found = [
        {
            "step": point["step"],
            "chosen_change": point["chosen"],
            "rejected_change": point["rejected"],
            "margin_change": _difference(point["chosen"], point["rejected"]),
            "displaced": point["displaced"],
        }
        for point in curve
    ]
    return [start, *found]


def parts(
    own: Vector, rest: Vector, rows: NDArray[np.int64], *, titles: tuple[str, str], falls: NDArray[np.bool_] | None
) -> alt.TopLevelMixin:
    """What a pair's own training gives its chosen response against all else; below the line it falls.

    Args:
        own: in nats, finite.
        rest: likewise; the sum is the forecast.
        rows: the pairs' rows, for the tooltip.
        titles: of the two axes.
        falls: whose chosen response falls, where that may be told.
    """
    low, high = inner_range(rest)
    left, right = max(float(own.min()), -high), min(float(own.max()), -low)
    line = [(left, -left), (right, -right)] if left < right else []
    return scatter(own, rest, rows, titles=titles, falls=falls, line=line)


def _difference(one: float | None, two: float | None) -> float | None:
    return None if one is None or two is None else one - two

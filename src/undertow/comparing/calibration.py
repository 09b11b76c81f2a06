"""Forecast against fact: whether the nats that a forecast foretold are those that happened, not only their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undertow.comparing.prediction import Predictions, placed
from undertow.maths.statistics import bootstrap, equal_groups, line_of, means_of, spearman_of

__all__ = ["SIDES", "calibration"]

SIDES = ("chosen", "rejected")
MOST_BINS, LEAST_IN_A_BIN = 5, 5

Vector = NDArray[np.float64]


def calibration(found: Predictions, table: pa.Table, *, resamples: int, seed: int) -> dict[str, Any] | None:
    """A forecast held against what happened, for the chosen and for the rejected responses; None without a forecast.

    Args:
        found: the scores, with the columns of a forecast.
        table: what happened, ``dlogp_chosen`` and ``dlogp_rejected``, all finite.
        resamples: bootstrap resamples behind every interval.
        seed: of the bootstrap.

    Returns:
        By side the numbers of :func:`one_side`; ``look``: whether the forecast was made with a look at the model where
        the run ends, without which its shares and means are those of a straight line.

    Raises:
        DataError: the scores are of other data than the table.
    """
    if not found.forecast:
        return None
    index = found.index_of(table)
    columns = {name: placed(values, index) for name, values in found.forecast.items()}
    nothing = np.full(len(table), np.nan)
    record: dict[str, Any] = {"look": bool(np.any(np.nan_to_num(columns.get("curvature_chosen", nothing)) != 0))}
    for side in SIDES:
        foretold, fact = columns.get(f"forecast_{side}", nothing), table[f"dlogp_{side}"].to_numpy()
        below = columns.get("forecast_displaced") if side == "chosen" else None
        record[side] = one_side(foretold, fact, below, resamples=resamples, seed=seed)
    return record


def one_side(foretold: Vector, fact: Vector, below: Vector | None, *, resamples: int, seed: int) -> dict[str, Any]:
    """How far a forecast of some responses was right.

    Args:
        foretold: ``[pairs]``, the change of each log-probability, in nats; NaN where there is none.
        fact: ``[pairs]``, the change that happened.
        below: ``[pairs]``, how probable it was said to be that each ends lower; None where that was not said.
        resamples: bootstrap resamples behind every interval.
        seed: of the bootstrap.

    Returns:
        ``pairs``; ``displaced``, the share that ends lower: ``forecast`` (foretold below zero), ``probability`` (the
        mean of ``below``) and ``realised``; ``mean``, in nats; ``slope`` and ``intercept`` of the least-squares line of
        fact on forecast; ``spearman``; ``bins`` of equally many pairs by the forecast. Estimates have 95% intervals
        over the pairs.
    """
    known = np.isfinite(foretold) & np.isfinite(fact)
    foretold, fact = foretold[known], fact[known]
    said = below[known] if below is not None else np.array([])
    statistics = {
        "share, mean": means_of(np.stack([fact < 0, fact], axis=1).astype(np.float64)),
        "line": line_of(foretold, fact),
        "spearman": spearman_of(foretold, fact),
    }
    estimates = [bootstrap(one, len(fact), resamples=resamples, seed=seed) for one in statistics.values()]
    share, mean, slope, intercept, spearman = (one.record() for found in estimates for one in found)
    return {
        "pairs": len(fact),
        "displaced": {"forecast": _mean(foretold < 0), "probability": _mean(said), "realised": share},
        "mean": {"forecast": _mean(foretold), "realised": mean},
        "slope": slope,
        "intercept": intercept,
        "spearman": spearman,
        "bins": [
            {
                "pairs": len(part),
                "forecast": _mean(foretold[part]),
                "realised": _mean(fact[part]),
                "displaced": {"forecast": _mean(foretold[part] < 0), "realised": _mean(fact[part] < 0)},
            }
            for part in equal_groups(foretold, most=MOST_BINS, least=LEAST_IN_A_BIN)
        ],
    }


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if values.size and np.all(np.isfinite(values)) else None

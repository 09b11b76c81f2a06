"""Prediction against fact: how well an audit's scores, taken before training, predicted which responses fell."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undertow.errors import DataError
from undertow.maths.statistics import Estimate, auc_of, bootstrap, spearman_of
from undertow.scoring.columns import FORECAST_COLUMNS, PREDICTORS, PULL, End, numbers_of
from undertow.scoring.shards import read_scores, with_pull

BASELINES: dict[str, End] = {"chosen_tokens": "highest", "-logp_chosen": "highest"}
"""What anybody knows without an audit: a response of more tokens, and a less likely one, has more to lose. A score
that orders the pairs no better than these has predicted nothing. Each with the end at which the pairs displace."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores of an audit: the pairs they are of, by row, and each predictor's values, NaN where a score is missing;
    ``forecast``: a forecast's columns, where it stands beside the scores."""

    rows: NDArray[np.int64]
    pair_ids: NDArray[np.str_]
    values: dict[str, NDArray[np.float64]]
    forecast: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A hash of the pairs and their predictors; the baselines come from the same pass and are not in it."""
        digest = hashlib.sha256(self.rows.tobytes() + "".join(self.pair_ids).encode())
        # The pull last, wherever it stands among the predictors: equal scores, equal hash, over the versions.
        for name in sorted((name for name in self.values if name not in BASELINES), key=PULL.__eq__):
            digest.update(name.encode() + self.values[name].tobytes())
        for name, values in self.forecast.items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()

    def index_of(self, table: pa.Table) -> NDArray[np.intp]:
        """Where each pair of a comparison's table stands here; −1 where it does not.

        Raises:
            DataError: the table is of other data.
        """
        return joined(self, table["row"].to_numpy(), np.array(table["pair_id"].to_pylist(), dtype=np.str_))


def read_predictions(folders: Sequence[str]) -> Predictions:
    """The predictors in a finished audit's folder, or in those of its shards.

    Raises:
        DataError: no finished audit stands there, or it has no predictor.
    """
    return predictions_of(read_scores(folders))


def predictions_of(scores: pa.Table) -> Predictions:
    """The predictors and the plain baselines of a table of scores, whose rows may be in any order.

    Raises:
        DataError: it has no predictor, or one row of the data twice.
    """
    scores = with_pull(scores)
    there = set(scores.column_names)
    values = {name: numbers_of(scores, name) for name in PREDICTORS if name in there}
    if not values:
        raise DataError(f"The scores have no predictor. They have: {', '.join(scores.column_names)}.")
    if "chosen_tokens" in there:
        values["chosen_tokens"] = numbers_of(scores, "chosen_tokens")
    if "logp_chosen" in there:
        values["-logp_chosen"] = -numbers_of(scores, "logp_chosen")
    rows, ids = scores["row"].to_numpy(), np.array(scores["pair_id"].to_pylist(), dtype=np.str_)
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    twice = rows[1:][rows[1:] == rows[:-1]]
    if len(twice):
        raise DataError(
            f"The scores have row {int(twice[0])} of the data more than once ({len(twice)} such rows): give each "
            "pair's scores once."
        )
    forecast = {name: numbers_of(scores, name)[order] for name in FORECAST_COLUMNS if name in there}
    return Predictions(rows, ids[order], {name: column[order] for name, column in values.items()}, forecast)


def against_fact(found: Predictions, table: pa.Table, *, resamples: int, seed: int) -> dict[str, Any]:
    """Each predictor's rank correlation with what happened, and its area under the curve for displaced or not; the
    plain baselines' likewise.

    Both are signed so that more is better: a correlation of 1 and an area of 1 where the predictor orders the pairs as
    training did, 0 and 0.5 where it knows nothing. None where there is nothing to tell apart: the predictor or the
    change is constant; all pairs are displaced, or none is.

    Raises:
        DataError: the scores are of other data than the table.
    """
    index = found.index_of(table)
    fact = table["dlogp_chosen"].to_numpy()
    predictors = {}
    for name, values in found.values.items():
        scored = placed(values, index)
        known = np.isfinite(scored) & np.isfinite(fact)
        estimates = _one(rising(name, scored[known]), fact[known], resamples, seed)
        predictors[name] = {
            "pairs": int(known.sum()),
            "baseline": name in BASELINES,
            **{key: value.record() for key, value in estimates.items()},
        }
    return {"without_scores": int(np.sum(index < 0)), "predictors": predictors}


def placed(values: NDArray[np.float64], index: NDArray[np.intp]) -> NDArray[np.float64]:
    """Values at the places of :meth:`Predictions.index_of`; NaN where a pair has none."""
    return np.where(index >= 0, values[np.maximum(index, 0)], np.nan)


def rising(name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """A predictor's values, turned so that a higher one says: this response rises."""
    ends: dict[str, End] = {**PREDICTORS, **BASELINES}
    return scores if ends[name] == "lowest" else -scores


def _one(predicted: NDArray[np.float64], fact: NDArray[np.float64], resamples: int, seed: int) -> dict[str, Estimate]:
    displaced = fact < 0
    statistics = {"spearman": spearman_of(predicted, fact), "auc": auc_of(-predicted, displaced)}
    return {
        name: bootstrap(statistic, len(fact), resamples=resamples, seed=seed)[0]
        for name, statistic in statistics.items()
    }


def check_same_data(found: Predictions, rows: Sequence[int], pair_ids: Sequence[str]) -> None:
    """Refuse scores of other data than the pairs to be compared, before any weights are loaded.

    Raises:
        DataError: they are.
    """
    joined(found, np.array(rows), np.array(pair_ids, dtype=np.str_))


def joined(found: Predictions, rows: NDArray[np.int64], pair_ids: NDArray[np.str_]) -> NDArray[np.intp]:
    """Where each pair stands in the scores; −1 where it does not.

    Raises:
        DataError: a row is another pair there, or no pair is there at all.
    """
    inside = np.minimum(np.searchsorted(found.rows, rows), len(found.rows) - 1)
    there = found.rows[inside] == rows
    other = there & (found.pair_ids[inside] != pair_ids)
    if other.any():
        raise DataError(
            f"--scores: row {int(rows[other][0])} is another pair there than in the data ({int(other.sum())} rows "
            "differ): give the scores that `undertow audit` made of this very data."
        )
    if not there.any():
        raise DataError("--scores: none of the pairs compared has a score there: give the scores of this very data.")
    return np.where(there, inside, -1)

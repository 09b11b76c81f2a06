"""Prediction against fact: how well an audit's scores, taken before training, foretold which responses fell."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undertow.errors import DataError
from undertow.filtering.what_if import PREDICTORS, End
from undertow.maths.statistics import Estimate, auc_of, bootstrap, spearman_of
from undertow.scoring.shards import read_scores

PULL = "pull"
"""Not a column: the whole data set's pull on the chosen response, ``pull_own + pull_others``."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores of an audit: the pairs they are of, and each predictor's values, NaN where a score is missing."""

    rows: NDArray[np.int64]
    pair_ids: NDArray[np.str_]
    values: dict[str, NDArray[np.float64]]

    @property
    def fingerprint(self) -> str:
        """A hash of all that is read of the scores."""
        digest = hashlib.sha256(self.rows.tobytes() + "".join(self.pair_ids).encode())
        for name, values in self.values.items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()


def read_predictions(folders: Sequence[str]) -> Predictions:
    """The predictors in a finished audit's folder, or in those of its shards.

    Raises:
        DataError: no finished audit stands there, or it has no predictor.
    """
    return predictions_of(read_scores(folders))


def predictions_of(scores: pa.Table) -> Predictions:
    """The predictors of a table of scores."""
    values = {
        name: scores[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in PREDICTORS
        if name in scores.column_names
    }
    if {"pull_own", "pull_others"} <= set(scores.column_names):
        own, others = (scores[name].to_numpy().astype(np.float64) for name in ("pull_own", "pull_others"))
        values[PULL] = own + others
    if not values:
        raise DataError(f"The scores have no predictor. They have: {', '.join(scores.column_names)}.")
    return Predictions(scores["row"].to_numpy(), np.array(scores["pair_id"].to_pylist(), dtype=np.str_), values)


def against_fact(found: Predictions, table: pa.Table, *, resamples: int, seed: int) -> dict[str, Any]:
    """Each predictor's rank correlation with what happened, and its area under the curve for displaced or not.

    Both are signed so that more is better: a correlation of 1 and an area of 1 where the predictor orders the pairs as
    training did, 0 and 0.5 where it knows nothing. None where there is nothing to tell apart: the predictor or the
    change is constant; all pairs are displaced, or none is.

    Raises:
        DataError: the scores are of other data than the table.
    """
    index = joined(found, table["row"].to_numpy(), np.array(table["pair_id"].to_pylist(), dtype=np.str_))
    fact = table["dlogp_chosen"].to_numpy()
    predictors = {}
    for name, values in found.values.items():
        scored = np.where(index >= 0, values[np.maximum(index, 0)], np.nan)
        known = np.isfinite(scored) & np.isfinite(fact)
        estimates = _one(rising(name, scored[known]), fact[known], resamples, seed)
        predictors[name] = {"pairs": int(known.sum()), **{key: value.record() for key, value in estimates.items()}}
    return {"without_scores": int(np.sum(index < 0)), "predictors": predictors}


def rising(name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """A predictor's values, turned so that a higher one says: this response rises."""
    end: End = "lowest" if name == PULL else PREDICTORS[name]
    return scores if end == "lowest" else -scores


def _one(foretold: NDArray[np.float64], fact: NDArray[np.float64], resamples: int, seed: int) -> dict[str, Estimate]:
    displaced = fact < 0
    statistics = {"spearman": spearman_of(foretold, fact), "auc": auc_of(-foretold, displaced)}
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

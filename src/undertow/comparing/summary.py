"""The table of a comparison to a few numbers with their intervals: what ``compare.json`` and the terminal show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from undertow.comparing.calibration import calibration
from undertow.comparing.masses import masses
from undertow.comparing.pairs import DIVERGENCES, FLAGS, NUMBERS, SCHEMA
from undertow.comparing.prediction import Predictions, against_fact
from undertow.comparing.responses import ListedResponses
from undertow.comparing.settings import CompareSettings
from undertow.maths.displacement import displacement as definition_1
from undertow.maths.losses import DPO, Logps
from undertow.maths.statistics import bootstrap, means_of

MEANS = ("dlogp_chosen", "dlogp_rejected", "dmargin", "displaced", *DIVERGENCES)
ACCURACIES = (
    "reward_accuracy",
    "likelihood_accuracy_before",
    "likelihood_accuracy_after",
    "likelihood_accuracy_change",
)
"""``reward_accuracy``: the margin has grown against the model before, which is the reference (TRL's
``rewards/accuracies``). ``likelihood_accuracy``: the chosen response is the more probable one of the two."""
SHOWN_ROWS = 10

Finite = dict[str, NDArray[np.float64]]


def summarise(
    table: pa.Table, listed: ListedResponses, predictions: Predictions | None, settings: CompareSettings
) -> dict[str, Any]:
    """The part of ``compare.json`` that is computed from the table and from which of its prompts and responses are one.

    Pairs with a number that is not finite are counted, named and left out of all else.
    """
    good = _finite(table)
    bad = table["row"].to_numpy()[~good]
    columns = {
        name: table[name].to_numpy(zero_copy_only=False)[good].astype(np.float64)
        for name in (*NUMBERS, *FLAGS, *DIVERGENCES)
    }
    whole = table.filter(pa.array(good))
    bootstrapped = {"resamples": settings.resamples, "seed": settings.seed}
    return {
        "means": means(columns, settings),
        "displacement": displacement(columns, settings.beta),
        "masses": masses(table, listed, good, **bootstrapped),
        "prediction": against_fact(predictions, whole, **bootstrapped) if predictions else None,
        "calibration": calibration(predictions, whole, **bootstrapped) if predictions else None,
        "nonfinite": {"count": len(bad), "rows": bad[:SHOWN_ROWS].tolist()},
    }


def means(columns: Finite, settings: CompareSettings) -> dict[str, dict[str, float | None]]:
    """Means over the pairs, each with its interval; flags as shares. One set of resamples serves them all."""
    before, after = columns["before_correct"], columns["after_correct"]
    accuracies = ((columns["dmargin"] > 0).astype(np.float64), before, after, after - before)
    stacked = np.stack([*(columns[name] for name in MEANS), *accuracies], axis=1)
    estimates = bootstrap(means_of(stacked), len(stacked), resamples=settings.resamples, seed=settings.seed)
    return {name: found.record() for name, found in zip((*MEANS, *ACCURACIES), estimates, strict=True)}


def displacement(columns: Finite, beta: float) -> dict[str, Any]:
    """Displacement of the data set by Razin et al. 2024, Definition 1: strictly, and only if the mean loss fell.

    The loss is DPO's with the model before as the reference, so before it is ln 2 for every pair. ``verdict`` is "not
    applicable" where its mean did not fall: nothing was learned, so nothing was displaced by learning.
    """
    names = ("before_logp_chosen", "before_logp_rejected", "after_logp_chosen", "after_logp_rejected")
    old_w, old_l, new_w, new_l = (torch.from_numpy(columns[name]) for name in names)
    found: dict[str, Any] = {"loss": repr(DPO(beta)), "loss_before": None, "loss_after": None}
    if not len(old_w):
        return {**found, "verdict": "not applicable", "mean_change": None}
    loss = DPO(beta)
    start = loss(Logps(old_w, old_l, ref_chosen=old_w, ref_rejected=old_l)).mean().item()
    end = loss(Logps(new_w, new_l, ref_chosen=old_w, ref_rejected=old_l)).mean().item()
    fact = definition_1(old_w, new_w, start, end)
    verdict = "not applicable" if fact.displaced is None else "displaced" if fact.displaced else "not displaced"
    return {**found, "loss_before": start, "loss_after": end, "verdict": verdict, "mean_change": fact.mean_change}


def _finite(table: pa.Table) -> NDArray[np.bool_]:
    good = np.ones(len(table), dtype=np.bool_)
    for field in SCHEMA:
        if pa.types.is_floating(field.type):
            good &= np.isfinite(table[field.name].to_numpy(zero_copy_only=False))
    return good

"""A simulation as tables and a summary: one row a pair, a held-out pair and a text, and the curve over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.forecasting.settings import Protect
from undertow.forecasting.simulation import CURVE_NUMBERS, CurvePoint, Simulation, Study
from undertow.maths.linearised import own_parts, pushes
from undertow.maths.statistics import bootstrap, means_of
from undertow.scoring.columns import PUSH

__all__ = [
    "Outcome",
    "curve_record",
    "end_record",
    "group_means",
    "held_out_record",
    "held_out_table",
    "means_record",
    "outcome_of",
    "pair_table",
    "text_table",
]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A simulation read out, by the sample's pairs.

    Attributes:
        chosen, rejected: ``[n]``, changes at the end, in nats.
        displaced: ``[n]``, the probability that the chosen response ends lower.
        own, others, curvature: ``[n]``, parts of ``chosen``, which they sum to.
        push: ``[n]`` on the protected.
        group_pushes: ``[n]`` by group of texts.
        protected: which responses those were, in words, and how many.
        protected_rows: their row numbers.
    """

    chosen: Tensor
    rejected: Tensor
    displaced: Tensor
    own: Tensor
    others: Tensor
    curvature: Tensor
    push: Tensor
    group_pushes: dict[str, Tensor]
    protected: str
    protected_rows: Tensor


def outcome_of(study: Study, found: Simulation, *, protect: Protect, groups: Sequence[str] = ()) -> Outcome:
    """Read a simulation out.

    Args:
        study: what was simulated on.
        found: the simulation.
        protect: whose mean counts for a push.
        groups: of the texts, one name each.
    """
    n = len(study.sample)
    blocks = study.products.blocks(n, 0, study.acting)
    changes, linear = found.changes[: 2 * n].view(n, 2), found.linear[: 2 * n].view(n, 2)
    own = own_parts(blocks, found.coefficients)[:, 0]
    rows, named = _protected(study, found, protect)
    by_group = {}
    for group in dict.fromkeys(groups):
        members = study.paired_rows + torch.tensor([at for at, name in enumerate(groups) if name == group])
        by_group[group] = pushes(study.products, found.coefficients, members, blocks=blocks, acting=study.acting)
    return Outcome(
        chosen=changes[:, 0],
        rejected=changes[:, 1],
        displaced=found.below[0 : 2 * n : 2],
        own=own,
        others=linear[:, 0] - own,
        curvature=changes[:, 0] - linear[:, 0],
        push=pushes(study.products, found.coefficients, rows, blocks=blocks, acting=study.acting),
        group_pushes=by_group,
        protected=named,
        protected_rows=rows,
    )


def _protected(study: Study, found: Simulation, protect: Protect) -> tuple[Tensor, str]:
    """The rows whose mean counts, and what they are."""
    n = len(study.sample)
    if protect == "held-out" and study.held_out:
        return torch.arange(2 * n, study.paired_rows, 2), "held-out"
    chosen = torch.arange(0, 2 * n, 2)
    if protect == "displaced":
        falling = chosen[found.changes[chosen] < 0]
        if len(falling):
            return falling, "displaced"
    return chosen, "all"


def pair_table(
    rows: NDArray[np.int64],
    pair_ids: Sequence[str],
    study: Study,
    found: Simulation,
    outcome: Outcome,
    *,
    outside_push: NDArray[np.float64] | None = None,
) -> pa.Table:
    """``forecast.parquet``: all pairs of the data in their order, null where a pair is outside the sample.

    Args:
        rows: of the input, by number.
        pair_ids: likewise.
        study: what was simulated on.
        found: the simulation.
        outcome: it, read out.
        outside_push: by number, the push of pairs outside the sample; NaN where it is not known.
    """

    def column(values: Tensor) -> pa.Array:
        whole = np.full(len(rows), np.nan)
        whole[study.sample] = values.numpy()
        return pa.array(whole, pa.float64(), mask=~np.isin(np.arange(len(rows)), study.sample))

    push = np.full(len(rows), np.nan) if outside_push is None else outside_push.copy()
    push[study.sample] = outcome.push.numpy()
    columns: dict[str, pa.Array] = {
        "row": pa.array(rows, pa.int64()),
        "pair_id": pa.array(list(pair_ids), pa.string()),
        "forecast_chosen": column(outcome.chosen),
        "forecast_rejected": column(outcome.rejected),
        "forecast_displaced": column(outcome.displaced),
        "own_chosen": column(outcome.own),
        "others_chosen": column(outcome.others),
        "curvature_chosen": column(outcome.curvature),
        PUSH: pa.array(push, pa.float64(), mask=np.isnan(push)),
        "step": pa.array(found.first_step, pa.int32(), mask=found.first_step == 0),
    }
    for group, values in outcome.group_pushes.items():
        columns[f"{PUSH}:{group}"] = column(values)
    return pa.table(columns)


def held_out_table(rows: Sequence[int], pair_ids: Sequence[str], study: Study, found: Simulation) -> pa.Table:
    """``held-out-forecast.parquet``."""
    part = slice(2 * len(study.sample), study.paired_rows)
    changes, below = found.changes[part].view(-1, 2), found.below[part].view(-1, 2)
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "pair_id": pa.array(pair_ids, pa.string()),
            "forecast_chosen": changes[:, 0].numpy(),
            "forecast_rejected": changes[:, 1].numpy(),
            "forecast_displaced": below[:, 0].numpy(),
        }
    )


def text_table(texts: Mapping[str, Sequence[Any]], study: Study, found: Simulation) -> pa.Table:
    """``texts-forecast.parquet``: ``row``, ``group``, ``prompt``, ``response`` as given, then ``logp`` at the start and
    ``forecast``, the change, in nats."""
    part = study.text_rows
    numbers = {"logp": study.logps[part].numpy(), "forecast": found.changes[part].numpy()}
    return pa.table({name: pa.array(list(values)) for name, values in texts.items()} | numbers)


def curve_record(curve: Sequence[CurvePoint], groups: Sequence[str]) -> list[dict[str, Any]]:
    """The curve as JSON values, with the mean of each group of texts."""
    found = []
    for point in curve:
        record: dict[str, Any] = {"step": point.step, **{name: getattr(point, name) for name in CURVE_NUMBERS}}
        if point.held_out:
            record["held_out"] = dict(point.held_out)
        if groups:
            record["texts"] = group_means(point.texts, groups)
        found.append(record)
    return found


def held_out_record(study: Study, found: Simulation, seed: int) -> dict[str, Any]:
    """The held-out pairs, as :func:`means_record` tells of pairs."""
    rows = slice(2 * len(study.sample), study.paired_rows)
    part, below = found.changes[rows].view(-1, 2), found.below[rows].view(-1, 2)
    return means_record(part[:, 0], part[:, 1], below[:, 0], np.ones(len(part), dtype=bool), seed)


def group_means(changes: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """The mean change of each group of texts, in nats."""
    names = np.array(groups)
    return {group: float(changes.numpy()[names == group].mean()) for group in dict.fromkeys(groups)}


def share_displaced(below: NDArray[np.float64], seed: int) -> dict[str, float | None]:
    """The share of chosen responses that end lower, with its bootstrap interval over the pairs.

    ``below``: the probability of each, so that over several orders this is the mean of their shares; the share of those
    whose mean change is below zero is another, as a mean over orders falls less often than one order.
    """
    falls = below[:, None]
    return bootstrap(means_of(falls), len(falls), resamples=RESAMPLES, seed=seed)[0].record()


def end_record(study: Study, found: Simulation, outcome: Outcome, kept: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Where the run ends, as JSON values: the pairs that were trained on.

    Args:
        study: what was simulated on.
        found: the simulation.
        outcome: it, read out.
        kept: the numbers of the pairs that were trained on.
        seed: of the bootstrap.
    """
    last = found.curve[-1]
    trained = means_record(outcome.chosen, outcome.rejected, outcome.displaced, np.isin(study.sample, kept), seed)
    return {
        "steps": found.steps,
        "loss": found.loss,
        "end_loss": last.loss,
        **{name: trained[name] for name in ("displaced", "chosen", "rejected")},
        "accuracy": last.accuracy,
        "protected": {"what": outcome.protected, "count": len(outcome.protected_rows)},
    }


def means_record(
    chosen: Tensor, rejected: Tensor, displaced: Tensor, some: NDArray[np.bool_], seed: int
) -> dict[str, Any]:
    """Some of the pairs: how many, the share displaced, and the mean changes in nats; None where there are none.

    Args:
        chosen, rejected: ``[k]``, changes.
        displaced: ``[k]``, the probability that the chosen response ends lower.
        some: ``[k]``, which of them.
        seed: of the bootstrap.
    """
    ups, downs = chosen.numpy()[some], rejected.numpy()[some]
    return {
        "pairs": int(some.sum()),
        "displaced": share_displaced(displaced.numpy()[some], seed),
        "chosen": float(ups.mean()) if ups.size else None,
        "rejected": float(downs.mean()) if downs.size else None,
    }

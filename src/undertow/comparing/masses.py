"""Huang's total probability masses, on the responses that the data list: how much stands on the good ones, and the bad.

The chosen and rejected labels divide a prompt's listed responses into a good and a bad part. A response that is chosen
in some pairs and rejected in others belongs to both, by the share of its comparisons that it won: the membership
``m(y)`` of a mixture (Huang 2024). Over the responses listed, all is exact; of those that nobody listed, nothing is
known.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.comparing.responses import ListedResponses, Numbers
from undertow.maths.statistics import bootstrap, means_of
from undertow.maths.tilt import tilt_conditions

__all__ = ["PromptMasses", "masses", "prompt_masses"]

Vector = NDArray[np.float64]
QUANTITIES = ("good", "bad", "share", "ln_good", "ln_bad", "logit_share")
WHEN = ("before", "after", "change")


@dataclass(frozen=True, slots=True, eq=False)
class PromptMasses:
    """Masses on each prompt's listed responses, ``[prompts]`` each, float64, in nats.

    ``ln_good_before`` and the like: ``ln Σ m(y) π(y|x)``, and for the bad ``ln Σ (1 − m(y)) π(y|x)``. ``shift``: by how
    much the logit of the good share, ``good/(good + bad)``, has grown: ``ln E_A − ln E_U`` of the tilt that led from
    one model to the other (Huang 2024, Lemma 1). ``fell``: the good share is smaller than it was.
    """

    ln_good_before: Tensor
    ln_bad_before: Tensor
    ln_good_after: Tensor
    ln_bad_after: Tensor
    shift: Tensor
    fell: Tensor


def prompt_masses(before: Tensor, after: Tensor, membership: Tensor) -> PromptMasses:
    """Masses of prompts that list equally many responses.

    Args:
        before: ``ln π(y|x)`` under the model before, ``[prompts, Y]``, finite; of different events, so that they add.
        after: the same under the model after.
        membership: ``m(y)``, ``[prompts, Y]``, in [0, 1]; each prompt has some of either kind.
    """
    good, bad = membership.log(), torch.log1p(-membership)
    ln_good, ln_bad = ((before + part).logsumexp(-1) for part in (good, bad))
    # The model after is the one before, tilted by the log-ratio (β = 1): what that does to two parts is known.
    tilt = tilt_conditions(after - before, (before + good).log_softmax(-1), (before + bad).log_softmax(-1), beta=1.0)
    return PromptMasses(
        ln_good_before=ln_good,
        ln_bad_before=ln_bad,
        ln_good_after=(after + good).logsumexp(-1),
        ln_bad_after=(after + bad).logsumexp(-1),
        shift=tilt.log_ratio,
        fell=~tilt.mass_grows,
    )


def masses(
    table: pa.Table, listed: ListedResponses, finite: NDArray[np.bool_], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Means over the prompts, with intervals by resampling prompts: the pairs of one prompt are not independent.

    Args:
        table: a comparison's.
        listed: the prompts and responses of its pairs.
        finite: pairs whose numbers can be used, ``[pairs]``.
        resamples: how many resamples.
        seed: of the bootstrap.
    """
    kept = finite & ~listed.nested[listed.prompt]
    responses = _responses(table, listed, kept)
    found = _by_prompt(responses)
    columns = {f"{name}_{when}": values for name in QUANTITIES for when, values in _when(name, found)}
    columns["share_fell"] = found.fell.numpy().astype(np.float64)
    columns["good_fell"] = (found.ln_good_after < found.ln_good_before).numpy().astype(np.float64)
    estimates = bootstrap(
        means_of(np.stack(list(columns.values()), 1)), len(found.fell), resamples=resamples, seed=seed
    )
    record = {name: estimate.record() for name, estimate in zip(columns, estimates, strict=True)}
    return {
        "prompts": len(found.fell),
        "responses": len(responses.prompt),
        "contested": int(((responses.membership > 0) & (responses.membership < 1)).sum()),
        "cut": len(np.unique(listed.prompt[kept & listed.cut])),
        "nested": int(listed.nested.sum()),
        **{name: {when: record[f"{name}_{when}"] for when in WHEN} for name in QUANTITIES},
        "share_fell": record["share_fell"],
        "good_fell": record["good_fell"],
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Responses:
    """Distinct responses, those of one prompt together: ``prompt`` is numbered from 0, ascending."""

    prompt: Numbers
    before: Vector
    after: Vector
    membership: Vector


def _responses(table: pa.Table, listed: ListedResponses, kept: NDArray[np.bool_]) -> _Responses:
    """Each distinct response once, with the log-probabilities of its first listing."""

    def column(name: str) -> Vector:
        values: Vector = table[name].to_numpy()[kept]
        return values

    numbers = np.concatenate([listed.chosen[kept], listed.rejected[kept]])
    chosen = np.arange(len(numbers)) < kept.sum()
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    won, listings = np.bincount(inverse, chosen), np.bincount(inverse)
    before, after = (
        np.concatenate([column(f"{model}_logp_{side}") for side in ("chosen", "rejected")])[first]
        for model in ("before", "after")
    )
    prompt = np.unique(np.tile(listed.prompt[kept], 2)[first], return_inverse=True)[1]
    order = np.argsort(prompt, kind="stable")
    return _Responses(prompt[order], before[order], after[order], (won / listings)[order])


def _by_prompt(responses: _Responses) -> PromptMasses:
    """The masses of every prompt; prompts with equally many responses are computed together."""
    counts = np.bincount(responses.prompt)
    begins = np.cumsum(counts) - counts
    found = {field.name: torch.zeros(len(counts), dtype=torch.float64) for field in fields(PromptMasses)}
    found["fell"] = found["fell"].bool()
    for count in np.unique(counts):
        prompts = np.flatnonzero(counts == count)
        members = begins[prompts, None] + np.arange(count)
        values = (responses.before, responses.after, responses.membership)
        part = prompt_masses(*(torch.from_numpy(column[members]) for column in values))
        for name, column in found.items():
            column[torch.from_numpy(prompts)] = getattr(part, name)
    return PromptMasses(**found)


def _when(name: str, found: PromptMasses) -> list[tuple[str, Vector]]:
    """A quantity before and after, and its change."""
    logit = found.ln_good_before - found.ln_bad_before
    match name:
        case "good" | "bad":
            before, after = (getattr(found, f"ln_{name}_{when}").exp() for when in ("before", "after"))
        case "ln_good" | "ln_bad":
            before, after = (getattr(found, f"{name}_{when}") for when in ("before", "after"))
        case "share":
            before, after = logit.sigmoid(), (logit + found.shift).sigmoid()
        case _:
            before, after = logit, logit + found.shift
    change = found.shift if name == "logit_share" else after - before
    return [(when, values.numpy()) for when, values in zip(WHEN, (before, after, change), strict=True)]

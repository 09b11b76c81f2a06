"""The numbers of level ``unembedding``: one pair's hidden embeddings in, exact inner products and changes out.

Only this module knows how a model's head and a pair's states become the arguments of the formulas in ``maths/``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from undertow.maths.entanglement import cases, first_order
from undertow.maths.losses import Logps, PairLoss
from undertow.maths.precision import in_float64
from undertow.maths.residuals import Residuals, residuals, shared_contexts
from undertow.maths.unembedding import PairProducts, accumulate_update, products_of, pull, sum_products
from undertow.models.families import Head
from undertow.models.forward import PairStates
from undertow.scoring.columns import PRODUCT_PARTS, Row

PRODUCTS = (
    "logp_chosen",
    "logp_rejected",
    "gg_chosen",
    "gg_cross",
    "gg_rejected",
    "hh_chosen",
    "hh_cross",
    "hh_rejected",
    "alpha_positive",
)


def residual_rows(states: PairStates, head: Head) -> Residuals:
    """The residual rows of both responses' tokens, chosen first; the states after the last tokens predict nothing."""
    predictive = torch.cat([states.chosen[:-1], states.rejected[:-1]])
    return head_residuals(
        predictive, head, torch.tensor(states.pair.chosen + states.pair.rejected, device=predictive.device)
    )


def head_residuals(predictive: Tensor, head: Head, ids: Tensor) -> Residuals:
    """The residual rows of tokens ``[N]`` from the states that predict them, ``[N, d]``."""
    return residuals(predictive, head.weight, ids, **head.options(predictive))


def response_logps(states: PairStates, head: Head) -> tuple[float, float]:
    """``ln π(y⁺|x)`` and ``ln π(y⁻|x)``, in nats, summed over tokens, by the pair's weights where it has some."""
    tokens = residual_rows(states, head).logps
    if states.pair.weights:
        tokens = tokens * torch.tensor(states.pair.weights, dtype=tokens.dtype, device=tokens.device)
    chosen, rejected = _by_response(tokens, states)
    return chosen, rejected


def unembedding_row(
    states: PairStates,
    head: Head,
    loss: PairLoss,
    reference: tuple[float, float] | None = None,
    update: Tensor | None = None,
) -> Row:
    """The columns that level ``unembedding`` adds; NaN, and case −1, where a hidden embedding is not finite.

    Args:
        states: the pair's hidden embeddings under the audited model.
        head: its head.
        loss: whose weights decide the changes.
        reference: log-probabilities of the two responses under the reference; the model's own when not given.
        update: ``[V, d]``, the data set's update of the unembedding matrix so far: this pair's part is added to it. A
            pair whose numbers are not finite is left out of it.
    """
    rows, pair = residual_rows(states, head), states.pair
    shared = shared_contexts(rows.tokens[: pair.chosen_tokens], rows.tokens[pair.chosen_tokens :])
    found = _numbers(sum_products(products_of(rows, pair.chosen_tokens, shared)))
    weights = loss_weights(found, pair.chosen_tokens, pair.rejected_tokens, loss, reference)
    row: Row = {**found, "d_chosen": weights[0].item(), "d_rejected": weights[1].item()}
    row |= changes_and_case(found, weights, ("gg",), "")
    row |= changes_and_case(found, weights, ("gg", "hh"), "free_")
    if update is not None and all(math.isfinite(row[name]) for name in (*PRODUCTS, "d_chosen", "d_rejected")):  # type: ignore[arg-type]
        signed = (weights[0].expand(pair.chosen_tokens), -weights[1].expand(pair.rejected_tokens))
        accumulate_update(update, rows, torch.cat(signed))
    return row


def pull_row(states: PairStates, head: Head, update: Tensor, own: tuple[float, float]) -> Row:
    """The first-order changes of both responses under the whole data set's update, split into own part and others'.

    Args:
        states: the pair's hidden embeddings.
        head: the model's head.
        update: ``Ḡ``, ``[V, d]``: the mean over the data set.
        own: what this pair alone contributes to the two changes.
    """
    chosen, rejected = _by_response(pull(update, residual_rows(states, head)), states)
    others = chosen - own[0]
    return {
        "pull": own[0] + others,  # to the last digit what is computed for scores that only have the parts
        "pull_own": own[0],
        "pull_others": others,
        "pull_rejected_own": own[1],
        "pull_rejected_others": rejected - own[1],
    }


def _by_response(tokens: Tensor, states: PairStates) -> tuple[float, float]:
    n = states.pair.chosen_tokens
    values = in_float64(tokens)
    chosen, rejected = torch.stack([values[:n].sum(), values[n:].sum()]).tolist()
    return chosen, rejected


def _numbers(products: PairProducts) -> dict[str, float]:
    """All products as numbers, with one wait for an accelerator instead of nine."""
    values = torch.stack([getattr(products, name) for name in PRODUCTS]).tolist()
    return dict(zip(PRODUCTS, values, strict=True))


def loss_weights(
    found: Mapping[str, float],
    chosen_tokens: int,
    rejected_tokens: int,
    loss: PairLoss,
    reference: tuple[float, float] | None,
) -> tuple[Tensor, Tensor]:
    """``d_w`` and ``d_l`` of one pair, ``[1]``, from its log-probabilities and squared gradient norms."""
    try:
        return loss.weights(pair_of_one(found, chosen_tokens, rejected_tokens, reference))
    except ValueError:  # ORPO has none for a response of probability 1: this pair's trouble, not the run's
        unknown = torch.tensor([math.nan], dtype=torch.float64)
        return unknown, unknown


def pair_of_one(
    found: Mapping[str, float], chosen_tokens: int, rejected_tokens: int, reference: tuple[float, float] | None
) -> Logps:
    """What a loss looks at, of one pair; under the model itself where there is no reference."""

    def one(value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float64)

    ref_chosen, ref_rejected = reference or (found["logp_chosen"], found["logp_rejected"])
    return Logps(
        chosen=one(found["logp_chosen"]),
        rejected=one(found["logp_rejected"]),
        ref_chosen=one(ref_chosen),
        ref_rejected=one(ref_rejected),
        chosen_tokens=one(chosen_tokens),
        rejected_tokens=one(rejected_tokens),
        chosen_grad_norms=one(found["gg_chosen"]).sqrt(),
        rejected_grad_norms=one(found["gg_rejected"]).sqrt(),
    )


def changes_and_case(
    found: Mapping[str, float], weights: tuple[Tensor, Tensor], kinds: Sequence[str], prefix: str
) -> Row:
    """First-order changes and case by the sum of these kinds of inner products: ``gg`` those of ``W`` alone, ``gg`` and
    ``hh`` those of ``W`` and free hidden embeddings together."""
    ww, wl, ll = (
        torch.tensor([sum(found[f"{kind}_{part}"] for kind in kinds)], dtype=torch.float64) for part in PRODUCT_PARTS
    )
    change = first_order(ww, wl, ll, *weights)
    return {
        f"{prefix}dlogp_chosen": change.dlogp_chosen.item(),
        f"{prefix}dlogp_rejected": change.dlogp_rejected.item(),
        f"{prefix}case": int(cases(ww, wl, ll, *weights).item()),
    }

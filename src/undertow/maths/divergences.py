"""Two models' next-token distributions at the same positions: how far apart, and what moved from where to where.

Both are streamed over the vocabulary, a chunk at a time, from the logits that give the log-probabilities: never
``[positions, V]`` at once, whatever the number of pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undertow.maths.precision import full_precision, in_float64
from undertow.maths.residuals import Residuals

__all__ = ["divergences"]


def divergences(before: Residuals, after: Residuals, at: int) -> tuple[Tensor, Tensor]:
    """``KL(after ‖ before)`` at every position, and the change of probability of every token at one of them.

    Args:
        before: the N positions under one model.
        after: the same positions, in the same order, under the other, with as many tokens in its vocabulary.
        at: the position whose change is wanted, in ``0..N−1``.

    Returns:
        ``[N]``, nats, at least 0 and exactly 0 for equal logits; and ``[V]``, ``π_after(v) − π_before(v)``, which sums
        to 0 (Razin et al. 2024, Section 4.1: probabilities, not log-probabilities). Both in float64; not finite where a
        model's logits are not.

    Raises:
        ValueError: the two are not of the same positions and vocabulary.
    """
    if len(before.tokens) != len(after.tokens) or len(before.unembedding) != len(after.unembedding):
        raise ValueError(
            f"two models at the same positions of one vocabulary: got {len(before.tokens)} and {len(after.tokens)} "
            f"positions, {len(before.unembedding)} and {len(after.unembedding)} tokens"
        )
    total = torch.zeros(len(after.tokens), dtype=torch.float64)
    changes: list[Tensor] = []
    with full_precision():
        both = zip(before.log_probabilities(), after.log_probabilities(), strict=True)
        for (columns, old), (same, new) in both:
            assert columns == same, "equal positions and vocabularies are cut alike"
            total += in_float64(_kl_terms(old, new.to(old)).sum(1)).cpu()
            changes.append(in_float64(new[at]).exp().cpu() - in_float64(old[at]).exp().cpu())
    return total, torch.cat(changes)


def _kl_terms(old: Tensor, new: Tensor) -> Tensor:
    """``p(ln p − ln q) − p + q``, whose sum is the divergence: each term is at least 0, so that none cancels another.

    With ``δ = ln p − ln q`` this is ``p(δ + expm1(−δ))``, which keeps its digits for nearly equal models; rounding in
    the normalisers enters squared. Far below δ = 0 ``expm1`` would overflow, and the plain form is exact enough.
    """
    p, change = new.exp(), new - old
    near = p * (change + torch.expm1(-change.clamp_min(-1.0)))
    far = p * (change - 1.0) + old.exp()
    return torch.where(change > -1.0, near, far)

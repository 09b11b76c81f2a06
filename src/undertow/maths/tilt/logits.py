"""Next-token distributions between and beyond two models: logits combined step by step (Huang 2024; theory 6.4)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["combine_logits"]


def combine_logits(
    policy_logits: Tensor, reference_logits: Tensor, *, policy_weight: float, reference_weight: float
) -> Tensor:
    """``A·z_θ − B·z_ref``, so that the next token is drawn ``∝ p_θ^A p_ref^{−B}``.

    ``A − B = 1`` keeps the temperature: for one step it is the tilt with the reward multiplied by ``A``. ``A > 1`` goes
    on in the direction in which the policy left the reference, ``0 < A < 1`` returns towards it, ``A = 0, B = −1`` is
    the reference. For other differences equal models give ``softmax((A−B)z)``. Over several steps the normalisers of
    the steps differ, so this is **not** the tilt of whole responses.

    Args:
        policy_logits: ``z_θ``, ``[..., V]``; −inf where a token is masked. Any constant may be added along V.
        reference_logits: ``z_ref``, ``[..., V]``, likewise.
        policy_weight: ``A``.
        reference_weight: ``B``; with 0 the reference does not take part, not even by its masks.

    Returns:
        ``[..., V]``, in the wider of the two types. A token masked on either side is masked: −inf in ``z_ref`` alone
        would otherwise become +inf.

    Raises:
        ValueError: when the shapes differ.
    """
    if policy_logits.shape != reference_logits.shape:
        raise ValueError(
            "policy_logits and reference_logits must be alike, "
            f"got {tuple(policy_logits.shape)} and {tuple(reference_logits.shape)}"
        )
    masked = policy_logits == -torch.inf
    if reference_weight == 0:
        combined = policy_weight * policy_logits
    else:
        masked = masked | (reference_logits == -torch.inf)
        combined = policy_weight * policy_logits - reference_weight * reference_logits
    return combined.masked_fill(masked, -torch.inf)  # 0·(−inf) and (−inf) − (−inf) would be NaN

"""Log-probabilities of response tokens through which gradients flow, without full logits in either direction.

Forward and backward are the residual rows of :mod:`undertow.maths.residuals`, streamed over the vocabulary: the
gradient of ``Σ_k g_k ln p_k(y_k)`` is ``g_k U_k`` in the hidden embedding ``h_k`` and ``Σ_k g_k R_kᵀ h_k`` in ``W``.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from undertow.maths.precision import full_precision, product
from undertow.maths.residuals import HeadOptions, Residuals, residuals

__all__ = ["token_logps"]


def token_logps(states: Tensor, unembedding: Tensor, tokens: Tensor, **head: Unpack[HeadOptions]) -> Tensor:
    """``ln p_k(y_k)`` of N tokens, ``[N]``, in nats, in float32 or better; gradients flow to states and unembedding.

    Memory is that of some slabs of the vocabulary (see :class:`~undertow.maths.residuals.HeadOptions`), in the backward
    pass too; only up to 128 MB of logits are kept between the two. A bias gets no gradient.

    Args:
        states: ``[N, d]``, hidden embeddings that enter the head.
        unembedding: ``W``, ``[V, d]``.
        tokens: ``[N]``, the token that each state predicts.
        **head: see :class:`~undertow.maths.residuals.HeadOptions`.

    Raises:
        ValueError: when shapes, token ids or options do not fit, or a bias asks for a gradient.
    """
    bias = head.get("bias")
    if bias is not None and bias.requires_grad:
        raise ValueError("a bias of the head gets no gradient here: freeze it (bias.requires_grad_(False))")
    found: Tensor = _TokenLogps.apply(states, unembedding, tokens, head)  # type: ignore[no-untyped-call]
    return found


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, unembedding: Tensor, tokens: Tensor, head: HeadOptions) -> Tensor:
        rows = residuals(states, unembedding, tokens, **head)
        # Through the context's own means: a weight that is changed in place before the backward pass is noticed.
        ctx.save_for_backward(states, unembedding)
        ctx.rows = rows
        return rows.logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        states, unembedding = ctx.saved_tensors
        rows: Residuals = ctx.rows
        wants_states, wants_weights = ctx.needs_input_grad[:2]
        in_states = torch.zeros_like(rows.states) if wants_states else None
        in_weights = torch.empty_like(unembedding) if wants_weights else None
        with full_precision():
            for columns, R, W in rows.chunks():
                R.mul_(grad.to(R).unsqueeze(1))
                if in_states is not None:
                    in_states += product(R, W, rows.products)
                if in_weights is not None:
                    in_weights[columns] = product(R.T, rows.states, rows.products).to(in_weights.dtype)
        return (None if in_states is None else in_states.to(states.dtype)), in_weights, None, None

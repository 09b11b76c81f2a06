"""Residual rows ``D∘(e_y − p)`` of response tokens, streamed over the vocabulary (theory: Razin et al., Theorem 6).

A token ``y_k`` with hidden embedding ``h_k`` (the very tensor that enters the output-embedding product) has the
logits ``z = s·C·tanh(u/C)``, ``u = W h_k + bias`` (without a soft cap ``z = s·u``). The gradient of ``ln p_k(y_k)`` in
``u`` is the row ``R_k = D∘(e_{y_k} − p_k)``, ``D = s(1 − tanh²(u/C))``; so its gradient in ``W`` is the outer product
``R_kᵀ h_k``, and in ``h_k`` the vector ``U_k = Wᵀ R_k``. Everything in :mod:`undertow.maths.unembedding` and
:mod:`undertow.maths.flow` is built of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from undertow.maths.precision import full_precision, product, working_dtype

__all__ = ["HeadOptions", "Residuals", "common_prefix", "logits_of", "residuals", "shared_contexts", "slope"]

CHUNK_ENTRIES = 2**21
"""Entries of one temporary ``[N, chunk]``: 8 MB in float32. Larger ones make no product faster."""

WIDEST_CHUNK = 16_384
"""For few tokens: a chunk of ``W`` in another type than the working type is copied, ``[chunk, d]``."""

KEPT_ENTRIES = 2**25
"""Entries of logits kept from the first pass over the vocabulary for the second: 128 MB in float32. Where all fit (680
tokens, a vocabulary of 50,000) it saves a third of the products with ``W``."""


class HeadOptions(TypedDict, total=False):
    """What may follow the product ``W h`` in a head, and how much of the vocabulary is looked at in one go.

    ``bias``: ``[V]`` or None. ``scale``: the factor ``s`` on all logits (Cohere, Granite), 1 by default. ``softcap``:
    ``C`` of the soft cap (Gemma 2), None for none. ``chunk``: vocabulary entries at a time, None (the default) for as
    many as make a temporary of 8 MB; the memory of a call is ``O(N·chunk + N² + N·d)`` and up to 128 MB of logits that
    are kept from one pass over the vocabulary to the next. The result does not depend on it. ``products``: a type for
    the factors of the large matrix products (bfloat16 where it is fast), None for the working type.
    """

    bias: Tensor | None
    scale: float
    softcap: float | None
    chunk: int | None
    products: torch.dtype | None


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """The rows ``R_k`` of N tokens, made chunk by chunk; build it with :func:`residuals`.

    ``logps`` is ``[N]``: ``ln p_k(y_k)`` in nats, at most 0. ``misses`` is ``[N]``: ``1 − p_k(y_k)`` without
    cancellation. Where hidden embeddings or weights are not finite, neither are these: look before you trust.
    """

    states: Tensor
    unembedding: Tensor
    tokens: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    chunk: int
    products: torch.dtype | None
    logps: Tensor
    misses: Tensor
    log_normalisers: Tensor
    kept: tuple[Tensor, ...]

    def log_probabilities(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(columns, ln p[:, columns])``, ``[N, chunk]`` in nats, over the vocabulary in order."""
        for columns, _, u in self._pre_activations():
            yield columns, logits_of(u, self.scale, self.softcap) - self.log_normalisers.unsqueeze(1)

    def chunks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yields ``(columns, R[:, columns], W[columns])`` over the vocabulary, in the working type."""
        for columns, weights, u in self._pre_activations():
            rows = (logits_of(u, self.scale, self.softcap) - self.log_normalisers.unsqueeze(1)).exp_().neg_()
            inside, at = _targets(self.tokens, columns)
            rows.scatter_(1, at, torch.where(inside, self.misses.unsqueeze(1), rows.gather(1, at)))
            if self.softcap is not None or self.scale != 1.0:
                rows.mul_(slope(u, self.scale, self.softcap))
            yield columns, rows, weights

    def _pre_activations(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        return _pre_activations(self.states, self.unembedding, self.bias, self.chunk, self.products, self.kept)

    def rows(self) -> Tensor:
        """All of ``R``, ``[N, V]``: for small N only."""
        return torch.cat([rows for _, rows, _ in self.chunks()], dim=1)

    def pushes(self) -> Tensor:
        """``U = R W``, ``[N, d]``: the gradient of each ``ln p_k(y_k)`` in its own hidden embedding."""
        out = torch.zeros_like(self.states)
        for _, rows, weights in self.chunks():
            out += product(rows, weights, self.products)
        return out


def residuals(
    states: Tensor,
    unembedding: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
    products: torch.dtype | None = None,
) -> Residuals:
    """First pass over the vocabulary: the log-probabilities of the tokens and all that their residual rows need.

    Args:
        states: ``[N, d]``, hidden embeddings that enter the head, any floating type.
        unembedding: ``W``, ``[V, d]``, any floating type; chunks of it are upcast, never the whole.
        tokens: ``[N]``, the token that each state predicts, in ``0..V−1``.
        bias: see :class:`HeadOptions`, likewise ``scale``, ``softcap``, ``chunk`` and ``products``.

    Raises:
        ValueError: when shapes, token ids or options do not fit.
    """
    _check(states, unembedding, tokens, bias, scale, softcap, chunk)
    dtype = working_dtype(states, unembedding)
    H, W = states.detach().to(dtype), unembedding.detach()
    ids = tokens.to(H.device, torch.long)
    b = None if bias is None else bias.detach().to(H.device, dtype)
    width = chunk or max(1, min(CHUNK_ENTRIES // len(H), WIDEST_CHUNK))
    kept: list[Tensor] = []
    # All of the vocabulary but the target: 1 − p(y) = exp(rest − lse) keeps its digits when p(y) is nearly 1, where
    # 1 − 2p + Σp² and even expm1(ln p) lose them.
    rest = torch.full((len(H),), -math.inf, dtype=dtype, device=H.device)
    target = torch.zeros_like(rest)
    with full_precision():
        for columns, _, u in _pre_activations(H, W, b, width, products):
            if (len(kept) + 1) * width * len(H) <= KEPT_ENTRIES:
                kept.append(u)
            z = logits_of(u, scale, softcap)
            inside, at = _targets(ids, columns)
            here = z.gather(1, at)
            target = torch.where(inside.squeeze(1), here.squeeze(1), target)
            z.scatter_(1, at, torch.where(inside, torch.full_like(here, -math.inf), here))
            rest = torch.logaddexp(rest, z.logsumexp(1))
            z.scatter_(1, at, here)  # z may be u itself, which is kept
    return Residuals(
        states=H,
        unembedding=W,
        tokens=ids,
        bias=b,
        scale=scale,
        softcap=softcap,
        chunk=width,
        products=products,
        logps=logsigmoid(target - rest),
        misses=torch.sigmoid(rest - target),
        log_normalisers=torch.logaddexp(rest, target),
        kept=tuple(kept),
    )


def common_prefix(first: Tensor, second: Tensor) -> int:
    """How many leading tokens two sequences of ids share."""
    n = min(len(first), len(second))
    differs = (first[:n] != second[:n].to(first.device)).nonzero()
    return int(differs[0, 0]) if len(differs) else n


def shared_contexts(chosen_ids: Tensor, rejected_ids: Tensor) -> int:
    """How many leading positions of two responses to one prompt have the same context: shared tokens + 1, capped."""
    return min(1 + common_prefix(chosen_ids, rejected_ids), len(chosen_ids), len(rejected_ids))


def _pre_activations(
    H: Tensor,
    W: Tensor,
    bias: Tensor | None,
    chunk: int,
    products: torch.dtype | None,
    kept: tuple[Tensor, ...] = (),
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """``(columns, W[columns], u)`` over the vocabulary; only a chunk of the weights is copied to H's type."""
    for index, start in enumerate(range(0, len(W), chunk)):
        columns = slice(start, min(start + chunk, len(W)))
        weights = W[columns].to(H.device, products or H.dtype)
        if index < len(kept):
            yield columns, weights, kept[index]
        else:
            u = product(H, weights.T, products)
            yield columns, weights, u if bias is None else u.add_(bias[columns])


def logits_of(u: Tensor, scale: float = 1.0, softcap: float | None = None) -> Tensor:
    """Logits ``s·C·tanh(u/C)`` of the head's products ``u = W h + bias``, any shape; ``s·u`` without a soft cap."""
    z = u if softcap is None else softcap * torch.tanh(u / softcap)
    return z * scale if scale != 1.0 else z


def slope(u: Tensor, scale: float, softcap: float | None) -> Tensor | float:
    """``dz/du``. As 1/cosh², since 1 − tanh² cancels where the cap is nearly reached; cosh = ∞ gives the right 0."""
    return scale if softcap is None else scale / torch.cosh(u / softcap).square()


def _targets(tokens: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Whether each token lies in these columns, and where (any valid column if not): both ``[N, 1]``, no sync."""
    at = tokens - columns.start
    width = columns.stop - columns.start
    return ((at >= 0) & (at < width)).unsqueeze(1), at.clamp(0, width - 1).unsqueeze(1)


def _check(
    states: Tensor,
    unembedding: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    chunk: int | None,
) -> None:
    if states.ndim != 2 or unembedding.ndim != 2 or states.shape[1] != unembedding.shape[1]:
        raise ValueError(
            "states must be [N, d] and unembedding [V, d] with one d, "
            f"got {tuple(states.shape)} and {tuple(unembedding.shape)}"
        )
    if tokens.shape != states.shape[:1]:
        raise ValueError(f"one token a state: got tokens {tuple(tokens.shape)} for states {tuple(states.shape)}")
    if not len(states):
        raise ValueError("a response without tokens has no log-probability: leave such pairs out")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= len(unembedding):
        raise ValueError(f"token ids must lie in 0..{len(unembedding) - 1}, got {low}..{high}")
    if bias is not None and bias.shape != unembedding.shape[:1]:
        raise ValueError(f"bias must be [V] = {tuple(unembedding.shape[:1])}, got {tuple(bias.shape)}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive, or None for none, got {softcap}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, or None, got {chunk}")

"""Inner products of log-probability gradients at the unembedding matrix, exactly, from a forward pass alone.

With the residual rows ``R_k`` and hidden embeddings ``h_k`` of a response (see :mod:`undertow.maths.residuals`),
``∇_W ln π(y|x) = Σ_k R_kᵀ h_k``, so for any two responses

    ``⟨∇_W ln π(y), ∇_W ln π(y')⟩ = Σ_{k,k'} α_{kk'} ⟨h_k, h'_{k'}⟩``,  ``α_{kk'} = ⟨R_k, R'_{k'}⟩``.

These are the α sums of Razin et al. 2024 (arXiv 2410.08847), Theorem 6, without the approximation that leads to CHES.
The ``hh`` numbers are the same inner products with respect to the hidden embeddings as free parameters, one vector for
every distinct context. The two have different units: show them side by side, never summed without saying so.

What it cannot say: it is exact for training ``W`` alone. With equal weights a single-token pair never displaces at
this level; that comes from ``hh``. With tied embeddings this is the gradient of the output role only.

The functions of a pair take the options of :class:`~undertow.maths.residuals.HeadOptions` by name: ``bias``,
``scale``, ``softcap``, ``chunk``, ``products``; the others take the rows. Nothing larger than ``[N, chunk]``,
``[N, N]``, ``[N, d]`` and the kept logits is made, N = n⁺ + n⁻.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from undertow.maths.precision import full_precision, in_float64, product
from undertow.maths.residuals import HeadOptions, Residuals, residuals, shared_contexts

__all__ = [
    "PairProducts",
    "TokenProducts",
    "accumulate_update",
    "heatmap",
    "negative_scores",
    "pair_products",
    "pair_products_direct",
    "products_of",
    "pull",
    "sum_products",
    "token_products",
]


@dataclass(frozen=True, slots=True, eq=False)
class PairProducts:
    """One pair's log-probabilities (nats, summed over tokens) and gradient inner products; float64 scalars.

    ``gg_*`` are with respect to ``W`` (theory 4.1), ``hh_*`` to the hidden embeddings as free features (theory 4.2),
    in the order ++, +−, −−. ``alpha_positive`` is the fraction of the coefficients α⁺ and α⁻ above zero, diagonal
    included, zeros not positive; None from :func:`pair_products_direct`, which makes no α.
    """

    logp_chosen: Tensor
    logp_rejected: Tensor
    gg_chosen: Tensor
    gg_cross: Tensor
    gg_rejected: Tensor
    hh_chosen: Tensor
    hh_cross: Tensor
    hh_rejected: Tensor
    alpha_positive: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class TokenProducts:
    """One pair, token by token: chosen tokens first, then rejected, N = n⁺ + n⁻ in all; in the working type.

    ``logps``: ``[N]``, ``ln p_k(y_k)``. ``alpha``: ``[N, N]``, ``⟨R_k, R_{k'}⟩``. ``gram``: ``[N, N]``,
    ``⟨h_k, h_{k'}⟩``. ``pushes``: ``[N, d]``, ``U_k``. ``chosen_tokens``: n⁺. ``shared``: how many leading positions of
    the two responses have the same context.
    """

    logps: Tensor
    alpha: Tensor
    gram: Tensor
    pushes: Tensor
    chosen_tokens: int
    shared: int

    @property
    def alpha_chosen(self) -> Tensor:
        """``α⁺_{kk'} = ⟨R⁺_k, R⁺_{k'}⟩``, ``[n⁺, n⁺]``, in [−2, 2] for a plain head."""
        return self.alpha[: self.chosen_tokens, : self.chosen_tokens]

    @property
    def alpha_cross(self) -> Tensor:
        """``α⁻_{kk'} = ⟨R⁺_k, R⁻_{k'}⟩``, ``[n⁺, n⁻]``, in [−2, 2] for a plain head."""
        return self.alpha[: self.chosen_tokens, self.chosen_tokens :]


def pair_products(
    chosen_states: Tensor,
    rejected_states: Tensor,
    unembedding: Tensor,
    chosen_ids: Tensor,
    rejected_ids: Tensor,
    **head: Unpack[HeadOptions],
) -> PairProducts:
    """All inner products of one pair: :func:`sum_products` of its :func:`token_products`.

    Args:
        chosen_states: ``H⁺``, ``[n⁺, d]``: ``h_{x,y⁺<k}``, k = 1..n⁺, from the state after the last prompt token to
            the one before the last response token.
        rejected_states: ``H⁻``, ``[n⁻, d]``, likewise.
        unembedding: ``W``, ``[V, d]``.
        chosen_ids: ``[n⁺]``, the response's tokens, the end-of-turn token included when the response has one.
        rejected_ids: ``[n⁻]``.
        **head: see :class:`~undertow.maths.residuals.HeadOptions`.

    Raises:
        ValueError: when a response is empty, or shapes, ids or options do not fit.

    >>> W = torch.tensor([[2.0, 0.0], [4.0, 0.5], [-1.0, 1.0]], dtype=torch.float64)
    >>> h = torch.tensor([[-0.2, 0.1]], dtype=torch.float64)
    >>> pair_products(h, h, W, torch.tensor([0]), torch.tensor([1])).gg_chosen.item()  # theory 4.2, instance S
    0.04318318...
    """
    return sum_products(token_products(chosen_states, rejected_states, unembedding, chosen_ids, rejected_ids, **head))


@torch.no_grad()
def token_products(
    chosen_states: Tensor,
    rejected_states: Tensor,
    unembedding: Tensor,
    chosen_ids: Tensor,
    rejected_ids: Tensor,
    **head: Unpack[HeadOptions],
) -> TokenProducts:
    """The token level of :func:`pair_products` (same arguments); ``4NVd + 2N²V`` operations."""
    H, ids = _stack(chosen_states, rejected_states, chosen_ids, rejected_ids)
    rows = residuals(H, unembedding, ids, **head)
    return products_of(rows, len(chosen_ids), shared_contexts(chosen_ids, rejected_ids))


@torch.no_grad()
def products_of(rows: Residuals, chosen_tokens: int, shared: int) -> TokenProducts:
    """The products of residual rows that are at hand: chosen tokens first, then rejected ones.

    Args:
        rows: of ``N = n⁺ + n⁻`` tokens.
        chosen_tokens: n⁺.
        shared: how many leading positions of the two responses have the same context
            (:func:`~undertow.maths.residuals.shared_contexts`).
    """
    with full_precision():
        alpha = rows.states.new_zeros(len(rows.tokens), len(rows.tokens))
        pushes = torch.zeros_like(rows.states)
        for _, R, W in rows.chunks():
            alpha += product(R, R.T, rows.products)
            pushes += product(R, W, rows.products)
        gram = rows.states @ rows.states.T
    return TokenProducts(rows.logps, alpha, gram, pushes, chosen_tokens, shared)


def sum_products(tokens: TokenProducts) -> PairProducts:
    """Sums the token level to one number each, in float64."""
    n, alpha, gram = tokens.chosen_tokens, tokens.alpha, tokens.gram
    logps = in_float64(tokens.logps)
    positive = (tokens.alpha_chosen > 0).sum() + (tokens.alpha_cross > 0).sum()
    return PairProducts(
        logp_chosen=logps[:n].sum(),
        logp_rejected=logps[n:].sum(),
        gg_chosen=_sum_of_products(alpha[:n, :n], gram[:n, :n]),
        gg_cross=_sum_of_products(alpha[:n, n:], gram[:n, n:]),
        gg_rejected=_sum_of_products(alpha[n:, n:], gram[n:, n:]),
        **_hidden_products(tokens.pushes, n, tokens.shared),
        alpha_positive=in_float64(positive) / (n * alpha.shape[1]),
    )


@torch.no_grad()
def pair_products_direct(
    chosen_states: Tensor,
    rejected_states: Tensor,
    unembedding: Tensor,
    chosen_ids: Tensor,
    rejected_ids: Tensor,
    **head: Unpack[HeadOptions],
) -> PairProducts:
    """The same numbers as :func:`pair_products` by the two gradients ``G± = R±ᵀ H±``, a slab of ``W`` at a time.

    ``6NVd`` operations instead of ``4NVd + 2N²V``: cheaper when N > d. It makes no α, so ``alpha_positive`` is None.
    """
    n = len(chosen_ids)
    H, ids = _stack(chosen_states, rejected_states, chosen_ids, rejected_ids)
    rows = residuals(H, unembedding, ids, **head)
    with full_precision():
        pushes = torch.zeros_like(rows.states)
        gg = [in_float64(rows.states.new_zeros(())) for _ in range(3)]
        for _, R, W in rows.chunks():
            pushes += product(R, W, rows.products)
            G_w, G_l = R[:n].T @ rows.states[:n], R[n:].T @ rows.states[n:]
            for i, (left, right) in enumerate(((G_w, G_w), (G_w, G_l), (G_l, G_l))):
                gg[i] = gg[i] + (in_float64(left) * in_float64(right)).sum()
    logps = in_float64(rows.logps)
    return PairProducts(
        logp_chosen=logps[:n].sum(),
        logp_rejected=logps[n:].sum(),
        gg_chosen=gg[0],
        gg_cross=gg[1],
        gg_rejected=gg[2],
        **_hidden_products(pushes, n, shared_contexts(chosen_ids, rejected_ids)),
        alpha_positive=None,
    )


def heatmap(tokens: TokenProducts, *, cosine: bool = False) -> Tensor:
    """Which chosen token meets which rejected token: ``[n⁺, n⁻]``, in float64.

    Entry (k, k') is ``α⁻_{kk'}⟨h⁺_k, h⁻_{k'}⟩``; all of them sum to ``gg_cross``. With ``cosine`` it is
    ``cos(R⁺_k, R⁻_{k'})·cos(h⁺_k, h⁻_{k'})``, the cosine of the two tokens' gradients in ``W``, and 0 where a norm is
    0. Yuan et al. 2024 (arXiv 2410.13828) show cosines over all parameters: another quantity, say which one it is.
    """
    n = tokens.chosen_tokens
    weighted = in_float64(tokens.alpha) * in_float64(tokens.gram)
    cross = weighted[:n, n:]
    if not cosine:
        return cross
    norms = weighted.diagonal().sqrt()
    bound = norms[:n, None] * norms[None, n:]
    return torch.where(bound > 0, cross / bound, torch.zeros_like(cross))


def negative_scores(tokens: TokenProducts) -> Tensor:
    """What pushing each rejected token down takes from the chosen response, at the unembedding: ``[n⁻]``, float64.

    ``Σ_k α⁻_{kk'} ⟨h⁺_k, h⁻_{k'}⟩`` over the chosen tokens, the sums of :func:`heatmap` over its rows; over all
    rejected tokens they sum to ``gg_cross``. It is the per-token score of Deng et al. 2025 (arXiv 2505.18830) for one
    positive response: tokens that are high there are those to spare from the negative gradient.
    """
    return heatmap(tokens).sum(0)


@torch.no_grad()
def accumulate_update(total: Tensor, rows: Residuals, weights: Tensor) -> None:
    """Adds ``Σ_k weights_k·R_kᵀh_k`` to ``total`` in place: a pair's part of the data set's update of ``W``.

    For the mean loss over ``|D|`` pairs (theory 4.3) call it once a pair with the weight ``d_w`` for every chosen token
    and ``−d_l`` for every rejected one, and divide ``total`` by ``|D|`` at the end: one ``[V, d]`` matrix, however many
    pairs there are.

    Args:
        total: ``[V, d]``, float32 or float64, zeros before the first pair.
        rows: the residual rows of the pair's tokens.
        weights: ``[N]``, one number a token.

    Raises:
        ValueError: when shapes do not fit.
    """
    if total.shape != rows.unembedding.shape:
        raise ValueError(f"total must be shaped like W, {tuple(rows.unembedding.shape)}, got {tuple(total.shape)}")
    if weights.shape != rows.tokens.shape:
        raise ValueError(f"one weight a token: got {tuple(weights.shape)} for {len(rows.tokens)} tokens")
    weighted = rows.states * weights.to(rows.states).unsqueeze(1)
    with full_precision():
        for columns, R, _ in rows.chunks():
            total[columns] += product(R.T, weighted, rows.products).to(total.device, total.dtype)


@torch.no_grad()
def pull(update: Tensor, rows: Residuals) -> Tensor:
    """First-order change of each token's ``ln π`` per unit learning rate under an update of ``W``: ``⟨R_k, Ḡ h_k⟩``.

    Summed over a response it is that of ``ln π(y|x)``. For ``Ḡ`` of a whole data set and a chosen response, the part
    that its own pair exerts is ``pull_own = (d_w·gg_chosen − d_l·gg_cross)/|D|``; the rest is ``pull_others``
    (theory 4.3).

    Args:
        update: ``Ḡ``, ``[V, d]``, from :func:`accumulate_update`.
        rows: the residual rows of N tokens.

    Returns:
        ``[N]``, float64, in nats per unit learning rate.

    Raises:
        ValueError: when shapes do not fit.
    """
    if update.shape != rows.unembedding.shape:
        raise ValueError(f"update must be shaped like W, {tuple(rows.unembedding.shape)}, got {tuple(update.shape)}")
    out = in_float64(rows.states.new_zeros(len(rows.tokens)))
    with full_precision():
        for columns, R, _ in rows.chunks():
            moved = product(rows.states, update[columns].to(R.device, R.dtype).T, rows.products)
            out += in_float64((R * moved).sum(1))
    return out


def _stack(
    chosen_states: Tensor, rejected_states: Tensor, chosen_ids: Tensor, rejected_ids: Tensor
) -> tuple[Tensor, Tensor]:
    for name, H, ids in (("chosen", chosen_states, chosen_ids), ("rejected", rejected_states, rejected_ids)):
        if H.ndim != 2 or not len(ids) or len(H) != len(ids):
            raise ValueError(
                f"{name}: states must be [n, d] and ids [n] with n ≥ 1, got {tuple(H.shape)} and {tuple(ids.shape)}"
            )
    return torch.cat([chosen_states, rejected_states]), torch.cat([chosen_ids, rejected_ids])


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """``Σ a∘b`` in float64, some rows at a time: no float64 copy of the whole."""
    slabs = [slice(begin, begin + 256) for begin in range(0, len(a), 256)]
    return torch.stack([(in_float64(a[slab]) * in_float64(b[slab])).sum() for slab in slabs]).sum()


def _hidden_products(pushes: Tensor, n: int, shared: int) -> dict[str, Tensor]:
    """Free features: every position has its own vector, except that equal contexts share one (theory 4.2)."""
    U_w, U_l = in_float64(pushes[:n]), in_float64(pushes[n:])
    return {
        "hh_chosen": U_w.square().sum(),
        "hh_cross": (U_w[:shared] * U_l[:shared]).sum(),
        "hh_rejected": U_l.square().sum(),
    }

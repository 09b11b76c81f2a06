"""The small theorems of the gradient-entanglement paper (Yuan et al. 2024, arXiv 2410.13828), in their exact form.

They are about training the unembedding ``W`` alone (Theorem 1, Corollary 2) or one logit row a position (Theorem 3).
``p`` are next-token distributions, not logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from undertow.maths.precision import in_float64

__all__ = [
    "LastTokenGap",
    "SingleTokenProducts",
    "last_token_gap",
    "position_gaps",
    "single_token_products",
]


@dataclass(frozen=True, slots=True, eq=False)
class SingleTokenProducts:
    """``gg_chosen = ‖g_w‖²``, ``gg_cross = ⟨g_w,g_l⟩``, ``gg_rejected = ‖g_l‖²`` of one-token responses; float64."""

    gg_chosen: Tensor
    gg_cross: Tensor
    gg_rejected: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LastTokenGap:
    """``⟨g_w, g_w − g_l⟩`` of responses that differ only in their last token; float64 scalars.

    ``own``: ``(1 − p_L(w) + p_L(l))‖h_L‖²``, never negative, all that the paper has. ``cross``: what the shared tokens
    add, of either sign, so that the chosen response can fall after all.
    """

    own: Tensor
    cross: Tensor

    @property
    def total(self) -> Tensor:
        """``⟨g_w, g_w − g_l⟩``; with equal weights the chosen log-probability falls where this is negative."""
        return self.own + self.cross


@torch.no_grad()
def single_token_products(p: Tensor, h: Tensor, *, chosen: int, rejected: int) -> SingleTokenProducts:
    """Theorem 1 for any distribution; for a uniform one over M tokens it is ``(M−1)‖h‖²/M`` and ``−‖h‖²/M``.

    Args:
        p: ``π(·|x)``, ``[..., V]``.
        h: the hidden embedding ``h_x``, ``[..., d]``.
        chosen: id of the chosen token.
        rejected: id of the rejected token, another one.

    Raises:
        ValueError: when the two tokens are the same.
    """
    if chosen == rejected:
        raise ValueError(f"chosen and rejected must be different tokens, both are {chosen}")
    p, h = in_float64(p), in_float64(h)
    r_w, r_l = (one_hot(torch.tensor(t, device=p.device), p.shape[-1]) - p for t in (chosen, rejected))
    size = h.square().sum(-1)
    # Products of residual rows, not 1 − 2p + ‖p‖², which is all rounding for a confident model.
    return SingleTokenProducts(*((u * v).sum(-1) * size for u, v in ((r_w, r_w), (r_w, r_l), (r_l, r_l))))


@torch.no_grad()
def last_token_gap(p: Tensor, h: Tensor, shared: Tensor, *, chosen: int, rejected: int) -> LastTokenGap:
    """Corollary 2 with the cross term that it needs, for responses that differ only in the last token.

    The paper's claims, ``⟨g_w,g_l⟩ ≤ ‖g_w‖² = ‖g_l‖²``, hold when no shared token is one of the two and
    ``p_i(w) = p_i(l)`` before the last position; not in general.

    Args:
        p: ``π(·|x,y<i)``, ``[L, V]``, the same for both responses.
        h: ``h_{x,y<i}``, ``[L, d]``.
        shared: ids of the tokens before the last, ``[L−1]``.
        chosen: id ``w`` of the last token of the chosen response.
        rejected: id ``l`` of that of the rejected one.

    Raises:
        ValueError: when the lengths do not fit or the two tokens are the same.
    """
    if not len(p) == len(h) == len(shared) + 1:
        raise ValueError(f"p and h must have one row more than shared, got {len(p)}, {len(h)} and {len(shared)}")
    if chosen == rejected:
        raise ValueError(f"chosen and rejected must be different tokens, both are {chosen}")
    p, h = in_float64(p), in_float64(h)
    # The residual row's pull along e_w − e_l at each position; at the last one the token is w itself.
    own = (1 - p[-1, chosen] + p[-1, rejected]) * h[-1].square().sum()
    said = (shared == chosen).to(p.dtype) - (shared == rejected).to(p.dtype)
    pull = said - p[:-1, chosen] + p[:-1, rejected]
    return LastTokenGap(own, (pull * (h[:-1] @ h[-1])).sum())


@torch.no_grad()
def position_gaps(p_chosen: Tensor, p_rejected: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Theorem 3: what each position gives to ``⟨g_w, g_w − g_l⟩``, ``[L]``, float64.

    Exact for logits ``B_i + (a fixed offset of the context)`` whose trainable row ``B_i`` both responses share at
    position ``i``. One formula, ``⟨e_w − s_w, (e_w − s_w) − (e_l − s_l)⟩``, covers the paper's three lines: 0 before
    the first difference; ``1 − s_m(w) + s_m(l)`` at it (its (12) has the two swapped); after it, where the tokens agree
    again, ``⟨e_j − s_w, s_l − s_w⟩``, not positive when the chosen context favours the common token ``j`` and no other.

    Args:
        p_chosen: ``s_{w,i}``, next-token distributions along the chosen response, ``[L, V]``.
        p_rejected: ``s_{l,i}``, along the rejected one.
        chosen: token ids, ``[L]``.
        rejected: token ids, ``[L]``.

    Raises:
        ValueError: when the shapes do not fit.
    """
    if p_chosen.shape != p_rejected.shape or not len(p_chosen) == len(chosen) == len(rejected):
        raise ValueError(
            "both responses must be of one length L with distributions [L, V], got "
            f"{tuple(p_chosen.shape)}, {tuple(p_rejected.shape)}, {tuple(chosen.shape)}, {tuple(rejected.shape)}"
        )
    s_w, s_l = in_float64(p_chosen), in_float64(p_rejected)
    r_w, r_l = (one_hot(t, s_w.shape[-1]) - s for t, s in ((chosen, s_w), (rejected, s_l)))
    return (r_w * (r_w - r_l)).sum(-1)

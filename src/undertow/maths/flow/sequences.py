"""One pair of responses of any length (Razin et al. 2024, arXiv 2410.08847, Theorems 6 and 7), exactly.

The paper's Theorem 6 is for responses whose first tokens differ; here a shared prefix of ``j`` tokens is allowed, in
its exact form (theory 3.3): the first-token terms move to position ``s = j + 1``, the sums over coefficients keep all
``k`` from 1. The model is that of :mod:`undertow.maths.flow.responses`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undertow.maths.flow.responses import Response, Rows, rows_of
from undertow.maths.flow.single_token import token_terms
from undertow.maths.precision import as_like, full_precision
from undertow.maths.residuals import common_prefix

__all__ = ["ChosenRate", "OtherRate", "chosen_rate", "other_rate"]

# Two passes over the same context agree to the rounding of the model's type; states of other positions do not.
SAME_STATE = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class ChosenRate:
    """Theorem 6: ``d/dt ln π(y⁺|x) = weight·[m + S − Σα⁻⟨h⁺,h⁻⟩ + Σα⁺⟨h⁺,h⁺⟩]``.

    ``m``, ``S``: from the geometry of the unembeddings, the hidden part of the gradient. ``rejected_overlap``,
    ``[n⁺, n⁻]``: ``α⁻_{kk'}⟨h⁺_k, h⁻_{k'}⟩``; ``chosen_overlap``, ``[n⁺, n⁺]``: ``α⁺_{kk'}⟨h⁺_k, h⁺_{k'}⟩``; the part
    of ``W``. ``alpha_rejected``, ``alpha_chosen``: the coefficients, all in [−2, 2]; with every one of them 1 the two
    sums are ``−CHES``. ``differs_at``: ``s``, 1-based, one more than the shared leading tokens.
    """

    m: Tensor
    S: Tensor
    rejected_overlap: Tensor
    chosen_overlap: Tensor
    alpha_rejected: Tensor
    alpha_chosen: Tensor
    weight: Tensor
    differs_at: int

    @property
    def bracket(self) -> Tensor:
        """The sum of the four terms: positive, the chosen response rises; negative, it is displaced."""
        return self.m + self.S - self.rejected_overlap.sum() + self.chosen_overlap.sum()

    @property
    def rate(self) -> Tensor:
        """``weight·bracket``, in nats per unit time."""
        return self.weight * self.bracket


@dataclass(frozen=True, slots=True, eq=False)
class OtherRate:
    """Theorem 7: ``d/dt ln π(z|x) = weight·[c + ⟨W_{z₁}, W_{y⁺₁} − W_{y⁻₁}⟩ − Σβ⁻⟨h^z,h⁻⟩ + Σβ⁺⟨h^z,h⁺⟩]``.

    ``geometry`` is the second term. ``rejected_overlap``, ``[|z|, n⁻]``, and ``chosen_overlap``, ``[|z|, n⁺]``, hold
    ``β±_{kk'}⟨h^z_k, h±_{k'}⟩``; ``beta_rejected`` and ``beta_chosen`` the coefficients ``⟨R^z_k, R±_{k'}⟩``.
    """

    c: Tensor
    geometry: Tensor
    rejected_overlap: Tensor
    chosen_overlap: Tensor
    beta_rejected: Tensor
    beta_chosen: Tensor
    weight: Tensor

    @property
    def bracket(self) -> Tensor:
        """The sum of the four terms."""
        return self.c + self.geometry - self.rejected_overlap.sum() + self.chosen_overlap.sum()

    @property
    def rate(self) -> Tensor:
        """``weight·bracket``, in nats per unit time."""
        return self.weight * self.bracket


@torch.no_grad()
def chosen_rate(
    unembedding: Tensor, chosen: Response, rejected: Response, *, weight: Tensor | float = 1.0
) -> ChosenRate:
    """Theorem 6 with its exact shared-prefix form: how fast the chosen response's log-probability moves.

    Args:
        unembedding: ``W``, ``[V, d]``.
        chosen: ``y⁺``, tokens and states.
        rejected: ``y⁻``, to the same prompt.
        weight: ``−ℓ'``, a number.

    Raises:
        ValueError: when the responses are token for token the same, their states over the shared prefix differ, or
            shapes or ids do not fit.
    """
    shared = common_prefix(chosen.tokens, rejected.tokens)
    if shared == len(chosen.tokens) == len(rejected.tokens):
        raise ValueError("the two responses are token for token the same: such a pair has no gradient, leave it out")
    _check_shared(chosen, rejected, min(shared + 1, len(chosen.tokens), len(rejected.tokens)))
    plus, minus = rows_of(unembedding, chosen), rows_of(unembedding, rejected)
    m, S = _hidden_part(unembedding.to(plus.R), plus, rejected, shared)
    alpha_rejected, rejected_overlap = _overlap(plus, minus)
    alpha_chosen, chosen_overlap = _overlap(plus, plus)
    return ChosenRate(
        m=m,
        S=S,
        rejected_overlap=rejected_overlap,
        chosen_overlap=chosen_overlap,
        alpha_rejected=alpha_rejected,
        alpha_chosen=alpha_chosen,
        weight=as_like(weight, m),
        differs_at=shared + 1,
    )


@torch.no_grad()
def other_rate(
    unembedding: Tensor, response: Response, chosen: Response, rejected: Response, *, weight: Tensor | float = 1.0
) -> OtherRate:
    """Theorem 7: how fast the log-probability of a response moves that starts with neither response's first token.

    Args:
        unembedding: ``W``, ``[V, d]``.
        response: ``z``, to the same prompt as the pair.
        chosen: ``y⁺``.
        rejected: ``y⁻``.
        weight: ``−ℓ'``, a number.

    Raises:
        ValueError: when ``z`` starts with the first token of a response of the pair (then formula (F) holds,
            :func:`~undertow.maths.flow.responses.response_rate`), or shapes or ids do not fit.
    """
    first, plus_1, minus_1 = (int(y.tokens[0]) for y in (response, chosen, rejected))
    if first in (plus_1, minus_1):
        raise ValueError(
            f"Theorem 7 is for responses whose first token is neither {plus_1} nor {minus_1}, got {first}; "
            "use response_rate, which takes any"
        )
    z, plus, minus = (rows_of(unembedding, y) for y in (response, chosen, rejected))
    W = unembedding.to(z.R)
    delta = W[plus_1] - W[minus_1]
    beta_rejected, rejected_overlap = _overlap(z, minus)
    beta_chosen, chosen_overlap = _overlap(z, plus)
    geometry = W[first] @ delta
    return OtherRate(
        c=z.U[0] @ delta - geometry,  # U_1 = W_{z₁} − Σ_v p_1(v) W_v
        geometry=geometry,
        rejected_overlap=rejected_overlap,
        chosen_overlap=chosen_overlap,
        beta_rejected=beta_rejected,
        beta_chosen=beta_chosen,
        weight=as_like(weight, geometry),
    )


def _hidden_part(W: Tensor, plus: Rows, rejected: Response, shared: int) -> tuple[Tensor, Tensor]:
    """``m`` and ``S`` of theory 3.3: (i) both go on and differ, (ii) y⁻ ended, (iii) y⁺ ended."""
    zero = plus.U.new_zeros(())
    if shared == len(plus.U):
        return zero, zero
    if shared == len(rejected.tokens):
        return plus.U[shared:].square().sum(), zero
    m, S = token_terms(W, plus.R[shared], plus.response.tokens[shared], rejected.tokens[shared])
    return m + plus.U[shared + 1 :].square().sum(), S


def _overlap(first: Rows, second: Rows) -> tuple[Tensor, Tensor]:
    with full_precision():
        alpha = first.R @ second.R.T
        return alpha, alpha * (first.states @ second.states.T)


def _check_shared(chosen: Response, rejected: Response, positions: int) -> None:
    """A shared context has one hidden embedding: a difference means that the states were cut at the wrong place."""
    ours, theirs = chosen.states[:positions].double(), rejected.states[:positions].double()
    if bool(((ours - theirs).norm(dim=1) > SAME_STATE * ours.norm(dim=1)).any()):
        raise ValueError(
            f"the first {positions} positions have the same context, yet their states differ: both responses need the "
            "states from the last prompt token on, h_{x,y<k} for k = 1..n"
        )

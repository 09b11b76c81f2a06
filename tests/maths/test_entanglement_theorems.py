"""Theorem 1, Corollary 2 and Theorem 3 of the gradient-entanglement paper, against automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loss_batches import f64
from undertow import entanglement as ent

SEEDS = st.integers(0, 2**31)
some = settings(max_examples=20, deadline=None)
V, D, L = 6, 3, 4


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(a: Tensor, b: Tensor, parameter: Tensor) -> list[float]:
    """``‖g_w‖²``, ``⟨g_w,g_l⟩``, ``‖g_l‖²`` in one parameter."""
    g_w, g_l = (torch.autograd.grad(value, parameter, retain_graph=True)[0].flatten() for value in (a, b))
    return [(g_w @ g_w).item(), (g_w @ g_l).item(), (g_l @ g_l).item()]


def logp(W: Tensor, H: Tensor, tokens: Tensor) -> Tensor:
    return (H @ W.T).log_softmax(-1)[torch.arange(len(tokens)), tokens].sum()


@some
@given(seed=SEEDS)
def test_theorem_1_for_any_distribution(seed: int) -> None:
    W, h = randn(seed, V, D).requires_grad_(), randn(seed + 1, D)
    logps = (W @ h).log_softmax(-1)
    found = ent.single_token_products(logps.exp().detach(), h, chosen=1, rejected=4)
    numbers = [found.gg_chosen.item(), found.gg_cross.item(), found.gg_rejected.item()]
    assert numbers == pytest.approx(gram(logps[1], logps[4], W), rel=1e-9, abs=1e-12)
    # Theory 4.2: with equal weights single tokens are always in case 1 at this level.
    assert ent.cases(found.gg_chosen, found.gg_cross, found.gg_rejected, f64(0.05), f64(0.05)).item() == 1


def test_theorem_1_uniform() -> None:
    h = f64([0.6, -0.8, 2.0])  # ‖h‖² = 5
    found = ent.single_token_products(f64([0.25] * 4 + [0.0]), h, chosen=0, rejected=2)
    assert found.gg_cross.item() == pytest.approx(-5 / 4)
    assert found.gg_chosen.item() == pytest.approx(3 * 5 / 4) == found.gg_rejected.item()
    with pytest.raises(ValueError, match="different tokens"):
        ent.single_token_products(f64([0.5, 0.5]), h, chosen=1, rejected=1)


def test_theorem_1_of_a_confident_model_in_float64() -> None:
    """1 − p rounded away: the products must still be of the right size, by hand (1 − p)² + p_other²."""
    p = f64([1 - 1e-12, 1e-12])
    found = ent.single_token_products(p, f64([1.0]), chosen=0, rejected=1)
    assert found.gg_chosen.item() == pytest.approx(2e-24, rel=1e-3)


@some
@given(seed=SEEDS)
def test_corollary_2_with_its_cross_term(seed: int) -> None:
    W, H = randn(seed, V, D).requires_grad_(), randn(seed + 1, L, D)
    shared = torch.randint(0, V, (L - 1,), generator=torch.Generator().manual_seed(seed))
    p = (H @ W.T).softmax(-1).detach()
    found = ent.last_token_gap(p, H, shared, chosen=2, rejected=5)
    chosen, rejected = (torch.cat([shared, torch.tensor([t])]) for t in (2, 5))
    ww, wl, _ = gram(logp(W, H, chosen), logp(W, H, rejected), W)
    assert found.total.item() == pytest.approx(ww - wl, rel=1e-9, abs=1e-10)
    assert found.own >= 0


def test_corollary_2_fails_as_printed() -> None:
    """Theory 5.3: V = 4, W = 0, only the last token differs, and yet both fall."""
    W, H = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True), f64([[2.0, 0.0], [1.0, 0.0]])
    found = ent.last_token_gap(torch.full((2, 4), 0.25), H, torch.tensor([1]), chosen=0, rejected=1)
    assert (found.own.item(), found.cross.item(), found.total.item()) == (1.0, -2.0, -1.0)
    products = gram(logp(W, H, torch.tensor([1, 0])), logp(W, H, torch.tensor([1, 1])), W)
    assert products == pytest.approx([2.75, 3.75, 6.75])
    assert ent.cases(*(f64(v) for v in products), f64(1.0), f64(1.0)).item() == 2
    with pytest.raises(ValueError, match="one row more than shared, got 2, 2 and 2"):
        ent.last_token_gap(torch.full((2, 4), 0.25), H, torch.tensor([1, 1]), chosen=0, rejected=1)


@some
@given(seed=SEEDS)
def test_theorem_3_with_logits_shared_by_position(seed: int) -> None:
    m = 1
    B = randn(seed, L, V).requires_grad_()
    offsets = randn(seed + 1, 2, L, V)
    offsets[1, : m + 1] = offsets[0, : m + 1]  # the contexts are the same up to the first difference
    chosen = torch.randint(0, V, (L,), generator=torch.Generator().manual_seed(seed))
    rejected = chosen.clone()
    rejected[m] = (chosen[m] + 1) % V
    logits = (B + offsets).log_softmax(-1)
    positions = torch.arange(L)
    a, b = logits[0, positions, chosen], logits[1, positions, rejected]
    s_w, s_l = logits.exp().detach()
    found = ent.position_gaps(s_w, s_l, chosen, rejected)
    ww, wl, _ = gram(a.sum(), b.sum(), B)
    assert found.sum().item() == pytest.approx(ww - wl, rel=1e-9, abs=1e-10)
    assert found[:m].abs().max().item() == 0
    assert found[m].item() == pytest.approx((1 - s_w[m, chosen[m]] + s_w[m, rejected[m]]).item())
    for i in range(m + 1, L):
        j = chosen[i]
        rest = torch.arange(V) != j
        third = (1 - s_w[i, j]) * (s_l[i, j] - s_w[i, j]) - (s_w[i] * (s_l[i] - s_w[i]))[rest].sum()
        assert found[i].item() == pytest.approx(third.item(), rel=1e-9, abs=1e-12)
        if s_w[i, j] >= s_l[i, j] and (s_w[i] <= s_l[i])[rest].all():
            assert found[i] <= 0


def test_theorem_3_sign_when_the_chosen_context_favours_the_common_token() -> None:
    s_w, s_l = f64([[0.5, 0.5], [0.8, 0.2]]), f64([[0.5, 0.5], [0.3, 0.7]])
    found = ent.position_gaps(s_w, s_l, torch.tensor([0, 0]), torch.tensor([1, 0]))
    # By hand: 1 − 0.5 + 0.5; (1 − 0.8)(0.3 − 0.8) − 0.2·(0.7 − 0.2).
    assert found.tolist() == pytest.approx([1.0, -0.2])
    with pytest.raises(ValueError, match="one length L"):
        ent.position_gaps(s_w, s_l[:1], torch.tensor([0, 0]), torch.tensor([1, 0]))

"""First-order changes, cases, the band and the small theorems, against gradients taken by automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loss_batches import batch, f64
from undertow import entanglement as ent
from undertow import losses
from undertow.losses import Logps

SEEDS = st.integers(0, 2**31)
some = settings(max_examples=30, deadline=None)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(seed: int, *, pairs: int = 50, size: int = 3) -> tuple[Tensor, Tensor]:
    """Random, some parallel, some opposite, some 0, of very different norms."""
    g = generator(seed)
    g_w, g_l = torch.randn(2, pairs, size, generator=g, dtype=torch.float64)
    scale = (2 * torch.randn(pairs, 1, generator=g, dtype=torch.float64)).exp()
    g_l[:15] = scale[:15] * g_w[:15] + 1e-9 * g_l[:15]
    g_l[15:20] = 3.7 * g_w[15:20]
    g_l[20:25] = -g_w[20:25]
    g_w[25], g_l[26] = 0, 0
    return g_w, g_l


def products(g_w: Tensor, g_l: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (g_w * g_w).sum(-1), (g_w * g_l).sum(-1), (g_l * g_l).sum(-1)


def weights(seed: int, *, pairs: int = 50) -> tuple[Tensor, Tensor]:
    """Positive, over several orders of magnitude."""
    d_w, d_l = (2 * torch.randn(2, pairs, generator=generator(seed + 1), dtype=torch.float64)).exp()
    return d_w, d_l


# --- changes and cases ---------------------------------------------------------------------------------------------


@some
@given(seed=SEEDS)
def test_changes_are_those_of_one_small_step(seed: int) -> None:
    """A quadratic a(θ), b(θ) moved by one step of descent on ℓ with dℓ = −d_w da + d_l db."""
    g_w, g_l = gradients(seed)
    d_w, d_l = torch.randn(2, 50, generator=generator(seed), dtype=torch.float64)  # of any sign
    step = d_w[:, None] * g_w - d_l[:, None] * g_l
    found = ent.first_order(*products(g_w, g_l), d_w, d_l)
    torch.testing.assert_close(found.dlogp_chosen, (step * g_w).sum(-1))
    torch.testing.assert_close(found.dlogp_rejected, (step * g_l).sum(-1))
    torch.testing.assert_close(found.dmargin, (step * (g_w - g_l)).sum(-1), rtol=1e-9, atol=1e-9)


def test_cases_by_definition() -> None:
    """One row for each sign of the two changes; g_w and g_l orthogonal or equal, so the changes are plain."""
    table = [
        # ww, wl, ll, d_w, d_l, case
        (1.0, 0.0, 1.0, 1.0, 1.0, 1),
        (1.0, 1.0, 1.0, 1.0, 1.0, 1),  # equal gradients: nothing moves, 0 ≥ 0 ≥ 0
        (1.0, 1.5, 2.25, 2.0, 1.0, 3),  # theory 5.2: up 0.5 and 0.75
        (1.0, 1.5, 2.25, 1.0, 1.0, 2),
        (1.0, 0.0, 1.0, -1.0, -1.0, 4),
        (1.0, 0.0, 1.0, -1.0, 1.0, 2),
        (1.0, 0.0, 1.0, 1.0, -1.0, 3),
        (1.0, 0.0, 1.0, 0.0, 1.0, 1),  # a weight of 0 leaves its response at 0
        (1.0, 0.5, 1.0, 0.0, 1.0, 2),
        (1.0, 0.5, 1.0, 1.0, 0.0, 3),
        (1.0, 0.5, 1.0, 0.0, 0.0, 0),
        (1.0, 0.5, 1.0, -0.0, 0.0, 0),
        (math.nan, 0.5, 1.0, 1.0, 1.0, -1),
        (1.0, math.nan, 1.0, 0.0, 0.0, -1),
        (1.0, 0.5, 1.0, math.nan, 1.0, -1),
        (1.0, math.inf, 1.0, 1.0, 1.0, -1),  # |⟨g_w,g_l⟩| beyond the norms: no gradients
        (math.inf, math.inf, 1.0, 1.0, 1.0, -1),  # ∞ − ∞
        (1.0, 5.0, 1.0, 1.0, 1.0, -1),
        (4.0, 6.0000001, 9.0, 1.5, 1.0, 1),  # the same within rounding: g_l = 1.5 g_w, nothing moves
        (4.0, 6.1, 9.0, 1.5, 1.0, -1),
        (1.0, 0.0, 1.0, math.inf, 1.0, -1),  # ∞·0
    ]
    *inputs, expected = zip(*table, strict=True)
    found = ent.cases(*(f64(column) for column in inputs))
    assert found.dtype == torch.int8 and found.tolist() == list(expected)


def test_the_margin_can_shrink_in_case_3() -> None:
    """Theory 5.2: d_w = 2, d_l = 1, g_w = 1, g_l = 1.5."""
    found = ent.first_order(*(f64(v) for v in (1.0, 1.5, 2.25, 2.0, 1.0)))
    assert (found.dlogp_chosen.item(), found.dlogp_rejected.item(), found.dmargin.item()) == (0.5, 0.75, -0.25)


@some
@given(seed=SEEDS)
def test_positive_weights_give_cases_1_2_3_only(seed: int) -> None:
    p, d = products(*gradients(seed)), weights(seed)
    assert set(ent.cases(*p, *d).tolist()) <= {1, 2, 3}
    single = [t.float() for t in (*p, *d)]
    assert set(ent.cases(*single).tolist()) <= {1, 2, 3}  # rounded to float32, parallel ones included
    equal = ent.first_order(*p, d[0], d[0])
    assert bool((equal.dmargin >= -1e-12).all())  # equal weights: ‖g_w − g_l‖², the margin never shrinks


@some
@given(seed=SEEDS)
def test_conditions_and_cases_say_the_same(seed: int) -> None:
    """(C1), (C2) divide; the cases do not. Away from the borders they agree, for any positive weights."""
    (ww, wl, ll), (d_w, d_l) = products(*gradients(seed)), weights(seed)
    limits = ent.thresholds(d_w, d_l)
    c1, c2 = wl <= limits.chosen * ww, wl <= limits.rejected * ll
    found = ent.cases(ww, wl, ll, d_w, d_l)
    clear = ((wl - limits.chosen * ww).abs() > 1e-9 * wl.abs()) & ((wl - limits.rejected * ll).abs() > 1e-9 * wl.abs())
    assert bool(((c1 & c2) == (found == 1))[clear].all())
    assert bool((~c1 & c2 == (found == 2))[clear].all()) and bool((c1 & ~c2 == (found == 3))[clear].all())
    assert int(clear.sum()) > 25


def test_thresholds_over_zero() -> None:
    d_w, d_l = f64([2.0, 0.0, 0.0, 1.0, -1.0]), f64([1.0, 0.0, 4.0, -0.0, 0.0])
    found = ent.thresholds(d_w, d_l)
    expected = (f64([2.0, math.nan, 0.0, math.inf, -math.inf]), f64([0.5, math.nan, math.inf, 0.0, 0.0]))
    torch.testing.assert_close((found.chosen, found.rejected), expected, rtol=0, atol=0, equal_nan=True)


# --- the band ------------------------------------------------------------------------------------------------------

# Theory 4.2, instance S, free-feature level: gg + hh.
S = [f64([gg + hh]) for gg, hh in ((0.0431831803, 1.9565438378), (-0.0028459092, 4.1296900435))]
S.append(f64([0.0511250012 + 10.5528362493]))


def test_golden_band_and_calibration() -> None:
    """Theory 5.3, band check."""
    found = ent.band(*S)
    assert found.cosine.item() == pytest.approx(0.8961870071, abs=1e-9)
    assert found.norm_ratio.item() == pytest.approx(2.3027601691, abs=1e-9)
    assert (found.lower.item(), found.upper.item()) == pytest.approx((2.0637037441, 2.5695085410), abs=1e-9)
    assert found.contains(found.lower).item() and found.contains(found.upper).item()
    d = f64([0.05])
    before = ent.first_order(*S, d, d)
    assert before.dlogp_chosen.item() == pytest.approx(-0.1063558558, abs=1e-9)
    assert before.dlogp_rejected.item() == pytest.approx(-0.3238558558, abs=1e-9)
    assert not found.contains(1.0).item() and ent.cases(*S, d, d).item() == 2
    a = f64([-1.0])
    logps = Logps(a, a, a, a, chosen_grad_norms=S[0].sqrt(), rejected_grad_norms=S[2].sqrt())
    calibrated = losses.RewardCalibrated(losses.DPO(beta=0.1))  # β/2 = 0.05 at the reference
    assert calibrated.delta(logps).item() == pytest.approx(1.5174848168, abs=1e-9)
    d_w, d_l = calibrated.weights(logps)
    assert (d_w.item(), d_l.item()) == pytest.approx((0.0758742408, 0.0329492588), abs=1e-9)
    after = ent.first_order(*S, d_w, d_l)
    assert after.dlogp_chosen.item() == pytest.approx(0.0157513138, abs=1e-9)
    assert after.dlogp_rejected.item() == pytest.approx(-0.0362714981, abs=1e-9)
    assert ent.cases(*S, d_w, d_l).item() == 1


@some
@given(seed=SEEDS)
def test_the_band_is_case_1_and_calibration_lies_in_it(seed: int) -> None:
    p, (d_w, _) = products(*gradients(seed)), weights(seed)
    found = ent.band(*p)
    entangled = p[1] > 0
    torch.testing.assert_close(found.lower[entangled], (found.cosine * found.norm_ratio)[entangled])
    torch.testing.assert_close(found.upper[entangled], (found.norm_ratio / found.cosine)[entangled])
    assert found.lower[~entangled].eq(0).all() and found.upper[~entangled].eq(math.inf).all()
    for factor, side in ((1 + 1e-7, found.lower), (1 - 1e-7, found.upper)):
        # Just inside each edge: case 1, unless the band is narrower than that.
        wide = entangled & (found.upper / found.lower > 1 + 1e-6)
        assert ent.cases(*p, factor * side, torch.ones_like(side))[wide].eq(1).all()
    assert ent.cases(*p, (1 - 1e-7) * found.lower, torch.ones_like(d_w))[entangled].eq(2).all()
    assert ent.cases(*p, (1 + 1e-7) * found.upper, torch.ones_like(d_w))[entangled].eq(3).all()
    some_gradient = (p[0] > 0) & (p[2] > 0)
    r = found.norm_ratio[some_gradient]
    assert ((found.lower[some_gradient] <= r * (1 + 1e-12)) & (r * (1 - 1e-12) <= found.upper[some_gradient])).all()
    # Calibrated weights: Δa = d_l'‖g_w‖‖g_l‖(1 − ρ) ≥ 0, Δb = −d_l'‖g_l‖²(1 − ρ) ≤ 0.
    a = torch.zeros_like(d_w)
    norms = (p[0].sqrt()[some_gradient], p[2].sqrt()[some_gradient])
    logps = Logps(a[some_gradient], a[some_gradient], chosen_grad_norms=norms[0], rejected_grad_norms=norms[1])
    e_w, e_l = losses.RewardCalibrated(losses.CPO(0.1, 0.5)).weights(logps)
    q = [t[some_gradient] for t in p]
    change, slack = ent.first_order(*q, e_w, e_l), 1 - found.cosine[some_gradient]
    size = e_l * norms[0] * norms[1]
    torch.testing.assert_close(change.dlogp_chosen / size, slack, rtol=0, atol=1e-12)
    torch.testing.assert_close(change.dlogp_rejected / (e_l * norms[1] ** 2), -slack, rtol=0, atol=1e-12)
    assert ent.cases(*q, e_w, e_l)[slack > 1e-12].eq(1).all()


@some
@given(seed=SEEDS)
def test_distances_lead_to_the_next_case(seed: int) -> None:
    """Going a hair further than the distance lands in the named case; a hair less does not leave."""
    (ww, wl, ll), (d_w, d_l) = products(*gradients(seed)), weights(seed)
    now, found = ent.cases(ww, wl, ll, d_w, d_l), ent.case_distance(ww, wl, ll, d_w, d_l)
    clear = found.inner_product.abs() > 1e-6 * (ww * ll).sqrt()
    assert ((found.inner_product > 0) == (now == 1))[clear].all()
    assert ((found.log_ratio > 0) == (now == 1))[clear].all()
    finite = clear & found.log_ratio.isfinite()
    # From 1 to 2 and from 3 to 1 the ratio falls; from 1 to 3 and from 2 to 1 it rises.
    rises = ((now == 1) & (found.next_case == 3)) | (now == 2)
    for factor, expected in ((1 + 1e-6, found.next_case), (1 - 1e-6, now)):
        moved = d_w * torch.exp(torch.where(rises, 1.0, -1.0) * factor * found.log_ratio.abs())
        landed = ent.cases(ww, wl, ll, moved, d_l)
        # Where the band is a sliver (nearly parallel gradients), one hair crosses it.
        wide = finite & (wl * wl < (1 - 1e-4) * ww * ll)
        assert landed[wide].equal(expected[wide])
    for factor, expected in ((1 + 1e-6, found.next_case), (1 - 1e-6, now)):
        cross = wl + factor * found.inner_product
        possible = clear & (cross * cross < (1 - 1e-4) * ww * ll)
        assert ent.cases(ww, cross, ll, d_w, d_l)[possible].equal(expected[possible])


def test_distances_need_positive_weights() -> None:
    one = f64([1.0, 1.0, 1.0, 1.0])
    found = ent.case_distance(one, f64([0.5, 0.5, -0.5, 0.5]), one, f64([0.0, -1.0, 1.0, 1.0]), f64([1.0, -1, 1, 1]))
    assert found.log_ratio.isnan().tolist() == [True, True, False, False]
    assert found.log_ratio.tolist()[2:] == pytest.approx([math.inf, math.log(2)])
    assert found.inner_product.tolist()[2:] == [1.5, 0.5]
    assert found.next_case.tolist() == [-1, -1, 2, 2]


# --- many losses ---------------------------------------------------------------------------------------------------


def test_cases_by_loss_are_those_of_each_loss() -> None:
    g_w, g_l = gradients(4)
    p = [t[30:46] for t in products(g_w, g_l + 0.7 * g_w)]
    logps = batch(4)
    found = ent.cases_by_loss(logps, *p)
    assert set(found.cases) == set(losses.names()) - {"rebel"}
    assert "eta" in found.left_out["rebel"]
    for name, case in found.cases.items():
        assert case.equal(ent.cases(*p, *losses.by_name(name).weights(logps))), name
    for pair in range(16):
        assert found.ideal_for(pair) == [n for n, c in found.cases.items() if c[pair] == 1]
    assert len({tuple(found.ideal_for(pair)) for pair in range(16)}) > 1  # the losses do differ


def test_cases_by_loss_without_reference_and_with_ones_own_choice() -> None:
    logps = Logps(f64([-9.0]), f64([-8.0]))
    found = ent.cases_by_loss(logps, *S)
    assert set(found.cases) == {"slic", "slic-hf", "cpo"}
    assert "needs ref_chosen and ref_rejected" in found.left_out["dpo"]
    # Norms are filled in from the products: calibration puts every pair into case 1.
    cpo = losses.CPO(0.1, 0.001)  # the ratio is near 1, below the band
    mine = ent.cases_by_loss(logps, *S, losses=[cpo, losses.RewardCalibrated(cpo)])
    assert [c.item() for c in mine.cases.values()] == [2, 1]
    assert mine.ideal_for(0) == [repr(losses.RewardCalibrated(cpo))]
    named = ent.cases_by_loss(logps, *S, losses={"mine": cpo})
    assert list(named.cases) == ["mine"] and not named.left_out
    with pytest.raises(ValueError, match="needs ref_chosen"):
        ent.cases_by_loss(logps, *S, losses=[losses.DPO()])

"""Preference losses: golden values, weights against automatic differentiation, kinks, limits, extremes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loss_batches import ALL, GOLDEN, batch, by_autograd, f64
from undertow import losses
from undertow.losses import Logps, PairLoss

SEEDS = st.integers(0, 2**31)
some = settings(max_examples=12, deadline=None)
every_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL.keys())

# Theory 1.5, checked there in float64 against automatic differentiation: A value, d_w, d_l; B value, d_w, d_l.
TABLE: list[tuple[PairLoss, tuple[float, ...]]] = [
    (losses.DPO(0.1), (0.7184596480, 0.0512497396, 0.0512497396, 0.6071917248, 0.0455121108, 0.0455121108)),
    (
        losses.ConservativeDPO(0.1, 0.1),
        (0.7134596480, 0.0412497396, 0.0412497396, 0.6251917248, 0.0355121108, 0.0355121108),
    ),
    (losses.RDPO(0.1, 0.2), (0.6209570478, 0.0462570155, 0.0462570155, 0.5210896139, 0.0406126897, 0.0406126897)),
    (losses.IPO(0.1), (30.25, 11, 11, 10.24, 6.4, 6.4)),
    (losses.AveragedIPO(0.1), (25.755625, 2.03, 2.5375, 21.0681, 1.836, 2.295)),
    (losses.SLiC(1.0), (4, 1, 1, 0, 0, 0)),
    (losses.SLiCHF(1.0, 0.1), (5.2, 1.1, 1, 0.92, 0.1, 0)),
    (losses.HingeRef(0.1), (1.05, 0.1, 0.1, 0.82, 0.1, 0.1)),
    (losses.REBEL(0.5), (3.24, 7.2, 7.2, 7.84, -11.2, -11.2)),
    (
        losses.GPO(0.1, "logistic"),
        (0.7184596480, 0.0512497396, 0.0512497396, 0.6071917248, 0.0455121108, 0.0455121108),
    ),
    (losses.GPO(0.1, "hinge"), (1.05, 0.1, 0.1, 0.82, 0.1, 0.1)),
    (losses.GPO(0.1, "squared"), (1.1025, 0.21, 0.21, 0.6724, 0.164, 0.164)),
    (
        losses.GPO(0.1, "exponential"),
        (1.0512710964, 0.1051271096, 0.1051271096, 0.8352702114, 0.0835270211, 0.0835270211),
    ),
    (losses.GPO(0.1, "truncated_quadratic"), (1.1025, 0.21, 0.21, 0.6724, 0.164, 0.164)),
    (losses.GPO(0.1, "savage"), (0.2626535814, 0.0256088610, 0.0256088610, 0.2071352226, 0.0225727221, 0.0225727221)),
    (losses.SimPO(2.0, 1.0), (1.5410084538, 0.3143339932, 0.3929174915, 0.2367586849, 0.0843273174, 0.1054091467)),
    (losses.CPO(0.1, 1.0), (12.8543552445, 1.0574442517, 0.0574442517, 9.7629153336, 1.0430453776, 0.0430453776)),
    (losses.RPO(0.1, 0.5), (6.7184596480, 0.5512497396, 0.0512497396, 5.2071917248, 0.5455121108, 0.0455121108)),
    (
        losses.RPO(0.1, 0.5, averaged=True),
        (1.9184596480, 0.1512497396, 0.0512497396, 1.5271917248, 0.1455121108, 0.0455121108),
    ),
    (losses.BoNBoN(8, 0.005), (346.1433875000, 37.1185, 37.1135, 266.0318875000, 32.5415, 32.5365)),
    (losses.DPOP(0.1, 50.0), (5.0563888810, 5.0675205709, 0.0993631484, 0.6071917248, 0.0455121108, 0.0455121108)),
    (losses.RRHF(1.0), (12.15, 1.2, 0.25, 9.2, 1, 0)),
    (
        losses.KTOPair(0.1, 1.0, 1.5, 0.2),
        (1.2537247653, 0.0249102156, 0.0374541000, 1.1900584207, 0.0249775135, 0.0373653233),
    ),
    (losses.SPPO(0.1), (56.25, 12, 9, 33.64, 8.4, 8)),
    (losses.ORPO(0.1), (2.4779738129, 0.2119099224, 0.0151317198, 1.8644917420, 0.2051648912, 0.0057153196)),
    (losses.DPOShift(0.1, 0.75), (0.7248853824, 0.0515619916, 0.0386714937, 0.6186473041, 0.0461327395, 0.0345995546)),
    (losses.CalDPO(0.1, 0.5), (29.0990769842, 6.6224593312, 5.1224593312, 16.9729776105, 4.3418510649, 4.1418510649)),
]


@pytest.mark.parametrize(("loss", "row"), TABLE, ids=lambda x: repr(x) if isinstance(x, PairLoss) else "")
def test_golden_values(loss: PairLoss, row: tuple[float, ...]) -> None:
    found = torch.stack([loss(GOLDEN), *loss.weights(GOLDEN)])
    torch.testing.assert_close(found, f64(row).reshape(2, 3).T, rtol=0, atol=6e-11)


def test_the_golden_table_has_every_loss() -> None:
    assert {loss.name for loss, _ in TABLE} == set(losses.names())


@every_loss
@some
@given(seed=SEEDS)
def test_weights_are_the_derivatives(loss: PairLoss, seed: int) -> None:
    """The closed forms against autograd through the value, and against the general way of a loss without them."""
    logps = batch(seed)
    weights = loss.weights(logps)
    for found, exact, general in zip(weights, by_autograd(loss, logps), PairLoss.derivatives(loss, logps), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(general, exact, rtol=0, atol=0)
        assert not found.requires_grad


@every_loss
def test_pairs_do_not_see_each_other_and_axes_do_not_matter(loss: PairLoss) -> None:
    logps = batch(3)
    names = [n for n in Logps.__dataclass_fields__ if getattr(logps, n) is not None]
    alone = [Logps(**{n: getattr(logps, n)[i : i + 1] for n in names}) for i in range(16)]
    square = Logps(**{n: getattr(logps, n).reshape(4, 4) for n in names})
    assert torch.cat([loss(one) for one in alone]).tolist() == loss(logps).tolist()
    assert loss(square).flatten().tolist() == loss(logps).tolist()
    assert loss.weights(square)[1].shape == (4, 4)


@every_loss
def test_half_precision_is_widened_and_float32_agrees(loss: PairLoss) -> None:
    exact = batch(1)
    single = batch(1, dtype=torch.float32)
    torch.testing.assert_close(loss(single).double(), loss(exact), rtol=1e-4, atol=1e-4)
    half = batch(1, dtype=torch.bfloat16)
    half = replace(half, chosen=half.chosen.bfloat16().requires_grad_())
    assert loss(half).dtype == torch.float32 == loss.weights(half)[0].dtype


@every_loss
@pytest.mark.parametrize("margin", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_margins(loss: PairLoss, margin: float, dtype: torch.dtype) -> None:
    """No NaN; the gradient through the value is the closed form."""
    low, high = torch.tensor([-1e4 - 5], dtype=dtype), torch.tensor([-5.0], dtype=dtype)
    a, b = (high, low) if margin > 0 else (low, high)
    ref, n = torch.tensor([-7.0], dtype=dtype), torch.tensor([3])
    logps = Logps(a, b, ref, ref, n, n, 0 * ref, 0 * ref)
    assert not loss(logps).isnan().any()
    for found, exact in zip(loss.weights(logps), by_autograd(loss, logps), strict=True):
        assert not found.isnan().any()
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-9)


def test_extreme_margins_keep_their_slopes() -> None:
    """By hand: far below, −ln σ(u) = −u and its slope is 1; far above both vanish as e^{−u}, not as 0 or by a kink."""
    zero = f64([0.0])
    far = Logps(f64([-1e4]), f64([-1.0]), zero, f64([-1.0]))
    assert losses.DPO(0.1)(far).item() == pytest.approx(1000, abs=0)
    assert losses.DPO(0.1).weights(far)[0].item() == 0.1
    above = Logps(f64([0.0]), f64([-300.0]), zero, zero)
    assert losses.DPO(0.1)(above).item() == pytest.approx(math.exp(-30), rel=1e-12)
    assert by_autograd(losses.DPO(0.1), above)[0].item() == pytest.approx(0.1 * math.exp(-30), rel=1e-12)


KINKS = [
    (losses.SLiC(delta=2.0), Logps(f64([-3.0]), f64([-5.0])), (0, 0)),
    (losses.SLiCHF(delta=2.0, lam=0.5), Logps(f64([-3.0]), f64([-5.0])), (0.5, 0)),
    (losses.HingeRef(beta=0.5), Logps(f64([-3.0]), f64([-5.0]), f64([-4.0]), f64([-4.0])), (0, 0)),
    (losses.GPO(beta=0.5, f="hinge"), Logps(f64([-3.0]), f64([-5.0]), f64([-4.0]), f64([-4.0])), (0, 0)),
    (
        losses.RRHF(lam=0.5),
        Logps(f64([-3.0]), f64([-6.0]), chosen_tokens=torch.tensor([2]), rejected_tokens=torch.tensor([4])),
        (0.5, 0),
    ),
    # a = a_ref, so the penalty is off: βσ(−βΔ) at Δ = 0.
    (losses.DPOP(beta=0.5, lam=50.0), Logps(f64([-3.0]), f64([-5.0]), f64([-3.0]), f64([-5.0])), (0.25, 0.25)),
]


@pytest.mark.parametrize(("loss", "logps", "expected"), KINKS, ids=lambda x: getattr(x, "name", ""))
def test_kinks_take_the_inactive_side(loss: PairLoss, logps: Logps, expected: tuple[float, float]) -> None:
    assert tuple(w.item() for w in loss.weights(logps)) == expected
    assert tuple(w.item() for w in by_autograd(loss, logps)) == expected


def test_at_the_reference() -> None:
    """Theory 1.2: r± = 0. Every logistic loss of the corrected margin is ln 2 there."""
    a, b, n = f64([-9.0]), f64([-12.0]), torch.tensor([4])
    logps = Logps(a, b, a, b, n, n)
    equal = {
        losses.DPO(0.2): (0.1, 0.1),
        losses.RDPO(0.2, 0.5): (0.1, 0.1),
        losses.DPOP(0.2, 50.0): (0.1, 0.1),
        losses.DPOShift(0.2, 0.6): (0.1, 0.06),
        losses.IPO(0.2): (5, 5),
        losses.SPPO(0.2): (5, 5),
        losses.KTOPair(0.2, 2.0, 1.0): (0.1, 0.05),
    }
    for loss, (d_w, d_l) in equal.items():
        found = loss.weights(logps)
        assert (found[0].item(), found[1].item()) == pytest.approx((d_w, d_l), abs=1e-15), loss
    for loss in (losses.DPO(), losses.RDPO(), losses.ConservativeDPO(), losses.DPOP(), losses.DPOShift()):
        assert loss(logps).item() == pytest.approx(math.log(2), abs=1e-15)


@some
@given(seed=SEEDS)
def test_losses_that_contain_each_other(seed: int) -> None:
    logps = batch(seed)
    ones = replace(logps, chosen_tokens=torch.ones(16), rejected_tokens=torch.ones(16))
    same = [
        (losses.GPO(0.3, "logistic")(logps), losses.DPO(0.3)(logps)),
        (losses.GPO(0.3, "squared")(logps), 0.09 * losses.IPO(0.15)(logps)),
        (losses.GPO(0.3, "hinge")(logps), losses.HingeRef(0.3)(logps)),
        (losses.ConservativeDPO(0.3, 0.0)(logps), losses.DPO(0.3)(logps)),
        (losses.RDPO(0.3, 0.0)(logps), losses.DPO(0.3)(logps)),
        (losses.RPO(0.3, 0.0)(logps), losses.DPO(0.3)(logps)),
        (losses.DPOP(0.3, 0.0)(logps), losses.DPO(0.3)(logps)),
        (losses.DPOShift(0.3, 1.0)(logps), losses.DPO(0.3)(logps)),
        (losses.CalDPO(0.3, 0.0)(logps), losses.DPO(1.0)(logps)),
        (losses.SLiCHF(2.0, 0.0)(logps), losses.SLiC(2.0)(logps)),
        (losses.AveragedIPO(0.3)(ones), losses.IPO(0.3)(logps)),
        (losses.RPO(0.3, 0.2, averaged=True)(ones), losses.RPO(0.3, 0.2)(logps)),
        (losses.SimPO(0.3, 0.0)(ones), losses.CPO(0.3, 0.0)(logps)),
    ]
    for found, expected in same:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@some
@given(seed=SEEDS)
def test_small_beta(seed: int) -> None:
    """β → 0: the value of a logistic loss goes to ln 2, its weights to β/2, to first order in β."""
    logps, beta = batch(seed), 1e-7
    for loss in (losses.DPO(beta), losses.GPO(beta), losses.CPO(beta, 0.0), losses.DPOShift(beta, 1.0)):
        torch.testing.assert_close(loss(logps), torch.full((16,), math.log(2)).double(), rtol=0, atol=1e-5)
        torch.testing.assert_close(loss.weights(logps)[0] / beta, torch.full((16,), 0.5).double(), rtol=0, atol=1e-5)


@some
@given(seed=SEEDS)
def test_swapping_the_responses(seed: int) -> None:
    """Where ℓ is a function of the corrected margin alone, swapping negates the margin; ℓ(Δ) − ℓ(−Δ) = −βΔ for DPO."""
    logps = batch(seed)
    swapped = Logps(logps.rejected, logps.chosen, logps.ref_rejected, logps.ref_chosen)
    torch.testing.assert_close(swapped.corrected_margin, -logps.corrected_margin)
    difference = losses.DPO(0.3)(logps) - losses.DPO(0.3)(swapped)
    torch.testing.assert_close(difference, -0.3 * logps.corrected_margin, rtol=1e-9, atol=1e-12)
    d_w, d_l = losses.SPPO(0.05).weights(logps)
    torch.testing.assert_close(d_w / d_l > 1, logps.chosen_logratio + logps.rejected_logratio < 0)

"""Losses as objects: what they need and refuse, their names, reward calibration, schedules, losses of one's own."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loss_batches import ALL, GOLDEN, batch, by_autograd, f64
from undertow import losses
from undertow.losses import Logps, PairLoss, RewardCalibrated

NAMES = [
    *(
        "dpo",
        "conservative-dpo",
        "r-dpo",
        "ipo",
        "averaged-ipo",
        "slic",
        "slic-hf",
        "hinge-ref",
        "rebel",
        "gpo",
        "simpo",
    ),
    *("cpo", "rpo", "bonbon", "dpop", "rrhf", "kto-pair", "sppo", "orpo", "dpo-shift", "cal-dpo"),
]
SEEDS = st.integers(0, 2**31)
some = settings(max_examples=12, deadline=None)
NEEDS = {
    "needs_reference": ("ref_chosen", "ref_rejected"),
    "needs_lengths": ("chosen_tokens", "rejected_tokens"),
    "needs_scores": ("chosen_scores", "rejected_scores"),
}


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL.keys())
def test_a_loss_needs_what_it_says_and_nothing_else(loss: PairLoss) -> None:
    full = replace(batch(0), chosen_grad_norms=None, rejected_grad_norms=None)
    for need, fields in NEEDS.items():
        for field in fields:
            without = replace(full, **{field: None})
            if getattr(loss, need):
                for use in (loss, loss.weights):
                    with pytest.raises(ValueError, match=f"{re.escape(repr(loss))} needs {field}"):
                        use(without)
            else:
                assert loss(without).equal(loss(full))
    if loss.averages_tokens:
        assert loss.needs_lengths


def test_which_losses_average() -> None:
    averaging = {name for name, loss in ALL.items() if loss.averages_tokens}
    assert averaging == {"averaged-ipo", "simpo", "rpo averaged", "rrhf", "orpo"}


BAD = [
    (losses.DPO, {"beta": 0}, "DPO: beta must be a number in (0, inf), got 0"),
    (losses.DPO, {"beta": math.nan}, "beta must be a number in (0, inf), got nan"),
    (losses.DPO, {"beta": math.inf}, "got inf"),
    (losses.DPO, {"beta": "0.1"}, "got '0.1'"),
    (losses.DPO, {"beta": True}, "got True"),
    (losses.ConservativeDPO, {"epsilon": 0.6}, "epsilon must be a number in [0, 0.5], got 0.6"),
    (losses.RDPO, {"alpha": -1}, "alpha"),
    (losses.IPO, {"tau": 0}, "tau"),
    (losses.AveragedIPO, {"tau": -1}, "tau"),
    (losses.SLiC, {"delta": -1}, "delta"),
    (losses.SLiCHF, {"lam": -1}, "lam"),
    (losses.HingeRef, {"beta": 0}, "beta"),
    (losses.REBEL, {"eta": 0}, "eta"),
    (losses.GPO, {"f": "sine"}, "f must be one of logistic, hinge, squared"),
    (losses.SimPO, {"gamma": -0.1}, "gamma"),
    (losses.CPO, {"lam": -0.1}, "lam"),
    (losses.RPO, {"averaged": 1}, "averaged must be one of True, False; got 1"),
    (losses.BoNBoN, {"n": 1}, "n must be a whole number, at least 2, got 1"),
    (losses.BoNBoN, {"n": 2.5}, "n must be a whole number"),
    (losses.BoNBoN, {"alpha": 1.5}, "alpha must be a number in [0, 1]"),
    (losses.DPOP, {"lam": -1}, "lam"),
    (losses.RRHF, {"lam": -1}, "lam"),
    (losses.KTOPair, {"z": -0.1}, "z must be a number in [0, inf)"),
    (losses.SPPO, {"beta": 0}, "beta"),
    (losses.ORPO, {"lam": -1}, "lam"),
    (losses.DPOShift, {"f": 0}, "f must be a number in (0, 1], got 0"),
    (losses.DPOShift, {"f_end": 0.5}, "f_end and steps belong together"),
    (losses.DPOShift, {"f_end": 0.5, "steps": 10, "step": 11}, "step must be a number in [0, 10], got 11"),
    (losses.CalDPO, {"kappa": -1}, "kappa"),
    (RewardCalibrated, {"loss": "dpo"}, "loss must be a loss such as DPO(), got 'dpo'"),
]


@pytest.mark.parametrize(("kind", "wrong", "message"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_parameters_are_checked_on_creation(kind: type[PairLoss], wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**wrong)


def test_losses_are_values() -> None:
    loss = losses.DPO(beta=0.2)
    assert loss == losses.DPO(0.2) != losses.DPO(0.1) and len({loss, losses.DPO(0.2)}) == 1
    assert eval(repr(loss), vars(losses)) == loss
    for field in ("beta", "misspelt"):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(loss, field, 0.3)


def test_logps_refuse_what_would_broadcast() -> None:
    a = f64([-1.0, -2.0])
    with pytest.raises(ValueError, match=re.escape("ref_chosen is (2, 1), chosen is (2,)")):
        Logps(a, a, ref_chosen=a[:, None], ref_rejected=a)
    with pytest.raises(ValueError, match="rejected must have the shape of chosen"):
        Logps(a, a[:1])
    with pytest.raises(ValueError, match="rejected_tokens must be above 0 tokens, got 0"):
        Logps(a, a, chosen_tokens=torch.tensor([1, 1]), rejected_tokens=torch.tensor([3, 0]))
    with pytest.raises(ValueError, match=r"chosen_tokens must hold numbers, got torch\.bool"):
        Logps(a, a, chosen_tokens=torch.tensor([True, True]))
    with pytest.raises(ValueError, match=r"chosen must be of a floating type, got torch\.int64"):
        Logps(a.long(), a)
    with pytest.raises(TypeError, match="ref_chosen must be a tensor"):
        Logps(a, a, ref_chosen=[-1.0, -2.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ref_chosen is needed here"):
        _ = Logps(a, a).corrected_margin


@pytest.mark.parametrize("field", ["chosen", "rejected"])
def test_orpo_refuses_certain_responses(field: str) -> None:
    certain = replace(GOLDEN, **{field: f64([-3.0, 0.0])})
    for use in (losses.ORPO(), losses.ORPO().weights):
        with pytest.raises(ValueError, match=rf"{field}\[1\] is not below 0"):
            use(certain)


@pytest.mark.parametrize("s", [-1e-12, -1e-3, -0.6931, -0.6932, -40.0, -700.0])
def test_orpo_odds_near_certainty_and_far_from_it(s: float) -> None:
    """logit(e^s) to full precision on both sides of ln 2, by plain arithmetic with expm1."""
    one = torch.tensor([1])
    logps = Logps(f64([s]), f64([-1.0]), chosen_tokens=one, rejected_tokens=one)
    lo = s - math.log(-math.expm1(s)) - (-1.0 - math.log(-math.expm1(-1.0)))
    expected = -s + math.log1p(math.exp(-lo)) if lo > 0 else -s - lo + math.log1p(math.exp(lo))
    assert losses.ORPO(1.0)(logps).item() == pytest.approx(expected, rel=1e-13)
    for found, exact in zip(losses.ORPO(1.0).weights(logps), by_autograd(losses.ORPO(1.0), logps), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=0)


def test_dpo_shift_schedules() -> None:
    up = losses.DPOShift(f=0.55, f_end=0.95, steps=100)
    down = losses.DPOShift(f=0.95, f_end=0.55, steps=100)
    assert [up.at_step(t).f_now for t in (0, 25, 100)] == pytest.approx([0.55, 0.65, 0.95])
    assert [down.at_step(t).f_now for t in (0, 25, 100)] == pytest.approx([0.95, 0.85, 0.55])
    assert losses.DPOShift(f=0.7).at_step(10**6).f_now == 0.7
    d_w, d_l = up.at_step(25).weights(GOLDEN)
    torch.testing.assert_close(d_l / d_w, f64([0.65, 0.65]))
    assert losses.DPO().at_step(3) == losses.DPO()
    assert RewardCalibrated(up).at_step(25).loss == up.at_step(25)


def test_kto_reference_point() -> None:
    policy, ref = f64([-3.0, -5.0, -1.0]), f64([-4.0, -5.5, -1.0])
    assert losses.kto_z(policy.requires_grad_(), ref) == 0.5
    assert losses.kto_z(ref, policy) == 0.0
    with pytest.raises(ValueError, match="not empty"):
        losses.kto_z(policy[:0], ref[:0])


@some
@given(seed=SEEDS)
def test_calibration_keeps_values_and_turns_the_ratio(seed: int) -> None:
    logps = batch(seed)
    for inner in (losses.DPO(0.3), losses.SimPO(), losses.RPO(0.3, 0.2), losses.DPOShift(), losses.SLiCHF(1000.0)):
        loss = RewardCalibrated(inner)
        torch.testing.assert_close(loss(logps), inner(logps), rtol=0, atol=0)
        d_w, d_l = loss.weights(logps)
        for found, exact in zip((d_w, d_l), by_autograd(loss, logps), strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(d_w / d_l, logps.given("rejected_grad_norms") / logps.given("chosen_grad_norms"))
        before = inner.weights(logps)
        torch.testing.assert_close(d_w * d_l, before[0] * before[1])
        torch.testing.assert_close(loss.delta(logps) * before[0], d_w)


def test_calibration_where_it_is_not_defined() -> None:
    a = f64([-1.0, -1.0])
    one = torch.ones_like(a)
    idle = Logps(a, f64([-9.0, -1.0]), chosen_grad_norms=2 * one, rejected_grad_norms=one)
    loss = RewardCalibrated(losses.SLiC())  # the first pair is past the hinge: both weights 0
    assert loss.delta(idle).tolist() == [1.0, math.sqrt(0.5)]
    assert loss.weights(idle)[0].tolist() == [0.0, math.sqrt(0.5)] and loss(idle).tolist() == [0.0, 1.0]
    half = RewardCalibrated(losses.SLiCHF())  # d_l = 0 < d_w there
    assert half.weights(idle)[0].isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match=r"pair 0 cannot be calibrated.*d_w = 1 and d_l = 0"):
        half(idle)
    past = RewardCalibrated(losses.IPO(tau=1.0))  # past the target both weights are negative
    with pytest.raises(ValueError, match="d_w = -15"):
        past(replace(idle, ref_chosen=a, ref_rejected=a))
    with pytest.raises(ValueError, match="needs chosen_grad_norms and rejected_grad_norms"):
        loss(replace(idle, chosen_grad_norms=None, rejected_grad_norms=None))


def test_every_loss_has_its_name() -> None:
    assert losses.names() == sorted(NAMES)
    for name in losses.names():
        loss = losses.by_name(name, **({"eta": 1.0} if name == "rebel" else {}))
        assert loss.name == name
        assert type(loss).__name__ in losses.__all__


def test_by_name_reads_texts_as_the_command_line_gives_them() -> None:
    assert losses.by_name("dpo", beta="0.3") == losses.DPO(beta=0.3)
    assert losses.by_name("rpo", averaged="true", lam="1e-2") == losses.RPO(averaged=True, lam=0.01)
    assert losses.by_name("bonbon", n="4") == losses.BoNBoN(n=4)
    assert losses.by_name("gpo", f="savage") == losses.GPO(f="savage")
    shift = losses.by_name("dpo-shift", f_end="0.9", steps="10")
    assert shift == losses.DPOShift(f_end=0.9, steps=10)


@pytest.mark.parametrize(
    ("name", "given_parameters", "message"),
    [
        ("dpp", {}, "there is no loss 'dpp' (did you mean dpop?); losses: averaged-ipo, bonbon"),
        ("R_DPO", {}, "did you mean r-dpo?"),
        ("dpo", {"bata": 1}, "the loss dpo has no parameter 'bata' (did you mean beta?); its parameters: beta"),
        ("bonbon", {"n": "4.5"}, "the loss bonbon: n must be a whole number, got '4.5'"),
        ("dpo", {"beta": "much"}, "the loss dpo: beta must be a number, got 'much'"),
        ("rpo", {"averaged": "maybe"}, "averaged must be true or false, got 'maybe'"),
        ("dpo", {"beta": "-1"}, "beta must be a number in (0, inf), got -1.0"),
        ("rebel", {}, "the loss rebel has no usual value of eta: it must be given"),
    ],
)
def test_by_name_says_what_exists(name: str, given_parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.by_name(name, **given_parameters)


def test_a_loss_of_ones_own_gets_exact_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented example runs as it stands; its weights are those of its formula."""
    from undertow.maths.losses import registry

    monkeypatch.setattr(registry, "_LOSSES", dict(registry._LOSSES))
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    example = next(b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "@losses.register" in b)
    space: dict[str, object] = {}
    exec(example, space)
    assert len(example.split("class ")[1].splitlines()) <= 10
    loss = losses.by_name("tempered", beta="0.5", power="2")
    assert isinstance(loss, PairLoss)
    logps = batch(5)
    u = (0.5 * logps.corrected_margin).sigmoid()
    torch.testing.assert_close(loss(logps), (1 - u) ** 2)
    slope = 2 * (1 - u) * 0.5 * u * (1 - u)
    for found in loss.weights(logps):
        torch.testing.assert_close(found, slope)
    with pytest.raises(ValueError, match="needs ref_chosen"):
        loss(Logps(logps.chosen, logps.rejected))


def test_registering_refuses_double_names_and_nameless_losses() -> None:
    class Nameless(PairLoss):
        def value(self, logps: Logps) -> Tensor:
            return -logps.margin

    with pytest.raises(ValueError, match="Nameless needs a name"):
        losses.register(Nameless)

    @dataclass(frozen=True)
    class Taken(Nameless):
        name = "dpo"

    with pytest.raises(ValueError, match="the name dpo is taken by DPO"):
        losses.register(Taken)

    class Mean(Nameless):
        def value(self, logps: Logps) -> Tensor:
            return -logps.margin.mean()

    with pytest.raises(ValueError, match="one value a pair"):
        Mean()(GOLDEN)
    # The value does not depend on the rejected response, and yet its weight is a number: 0.
    assert [w.tolist() for w in Linear().weights(GOLDEN)] == [[2.0, 2.0], [0.0, 0.0]]


class Linear(PairLoss):
    def value(self, logps: Logps) -> Tensor:
        return -2 * logps.chosen

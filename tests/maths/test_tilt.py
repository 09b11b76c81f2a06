"""Total probability mass under a tilt: theorems as laws, the counterexample, estimates against the exact number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undertow import tilt

SEEDS = st.integers(0, 2**31)
some = settings(max_examples=60, deadline=None)


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Theory 6.2: the hypotheses of Theorem 2 hold, its conclusion does not.
COUNTEREXAMPLE = (f64([0.0, 2, 3]), f64([0.1, 0.8, 0.1]).log(), f64([0.6, 0.1, 0.3]).log())


def random_mixture(seed: int, *, outcomes: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards with ties, distributions with zeros in places."""
    g = torch.Generator().manual_seed(seed)
    reward = (2 * torch.randn(outcomes, generator=g, dtype=torch.float64)).round(decimals=0)
    parts = torch.rand(2, outcomes, generator=g, dtype=torch.float64)
    parts[torch.rand(2, outcomes, generator=g) < 0.2] = 0
    parts[:, 0] += 0.01
    parts = parts / parts.sum(-1, keepdim=True)
    return reward, parts[0].log(), parts[1].log()


@some
@given(seed=SEEDS, alpha=st.floats(0.01, 0.99), beta=st.floats(0.1, 10))
def test_lemma_1_and_the_mass_by_plain_arithmetic(seed: int, alpha: float, beta: float) -> None:
    reward, log_a, log_u = random_mixture(seed)
    found = tilt.tilted_mixture(reward, log_a, log_u, alpha=alpha, beta=beta)
    p_a, p_u, e = log_a.exp(), log_u.exp(), (reward / beta).exp()
    p_ref = alpha * p_a + (1 - alpha) * p_u
    Z = (p_ref * e).sum()
    optimum = p_ref * e / Z
    torch.testing.assert_close(found.tilted, optimum, rtol=1e-10, atol=1e-300)
    lemma = found.log_weight_aligned.exp() * p_a + found.log_weight_unaligned.exp() * p_u
    torch.testing.assert_close(lemma, optimum, rtol=1e-10, atol=0)
    mass = (found.log_weight_aligned.exp() * p_a).sum()
    torch.testing.assert_close(found.mass_aligned, mass, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.mass_unaligned, 1 - mass, rtol=1e-9, atol=1e-12)
    seen = p_ref > 0
    membership = found.log_membership[seen].exp()
    torch.testing.assert_close((optimum[seen] * membership).sum(), mass, rtol=1e-10, atol=0)
    covariance = (p_ref[seen] * membership * e[seen]).sum() - alpha * Z
    torch.testing.assert_close(covariance / Z, mass - alpha, rtol=1e-8, atol=1e-10)
    assert found.log_z.item() == pytest.approx(Z.log().item(), abs=1e-10)


@some
@given(seed=SEEDS)
def test_the_optimum_is_not_beaten(seed: int) -> None:
    """p* maximises E_p[r] − β KL(p‖p_ref): every other distribution on the support has less."""
    reward, log_a, log_u = random_mixture(seed)
    found = tilt.tilted_mixture(reward, log_a, log_u, alpha=0.4, beta=0.7)
    log_ref = torch.logaddexp(math.log(0.4) + log_a, math.log(0.6) + log_u)

    def objective(log_p: Tensor) -> float:
        p = log_p.exp()
        seen = p > 0
        return (p * reward)[seen].sum().item() - 0.7 * (p * (log_p - log_ref))[seen].sum().item()

    noise = torch.randn(20, len(reward), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    best = objective(found.log_tilted)
    assert best == pytest.approx(0.7 * found.log_z.item(), abs=1e-9)
    assert all(objective((found.log_tilted + 0.1 * z).log_softmax(-1)) <= best + 1e-12 for z in noise)


@some
@given(seed=SEEDS, beta=st.floats(0.05, 20))
def test_conditions_hold_what_they_promise(seed: int, beta: float) -> None:
    mixture = random_mixture(seed)
    found = tilt.tilt_conditions(*mixture, beta=beta)
    for alpha in (0.05, 0.5, 0.9):
        exact = tilt.tilted_mixture(*mixture, alpha=alpha, beta=beta)
        shift = exact.logit_mass - exact.logit_alpha
        assert shift.item() == pytest.approx(found.log_ratio.item(), abs=1e-9)
        assert shift.abs() <= found.logit_bound + 1e-9
        assert bool(found.mass_grows) == (shift.item() >= -1e-12)
    assert not found.corrected or found.mass_grows
    assert not found.dominates or found.mass_grows


@some
@given(seed=SEEDS, beta=st.floats(0.02, 50))
def test_stochastic_dominance_is_enough_at_every_beta(seed: int, beta: float) -> None:
    """Built to dominate: p_A takes p_U's probability and moves some of it to outcomes of higher reward."""
    reward, _, log_u = random_mixture(seed)
    g = torch.Generator().manual_seed(seed)
    p_a = log_u.exp()
    for _ in range(4):
        i, j = torch.randint(0, len(reward), (2,), generator=g)
        low, high = (i, j) if reward[i] <= reward[j] else (j, i)
        moved = p_a[low] * torch.rand((), generator=g, dtype=torch.float64)
        p_a[low] -= moved
        p_a[high] += moved
    found = tilt.tilt_conditions(reward, p_a.log(), log_u, beta=beta)
    assert found.dominates and found.mass_grows


def test_dominance_looks_at_every_threshold_and_takes_ties_together() -> None:
    reward = f64([0.0, 1, 1, 2])
    p_u = f64([0.4, 0.3, 0.1, 0.2]).log()
    tied = f64([0.4, 0.1, 0.3, 0.2]).log()  # the same distribution of the reward
    assert tilt.tilt_conditions(reward, tied, p_u, beta=1.0).dominates
    assert tilt.tilt_conditions(reward, p_u, tied, beta=1.0).dominates
    higher_mean_only = f64([0.0, 0.5, 0.4, 0.1]).log()
    found = tilt.tilt_conditions(reward, higher_mean_only, p_u, beta=1.0)
    assert not found.dominates and found.mass_grows  # sufficient, not necessary


def test_published_theorem_fails_on_the_counterexample() -> None:
    """Theory 6.2, all numbers worked out there."""
    found = tilt.tilt_conditions(*COUNTEREXAMPLE, beta=0.5)
    assert found.theorem_2 and not found.mass_grows
    assert not found.corrected and not found.dominates
    assert found.reward_correlations.tolist() == pytest.approx([0.188982, -0.737043], abs=1e-6)
    assert found.tilt_correlations[0].item() == pytest.approx(-0.390017, abs=1e-6)
    exact = tilt.tilted_mixture(*COUNTEREXAMPLE, alpha=0.5, beta=0.5)
    assert exact.mass_aligned.item() == pytest.approx(0.3982835006, abs=1e-10)
    assert exact.log_mean_aligned.exp().item() == pytest.approx(84.1213993758, abs=1e-9)
    assert exact.log_mean_unaligned.exp().item() == pytest.approx(127.0884530511, abs=1e-9)
    assert exact.log_z.exp().item() == pytest.approx(105.6049262135, abs=1e-9)
    assert exact.tilted.tolist() == pytest.approx([0.0033142393, 0.2326517180, 0.7640340426], abs=1e-10)


def test_the_counterexample_turns_with_beta() -> None:
    betas = f64([0.5, 1.0])
    batch = [t.expand(2, -1) for t in COUNTEREXAMPLE]
    exact = tilt.tilted_mixture(*batch, alpha=0.5, beta=betas)
    assert exact.mass_aligned.tolist() == pytest.approx([0.3982835006, 0.5212953825], abs=1e-10)
    low, high = 0.5, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        grows = bool(tilt.tilt_conditions(*COUNTEREXAMPLE, beta=middle).log_ratio > 0)
        low, high = (low, middle) if grows else (middle, high)
    assert low == pytest.approx(0.8449995, abs=5e-8)


def test_golden_second_instance() -> None:
    reward, p_a, p_u = f64([-1.0, 0, 1]), f64([0.2, 0.3, 0.5]), f64([0.5, 0.4, 0.1])
    found = tilt.tilted_mixture(reward, p_a.log(), p_u.log(), alpha=0.3, beta=1.0)
    assert found.log_z.exp().item() == pytest.approx(1.1188525731, abs=1e-10)
    assert found.mass_aligned.item() == pytest.approx(0.4645965458, abs=1e-10)
    assert found.tilted.tolist() == pytest.approx([0.1348082621, 0.3306959370, 0.5344958010], abs=1e-10)
    expected = [0.3288006392, 0.8937728026, 2.4295263681]
    assert found.log_amplification.exp().tolist() == pytest.approx(expected, abs=1e-10)
    one = tilt.log_amplification(reward[2], found.log_z, beta=1.0)
    assert one.exp().item() == pytest.approx(expected[2], abs=1e-10)
    # A response shrinks iff r < β ln Z; the middle one has r = 0, so e^{r/β} = 1, and shrinks.
    assert (found.log_amplification < 0).tolist() == (reward < found.log_z).tolist() == [True, True, False]


def test_weak_tilt_has_its_known_limit() -> None:
    """(d) of theory 6.2: TPM(A) − α ≈ α(1−α)(E_A[r] − E_U[r])/β."""
    reward, log_a, log_u = COUNTEREXAMPLE
    beta = 1e4
    shift = tilt.tilted_mixture(reward, log_a, log_u, alpha=0.3, beta=beta).mass_aligned - 0.3
    expected = 0.3 * 0.7 * (1.9 - 1.1) / beta
    assert shift.item() == pytest.approx(expected, rel=1e-3)


def test_nothing_is_ever_expunged() -> None:
    """A strong tilt: float64 would round to 0 and 1, the theorem forbids both, and the logarithms know better."""
    reward, p_a, p_u = f64([0.0, 5000]), f64([1 - 1e-6, 1e-6]), f64([1e-6, 1 - 1e-6])
    sure = f64([1.0, 0]), f64([0.0, 1])
    for log_a, log_u in ((p_a.log(), p_u.log()), (sure[0].log(), sure[1].log())):
        found = tilt.tilted_mixture(reward, log_a, log_u, alpha=0.5, beta=1.0)
        assert 0 < found.mass_aligned < 1 and 0 < found.mass_unaligned < 1
        assert (found.tilted > 0).all() and (found.tilted < 1).all()
        assert found.log_tilted.isfinite().all() and found.logit_mass.isfinite()
        assert (found.logit_mass - found.logit_alpha).abs() <= found.logit_bound
    assert found.logit_mass.item() == -5000
    assert found.log_mass_aligned.item() == -5000
    assert found.log_mass_unaligned.item() == 0  # ln(1 − e^{−5000}): use the other one


def test_zeros_drop_out() -> None:
    """An outcome that neither part has changes nothing, whatever reward stands there."""
    reward, log_a, log_u = COUNTEREXAMPLE
    nothing = f64([-math.inf])
    for r in (7.0, math.inf, math.nan):
        longer = torch.cat([reward, f64([r])]), torch.cat([log_a, nothing]), torch.cat([log_u, nothing])
        found = tilt.tilted_mixture(*longer, alpha=0.5, beta=0.5)
        assert found.mass_aligned.item() == pytest.approx(0.3982835006, abs=1e-10)
        assert found.tilted[3] == 0 and found.log_tilted[3] == -math.inf
        conditions = tilt.tilt_conditions(*longer, beta=0.5)
        assert conditions.reward_correlations.tolist() == pytest.approx([0.188982, -0.737043], abs=1e-6)
        assert conditions.logit_bound == 6.0


@some
@given(seed=SEEDS, beta=st.floats(0.05, 5))
def test_a_tuned_model_is_the_tilt_by_its_implied_reward(seed: int, beta: float) -> None:
    """Theory 6.3: with r̂ = β(ln π_θ − ln π_ref) the optimum is π_θ itself and Z = 1."""
    _, log_ref, _ = random_mixture(seed)
    seen = log_ref[log_ref > -math.inf]
    policy = torch.randn(len(seen), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)
    reward = tilt.implied_reward(policy, seen, beta=beta)
    found = tilt.tilted_mixture(reward, seen, seen, alpha=0.5, beta=beta)
    assert found.log_z.item() == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(found.log_tilted, policy)
    torch.testing.assert_close(found.log_amplification, tilt.policy_log_amplification(policy, seen))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1, got 1.0"),
        ({"beta": 0.0}, "beta must be positive, got 0.0"),
        ({"log_aligned": f64([0.1, 0.8, 0.2]).log()}, "log_aligned must hold log-probabilities that sum to 1"),
        ({"log_unaligned": f64([0.5, 0.5]).log()}, r"got \(3,\), \(3,\) and \(2,\)"),
        ({"reward": f64([0.0, math.inf, 1])}, "reward must be finite"),
    ],
)
def test_mixtures_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    given_ = dict(zip(("reward", "log_aligned", "log_unaligned"), COUNTEREXAMPLE, strict=True))
    with pytest.raises(ValueError, match=message):
        tilt.tilted_mixture(**(given_ | {"alpha": 0.5, "beta": 0.5} | change))


def test_a_constant_has_no_correlation() -> None:
    """Missing, not zero and not the rounding of a third: no condition that needs it holds."""
    g = torch.Generator().manual_seed(0)
    for n in range(2, 15):
        flat, steps = f64([1 / n] * n), torch.arange(n, dtype=torch.float64)
        uneven = torch.rand(n, generator=g, dtype=torch.float64).log_softmax(-1)
        for reward, log_a in ((steps, flat.log()), (flat, uneven)):
            found = tilt.tilt_conditions(reward, log_a, steps.log_softmax(-1), beta=0.7)
            assert found.reward_correlations[0].isnan() and found.tilt_correlations[0].isnan()
            assert not found.theorem_2 and not found.corrected
        assert found.mass_grows  # a constant reward changes nothing

"""The aligned mass from samples: golden numbers, convergence to the exact mass, honest doubt."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from undertow import tilt


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Theory 6.2: outcomes, aligned and unaligned part.
MIXTURE = (f64([0.0, 2, 3]), f64([0.1, 0.8, 0.1]).log(), f64([0.6, 0.1, 0.3]).log())


def test_golden_estimate() -> None:
    found = tilt.estimate_mass(f64([0.5, -1, 0.2, -0.3]), f64([1, 0, 0.5, 1]))
    assert found.mass_aligned.item() == pytest.approx(0.7540526075, abs=1e-10)
    assert found.ess.item() == pytest.approx(3.2346142722, abs=1e-10)
    assert found.log_z.item() == pytest.approx(-0.0053086433, abs=1e-10)
    assert found.standard_error.item() == pytest.approx(0.1530569483, abs=1e-10)
    assert found.largest_weight.item() == pytest.approx(0.4143742542, abs=1e-10)
    assert found.alpha.item() == 0.625
    assert not found.reliable  # ESS below 10


def samples_of(seed: int, count: int, beta: float) -> tuple[Tensor, Tensor]:
    reward, log_a, log_u = MIXTURE
    g = torch.Generator().manual_seed(seed)
    aligned = torch.rand(count, generator=g) < 0.5
    parts = torch.stack([log_u.exp(), log_a.exp()])[aligned.long()]
    drawn = torch.multinomial(parts, 1, generator=g).squeeze(1)
    return reward[drawn] / beta, aligned.double()


def test_estimates_approach_the_exact_mass_and_their_doubt_is_honest() -> None:
    """Over 200 data sets: unbiased to a tenth of an error, the stated error is the scatter, 95% intervals cover."""
    exact = tilt.tilted_mixture(*MIXTURE, alpha=0.5, beta=1.0)
    truth = exact.mass_aligned
    found = [tilt.estimate_mass(*samples_of(s, 400, 1.0), resamples=300, seed=s) for s in range(200)]
    masses = torch.stack([f.mass_aligned for f in found])
    errors = torch.stack([f.standard_error for f in found])
    assert abs(masses.mean() - truth) < 0.2 * errors.mean()
    assert errors.mean().item() == pytest.approx(masses.std().item(), rel=0.15)
    for name, value in (("mass", truth), ("alpha", f64(0.5)), ("log_z", exact.log_z)):
        ends = torch.stack([getattr(f, f"{name}_interval") for f in found])
        covered = ((ends[:, 0] <= value) & (value <= ends[:, 1])).double().mean().item()
        # Binomial scatter of 200 at 0.95 is 0.015; a percentile interval may be a little short.
        assert 0.89 <= covered <= 0.99, name
    # ESS/N → 1/(1 + χ²(p*‖p_ref)).
    _, log_a, log_u = MIXTURE
    p_ref = 0.5 * (log_a.exp() + log_u.exp())
    limit = 1 / (exact.tilted.square() / p_ref).sum()
    assert (torch.stack([f.ess for f in found]).mean() / 400).item() == pytest.approx(limit.item(), rel=0.02)
    assert all(f.reliable for f in found)


def test_bootstrap_is_seeded_and_its_level_acts() -> None:
    data = samples_of(1, 60, 1.0)
    first, again, other = (tilt.estimate_mass(*data, seed=s).mass_interval for s in (0, 0, 1))
    assert first.tolist() == again.tolist() and first.tolist() != other.tolist()
    half = tilt.estimate_mass(*data, level=0.5).mass_interval
    assert first[0] < half[0] < half[1] < first[1]


def test_one_heavy_sample_is_not_reliable() -> None:
    log_w = torch.zeros(1000, dtype=torch.float64)
    labels = f64([1.0, 0] * 500)
    assert tilt.estimate_mass(log_w, labels, resamples=10).reliable
    log_w[0] = math.log(998)  # just below half of the weight, and yet an ESS of 4
    found = tilt.estimate_mass(log_w, labels, resamples=10)
    assert found.largest_weight < 0.5 and found.ess < 10 and not found.reliable
    log_w[0] = 2000.0
    found = tilt.estimate_mass(log_w, labels, resamples=10)
    assert found.largest_weight > 0.5 and found.ess < 4 and not found.reliable
    # Both parts were sampled: the mass is not exactly 1, and the other part is not exactly 0.
    assert 0 < found.mass_unaligned < found.mass_aligned < 1
    assert found.log_mass_unaligned.item() == pytest.approx(math.log(500) - 2000, rel=1e-12)


def test_impossible_samples_weigh_nothing() -> None:
    log_w, labels = f64([0.3, -0.2, -math.inf, 0.1]), f64([1, 0, 1, 1])
    found = tilt.estimate_mass(log_w, labels)
    seen = torch.tensor([0, 1, 3])
    without = tilt.estimate_mass(log_w[seen], labels[seen])
    assert found.mass_aligned.item() == pytest.approx(without.mass_aligned.item(), rel=1e-12)
    assert found.log_z.item() == pytest.approx(without.log_z.item() + math.log(3 / 4), rel=1e-9)
    assert found.mass_interval.isfinite().all()


def test_labels_all_alike_leave_the_other_part_unseen() -> None:
    found = tilt.estimate_mass(f64([0.3, -0.2]), f64([1, 1]))
    assert found.logit_mass == math.inf and found.mass_aligned == 1 and found.mass_unaligned == 0


@pytest.mark.parametrize(
    ("log_w", "labels", "options", "message"),
    [
        ([], [], {}, "N ≥ 1"),
        ([0.0], [0.5, 1], {}, r"got \(1,\), \(2,\)"),
        ([-math.inf], [1.0], {}, "at least one of them finite"),
        ([math.nan, 0], [1.0, 0], {}, "log_weights must be finite"),
        ([0.0], [1.5], {}, r"labels must lie in \[0, 1\], got 1.5"),
        ([0.0], [1.0], {"resamples": 0}, "resamples must be at least 1"),
        ([0.0], [1.0], {"level": 1.0}, "level must lie between"),
    ],
)
def test_samples_that_do_not_fit_are_refused(log_w: list, labels: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tilt.estimate_mass(f64(log_w), f64(labels), **options)

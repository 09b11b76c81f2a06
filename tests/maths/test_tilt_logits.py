"""Combined logits: powers of two distributions, masks, and the tilt of one step."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undertow import tilt

SEEDS = st.integers(0, 2**31)
some = settings(max_examples=60, deadline=None)


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@some
@given(seed=SEEDS, a=st.floats(-2, 3), b=st.floats(-2, 3))
def test_combined_logits_are_a_product_of_powers(seed: int, a: float, b: float) -> None:
    z_p, z_r = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = tilt.combine_logits(z_p, z_r, policy_weight=a, reference_weight=b).softmax(-1)
    product = z_p.softmax(-1) ** a * z_r.softmax(-1) ** -b
    torch.testing.assert_close(found, product / product.sum(-1, keepdim=True))
    shifted = tilt.combine_logits(z_p + 3, z_r - 5, policy_weight=a, reference_weight=b).softmax(-1)
    torch.testing.assert_close(found, shifted)
    if b != 0:
        equal = tilt.combine_logits(z_p, z_p, policy_weight=1 + b, reference_weight=b).softmax(-1)
        torch.testing.assert_close(equal, z_p.softmax(-1))


def test_combined_logits_keep_masks() -> None:
    inf = math.inf
    z_p, z_r = f64([1.0, -inf, 2, -inf]), f64([0.5, 1, -inf, -inf])
    for a, b in ((2.0, 1.0), (0.5, -0.5), (0.0, -1.0), (1.0, 1.0)):
        found = tilt.combine_logits(z_p, z_r, policy_weight=a, reference_weight=b)
        assert found.tolist() == [a * 1.0 - b * 0.5, -inf, -inf, -inf]
    # Without the reference, its masks do not count either: A = 1, B = 0 is the policy.
    assert tilt.combine_logits(z_p, z_r, policy_weight=1.0, reference_weight=0.0).tolist() == z_p.tolist()


def test_one_step_is_the_tilt_with_the_reward_multiplied() -> None:
    """Theory 6.4, A − B = 1."""
    z_p, z_r = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    reward = 3.0 * tilt.implied_reward(z_p, z_r, beta=1.0)
    exact = tilt.tilted_mixture(reward, z_r, z_r, alpha=0.5, beta=1.0).tilted
    found = tilt.combine_logits(z_p, z_r, policy_weight=3.0, reference_weight=2.0).softmax(-1)
    torch.testing.assert_close(found, exact)

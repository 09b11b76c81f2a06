"""CHES and its baselines: theory 2."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import naive
from undertow import similarity

# Theory 2.4, instance G: y⁺ = (0, 2), y⁻ = (1, 3, 2); predictive states, then the state after the whole response.
CHOSEN = torch.tensor([[1.0, 0.5], [0.6, -0.4], [0.1, 0.7]], dtype=torch.float64)
REJECTED = torch.tensor([[1.0, 0.5], [0.8, 0.3], [-0.2, 0.9], [0.4, -0.6]], dtype=torch.float64)


def test_golden_instance() -> None:
    S_w, S_l = similarity.hidden_sum(CHOSEN[:-1]), similarity.hidden_sum(REJECTED[:-1])
    assert S_w.tolist() == pytest.approx([1.6, 0.1])
    assert S_l.tolist() == pytest.approx([1.6, 1.7])
    assert similarity.ches(S_w, S_l).item() == pytest.approx(0.16, abs=1e-12)
    assert similarity.ln_ches(S_w, S_l, 2, 3).item() == pytest.approx(-0.1875, abs=1e-12)
    assert similarity.last_hidden_ip(CHOSEN[-1], REJECTED[-1]).item() == pytest.approx(-0.38, abs=1e-12)
    assert similarity.edit_distance([0, 2], [1, 3, 2]) == pytest.approx(2 / 3, abs=1e-12)


def test_golden_reference_compatible_variant() -> None:
    """The authors' script sums one more state; the same function with all states and lengths + 1 (theory 2.3)."""
    S_w, S_l = similarity.hidden_sum(CHOSEN), similarity.hidden_sum(REJECTED)
    assert similarity.ches(S_w, S_l).item() == pytest.approx(0.75, abs=1e-10)
    assert similarity.ln_ches(S_w, S_l, 3, 4).item() == pytest.approx(-0.0355555556, abs=1e-10)


vectors = st.lists(st.floats(-50, 50), min_size=3, max_size=3)


@given(vectors, vectors)
def test_both_orientations_add_up_to_minus_the_squared_distance(a: list[float], b: list[float]) -> None:
    S_a, S_b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    total = similarity.ches(S_a, S_b) + similarity.ches(S_b, S_a)
    assert total.item() == pytest.approx(-((S_a - S_b) ** 2).sum().item(), rel=1e-9, abs=1e-9)


def test_matrix_holds_every_orientation() -> None:
    torch.manual_seed(0)
    S, n = torch.randn(5, 7, dtype=torch.float64), torch.tensor([3, 1, 4, 1, 5])
    plain, normalised = similarity.ches_matrix(S), similarity.ln_ches_matrix(S, n)
    for i in range(5):
        for j in range(5):
            assert plain[i, j].item() == pytest.approx(similarity.ches(S[i], S[j]).item(), abs=1e-12)
            expected = similarity.ln_ches(S[i], S[j], int(n[i]), int(n[j])).item()
            assert normalised[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_equal_responses_have_ches_zero() -> None:
    S = torch.randn(4, 6)
    assert similarity.ches(S, S).tolist() == [0.0] * 4


def test_long_bfloat16_responses_stay_finite_and_exact() -> None:
    """8192 states of one value: a bfloat16 running sum would stop growing at 256."""
    states = torch.full((8192, 4), 1.0, dtype=torch.bfloat16)
    assert similarity.hidden_sum(states).tolist() == [8192.0] * 4
    assert math.isfinite(similarity.ches(similarity.hidden_sum(states * 100), similarity.hidden_sum(-states)).item())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_edit_distance_equals_the_double_loop(a: list[int], b: list[int]) -> None:
    assert similarity.edit_distance(a, b) == pytest.approx(naive.edit_distance(a, b))


def test_errors_name_the_argument_and_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"chosen_sum has shape \(3,\), rejected_sum has \(2,\)"):
        similarity.ches(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="rejected_tokens must be at least 1, got 0"):
        similarity.ln_ches(torch.zeros(3), torch.zeros(3), 1, 0)
    with pytest.raises(ValueError, match="both sequences are empty"):
        similarity.edit_distance([], [])

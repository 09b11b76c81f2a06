"""What tokens count: by both responses' tokens, by their gradients, and in a loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_batches import batch
from undertow.losses import CPO, DPO, Logps, RewardCalibrated, SimPO, TokenWeighted
from undertow.maths.token_weights import entangled_weights, per_token, shared_weights

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(TOKENS, TOKENS)
def test_shared_tokens_do_not_count_and_no_response_counts_nothing(chosen: list[int], rejected: list[int]) -> None:
    one, two = shared_weights(chosen, rejected)
    assert (len(one), len(two)) == (len(chosen), len(rejected))
    assert any(one) and any(two)
    assert {*one, *two} <= {0.0, 1.0}
    left = 0
    while left < min(len(one), len(two)) and one[left] == two[left] == 0:
        assert chosen[left] == rejected[left]
        left += 1
    for w, v, token, other in zip(one[::-1], two[::-1], chosen[::-1], rejected[::-1], strict=False):
        if w or v:
            break
        assert token == other
    assert all(one[left : len(one) - one[::-1].index(1.0)])  # what counts stands together


def test_shared_tokens_by_hand() -> None:
    assert shared_weights([1, 2, 3, 9], [1, 4, 9]) == ([0, 1, 1, 0], [0, 1, 0])
    assert shared_weights([1, 9], [1, 4, 9]) == ([0, 1], [0, 1, 1])
    assert shared_weights([1, 2], [1, 2, 3]) == ([1, 1], [1, 1, 1])
    assert shared_weights([1], [2]) == ([1], [1])


def test_entangled_tokens_by_hand() -> None:
    """Three gradients of the chosen response, two of the rejected one."""
    g = torch.tensor([[1.0, 0, 0], [3.0, 4, 0], [0, 0, 2], [2.0, 0, 0], [-1.0, 0, 0]], dtype=torch.float64)
    found = entangled_weights(g @ g.T, 3)
    torch.testing.assert_close(found, torch.tensor([0, 0.4, 1, 0, 1], dtype=torch.float64))
    # A response that would not count at all counts whole; a gradient of 0 agrees with none.
    two = torch.tensor([[1.0, 0], [1.0, 0], [0, 0]], dtype=torch.float64)
    assert entangled_weights(two @ two.T, 1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("inside", [DPO(0.2), SimPO(2.0, 0.5), CPO(0.1, 0.5)], ids=repr)
def test_a_weighted_loss_pulls_on_tokens_by_their_weights(inside) -> None:
    """Its derivative in every token's log-probability, by autograd, is ``−d_w ω`` or ``d_l ω``."""
    draw = torch.Generator().manual_seed(0)
    tokens = [[-torch.rand(n, generator=draw, dtype=torch.float64) for n in sizes] for sizes in ((3, 5), (4, 2))]
    omega = [[torch.rand(len(t), generator=draw, dtype=torch.float64) for t in side] for side in tokens]
    for side in tokens:
        for values in side:
            values.requires_grad_(True)
    sums = [
        torch.stack([(t * w).sum() for t, w in zip(*both, strict=True)]) for both in zip(tokens, omega, strict=True)
    ]
    lengths = [torch.stack([w.sum() for w in side]) for side in omega]
    logps = Logps(
        *sums,
        ref_chosen=sums[0].detach() - 0.3,
        ref_rejected=sums[1].detach() + 0.1,
        chosen_tokens=lengths[0],
        rejected_tokens=lengths[1],
    )
    loss = TokenWeighted(inside, by="entangled")
    loss(logps).sum().backward()
    for pulls, side, weights, sign in zip(loss.weights(logps), tokens, omega, (-1, 1), strict=True):
        for values, expected in zip(side, per_token(pulls, weights), strict=True):
            torch.testing.assert_close(values.grad, sign * expected, rtol=1e-12, atol=0)


def test_a_weighted_loss_is_the_loss_inside() -> None:
    logps, loss = batch(0), TokenWeighted(SimPO(2.0, 0.5))
    assert loss(logps).equal(SimPO(2.0, 0.5)(logps))
    assert (loss.needs_lengths, loss.averages_tokens, loss.needs_reference) == (True, True, False)
    assert repr(loss) == "TokenWeighted(loss=SimPO(beta=2.0, gamma=0.5), by='shared')"
    assert TokenWeighted(RewardCalibrated(DPO())).needs_grad_norms
    with pytest.raises(ValueError, match="TokenWeighted: loss must be a loss"):
        TokenWeighted("dpo")  # type: ignore[arg-type]

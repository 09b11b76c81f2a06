"""Differentiable token log-probabilities: value and gradients against plain autograd through full logits."""

from __future__ import annotations

import pytest
import torch

from undertow.maths.logps import token_logps


def plain(H, W, ids, *, bias=None, scale=1.0, softcap=None):
    u = H @ W.T + (0 if bias is None else bias)
    z = scale * (u if softcap is None else softcap * torch.tanh(u / softcap))
    return z.log_softmax(-1).gather(1, ids[:, None]).squeeze(1)


def instance(dtype=torch.float64, N=7, V=23, d=5):
    g = torch.Generator().manual_seed(4)
    H, W = torch.randn(N, d, generator=g, dtype=torch.float64), torch.randn(V, d, generator=g, dtype=torch.float64)
    grad = torch.randn(N, generator=g, dtype=torch.float64)
    return H.to(dtype), W.to(dtype), torch.randint(0, V, (N,), generator=g), grad.to(dtype)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"scale": 0.3},
        {"softcap": 2.0},
        {"scale": 0.5, "softcap": 1.5},
        {"bias": torch.linspace(-1, 1, 23).double()},
    ],
    ids=["plain", "scale", "cap", "scale-cap", "bias"],
)
@pytest.mark.parametrize("chunk", [1, 4, None])
def test_value_and_gradients_equal_autograd(head, chunk) -> None:
    H, W, ids, grad = instance()
    ours = [t.clone().requires_grad_() for t in (H, W)]
    theirs = [t.clone().requires_grad_() for t in (H, W)]
    found, expected = token_logps(*ours, ids, chunk=chunk, **head), plain(*theirs, ids, **head)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found.backward(grad)
    expected.backward(grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    H, W, ids, _ = instance(N=3, V=6, d=2)
    assert torch.autograd.gradcheck(
        lambda h, w: token_logps(h, w, ids % 6, chunk=2), (H.requires_grad_(), W.requires_grad_())
    )


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    H, W, ids, grad = instance()
    frozen = token_logps(H.clone().requires_grad_(), W, ids)
    frozen.backward(grad)
    assert W.grad is None
    H2, W2 = H.clone(), W.clone().requires_grad_()
    token_logps(H2, W2, ids).backward(grad)
    assert H2.grad is None
    assert W2.grad is not None


def test_bfloat16_states_get_bfloat16_gradients_from_float32_sums() -> None:
    H, W, ids, grad = instance(torch.bfloat16)
    h, w = H.clone().requires_grad_(), W.clone().requires_grad_()
    found = token_logps(h, w, ids)
    assert found.dtype == torch.float32
    found.backward(grad.float())
    h64, w64 = H.double().requires_grad_(), W.double().requires_grad_()
    plain(h64, w64, ids).backward(grad.double())
    for ours, theirs in ((h, h64), (w, w64)):
        assert ours.grad.dtype == torch.bfloat16
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-2, atol=1e-2)


def test_a_bias_that_trains_is_refused() -> None:
    H, W, ids, _ = instance()
    with pytest.raises(ValueError, match="bias"):
        token_logps(H, W, ids, bias=torch.zeros(23, dtype=torch.float64, requires_grad=True))

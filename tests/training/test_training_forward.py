"""The training forward pass: log-probabilities and gradients against plain autograd, one sequence at a time."""

from __future__ import annotations

import pytest
import torch

import undertow as ut
from naive import plain_logps
from tiny import FAMILIES, random_pairs, tiny_hf, tiny_model
from undertow.training.dataset import collate
from undertow.training.forward import train_on_pairs, turn_off_dropout

PAIRS = random_pairs(5)


def all_plain_logps(hf) -> dict:
    chosen, rejected = zip(*(plain_logps(hf, pair) for pair in PAIRS), strict=True)
    return {"chosen": torch.stack(chosen), "rejected": torch.stack(rejected)}


def batch(pairs=PAIRS) -> dict:
    return collate([(pair, 0.0, 0.0) for pair in pairs])


def fast_logps(hf, inputs) -> dict:
    return hf(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], trees=inputs["trees"])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_plain_autograd(family: str, packed: bool) -> None:
    """Direction and norm, every weight, float64: 1e-8; 1e-6 where transformers' RMS norms compute in float32."""
    if not packed and family not in ("llama", "gemma2"):
        pytest.skip("one sequence at a time is one piece of code for all families")
    model, plain = tiny_model(family, dtype=torch.float64, packed=packed), tiny_hf(family, dtype=torch.float64)
    train_on_pairs(model)
    loss = ut.losses.DPO(beta=0.7)
    sides = []
    for hf, logps in (
        (model.hf, lambda hf: fast_logps(hf, batch())),
        (plain, all_plain_logps),
    ):
        turn_off_dropout(hf)
        hf.train().requires_grad_(True)
        found = logps(hf)
        value = loss(ut.Logps(**found, ref_chosen=torch.zeros(5).double(), ref_rejected=torch.zeros(5).double())).mean()
        value.backward()
        sides.append((found, value, {name: p.grad for name, p in hf.named_parameters()}))
    (fast, fast_loss, fast_grads), (slow, slow_loss, slow_grads) = sides
    for side in ("chosen", "rejected"):
        torch.testing.assert_close(fast[side], slow[side], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fast_loss, slow_loss, rtol=1e-6, atol=1e-8)
    assert fast_grads.keys() == slow_grads.keys()
    tolerance = 1e-8 if family in ("gpt2", "gpt-neox") else 1e-6
    size = max(float(grad.norm()) for grad in slow_grads.values() if grad is not None)
    for name, grad in slow_grads.items():
        if grad is None:
            assert fast_grads[name] is None or not fast_grads[name].any(), name
            continue
        assert float((fast_grads[name] - grad).norm()) <= tolerance * size, name


def test_dropout_is_off() -> None:
    model = tiny_model("gpt2")
    inputs = batch()
    model.hf.train()
    train_on_pairs(model)
    one, two = (fast_logps(model.hf, inputs)["chosen"] for _ in range(2))
    assert torch.equal(one, two)


def test_a_batch_is_one_row_without_padding() -> None:
    inputs = batch()
    assert inputs["input_ids"].shape == (1, sum(pair.total for pair in PAIRS))
    assert inputs["chosen_tokens"].tolist() == [pair.chosen_tokens for pair in PAIRS]

"""The look: a step along the gradients as simulated, by hand, and weights that are as they were after it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from engines import engine_of, entanglement, gradients, responses_of, some_pairs
from undertow.forecasting.look import moved, paired_logps, response_logps, step_along
from undertow.forecasting.measure import Engine
from undertow.models.attention import TREE_ATTENTION
from undertow.runs.progress import Silent
from undertow.training.forward import turn_off_dropout

PAIRS = some_pairs(7)


def setting(lora: int, dtype: torch.dtype) -> tuple[Engine, dict[str, Tensor], Tensor]:
    """A model, an uneven ``P^½`` and step weights ``[pairs, 2]``, one pair's all zero."""
    engine = engine_of(dtype=dtype, lora=lora)
    turn_off_dropout(engine.model.hf)
    draw = torch.Generator().manual_seed(2)
    scales = {name: torch.rand(value.shape, generator=draw).to(dtype) for name, value in engine.parameters.items()}
    weights = 1e-4 * torch.randn(len(PAIRS), 2, generator=draw).double()
    weights[3] = 0
    return engine, scales, weights


def logps_of(hf: torch.nn.Module) -> Tensor:
    """Response by response, from the model's logits."""
    found = []
    for one in responses_of(PAIRS):
        with torch.no_grad():
            logits = hf(torch.tensor([one.prompt + one.tokens])).logits[0].double()
        steps = logits[len(one.prompt) - 1 : -1].log_softmax(-1)
        found.append(steps.gather(1, torch.tensor(one.tokens)[:, None]).sum())
    return torch.stack(found).view(-1, 2)


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-5), (torch.float32, 1e-4)], ids=str)
def test_it_reads_what_a_plain_step_by_hand_gives(lora: int, dtype: torch.dtype, error: float) -> None:
    """``θ₀ + P Σ w ∇`` with each response's own gradient, added to a copy of the model, and its logits read."""
    engine, scales, weights = setting(lora, dtype)
    engine.model.hf.set_attn_implementation("eager")  # the packed attention takes no plain rows
    by_hand = copy.deepcopy(engine.model.hf)
    engine.model.hf.set_attn_implementation(TREE_ATTENTION)
    before = paired_logps(engine.model, PAIRS, batch_tokens=100)
    torch.testing.assert_close(before, logps_of(by_hand), rtol=1e-5, atol=error)
    rows = gradients(engine, responses_of(PAIRS))
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            if name in scales:
                ascent = sum(float(w) * row[name] for w, row in zip(weights.flatten(), rows, strict=True))
                parameter += (ascent.view(parameter.shape) * scales[name].double() ** 2).to(dtype)
    kept = {name: value.clone() for name, value in engine.model.hf.state_dict().items()}
    step = step_along(engine, PAIRS, weights, scales, Silent())
    assert all(parameter.grad is None for parameter in engine.parameters.values())
    with moved(engine.parameters, step):
        after = paired_logps(engine.model, PAIRS, batch_tokens=100)
        single = response_logps(engine.model, responses_of(PAIRS), batch_tokens=100)
    expected = logps_of(by_hand)
    assert (expected - before).abs().min() > 10 * error
    torch.testing.assert_close(after - before, expected - before, rtol=1e-4, atol=error)
    torch.testing.assert_close(single.view(-1, 2), after, rtol=1e-6, atol=error)
    for name, value in engine.model.hf.state_dict().items():
        assert torch.equal(value, kept[name]), "as it was, to the last bit"


@pytest.mark.parametrize(("lora", "small"), [(0, 0.01), (4, 0.3)])
def test_a_small_step_changes_what_the_entanglement_says(lora: int, small: float) -> None:
    """The first order of the look is the linear forecast: ``K w``; the rest falls faster than the step."""
    engine, scales, weights = setting(lora, torch.float64)
    rows = gradients(engine, responses_of(PAIRS))
    linear = (entanglement(rows, rows, scales) @ weights.flatten()).view(-1, 2)
    before = paired_logps(engine.model, PAIRS, batch_tokens=100)
    step = step_along(engine, PAIRS, weights, scales, Silent())
    rest = []
    for size in (10 * small, small):
        with moved(engine.parameters, step, size):
            rest.append((paired_logps(engine.model, PAIRS, batch_tokens=100) - before) / size - linear)
    assert rest[1].norm() < 0.03 * linear.norm()
    assert rest[0].norm() > 4 * rest[1].norm(), "ten, but for rounding"


def test_weights_come_back_when_looking_fails() -> None:
    engine, scales, weights = setting(0, torch.float32)
    kept = {name: value.clone() for name, value in engine.model.hf.state_dict().items()}
    with (
        pytest.raises(KeyboardInterrupt),
        moved(engine.parameters, step_along(engine, PAIRS, weights, scales, Silent())),
    ):
        raise KeyboardInterrupt
    assert all(torch.equal(value, kept[name]) for name, value in engine.model.hf.state_dict().items())

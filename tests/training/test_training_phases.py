"""What a run does besides plain preference training: supervised fine-tuning first, calibration, and what it checks."""

from __future__ import annotations

import json
import re
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import undertow as ut
from command import run, some_rows, spawn, write_jsonl
from tiny import random_pairs, tiny_folder, tiny_model
from training_runs import arguments, same_weights, weights
from undertow.training import phases
from undertow.training.dataset import collate
from undertow.training.forward import train_on_pairs
from undertow.training.settings import TrainSettings

SFT = ["--sft-epochs", 1, "--sft-lr", 3e-3]


def audited(folder: Path, prefs: Path) -> pa.Table:
    return ut.audit(
        ut.read_pairs(prefs), ut.load_model(str(folder), dtype="float32"), tokens=ut.TokenSettings(max_length=400)
    )


def chosen_logps(folder: Path, prefs: Path) -> float:
    return float(np.mean(audited(folder, prefs)["logp_chosen"]))


def test_supervised_fine_tuning_comes_first_and_gives_the_reference(capsys, model, prefs, tmp_path) -> None:
    out = tmp_path / "run"
    code, stdout, err = run(capsys, *arguments(model, prefs), *SFT, "--out", out, "--json")
    assert code == 0, err
    summary = json.loads(stdout.splitlines()[-1])
    assert (summary["sft"]["steps"], summary["steps"]) == (8, 12)
    fine_tuned = out / "sft" / "model"
    assert chosen_logps(fine_tuned, prefs) > chosen_logps(model, prefs) + 1
    first, *_ = pq.read_table(out / "tracking.parquet").to_pylist()
    assert first["chosen_logp"] == pytest.approx(chosen_logps(fine_tuned, prefs), rel=1e-4)
    (stored,) = out.glob("reference-*.npy")
    assert np.load(stored)[:, 0].mean() == pytest.approx(first["chosen_logp"], rel=1e-4)
    # The first phase's loss is the mean over the tokens of each chosen response, then over the batch.
    log = json.loads((out / "sft" / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    table = audited(model, prefs)
    each = -np.array(table["logp_chosen"]) / np.array(table["chosen_tokens"])
    assert each.min() < losses[0] < each.max()
    assert losses[-1] < losses[0]
    # The loss begins at ln 2: policy and reference are one.
    log = json.loads((out / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
    assert next(entry["loss"] for entry in log if "loss" in entry) == pytest.approx(np.log(2), abs=1e-4)


def test_it_equals_two_runs_one_after_the_other(capsys, model, prefs, tmp_path) -> None:
    both, second = tmp_path / "both", tmp_path / "second"
    assert run(capsys, *arguments(model, prefs), *SFT, "--out", both)[0] == 0
    assert run(capsys, *arguments(both / "sft" / "model", prefs), "--out", second)[0] == 0
    assert same_weights(both, second)


@pytest.mark.parametrize("moment", ["sft/checkpoint-4/trainer_state.json", "sft/model", "checkpoint-4"])
def test_killed_in_either_phase_it_ends_with_the_same_weights(model, prefs, tmp_path, moment: str) -> None:
    base = [*arguments(model, prefs), *SFT, "--quiet"]
    spawn(*base, "--out", tmp_path / "whole").join()
    out = tmp_path / "out"
    process = spawn(*base, "--out", out)
    while process.is_alive() and not (out / moment).exists():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "train.json").exists()
    spawn(*base, "--out", out).join()
    assert same_weights(tmp_path / "whole", out)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt-neox"])
def test_gradient_norms_of_a_step_are_those_of_autograd(family: str, packed: bool) -> None:
    model = tiny_model(family, dtype=torch.float64, packed=packed)
    pairs = random_pairs(3)
    train_on_pairs(model)
    model.hf.requires_grad_(False)
    weight = model.hf.get_output_embeddings().weight.requires_grad_(True)
    inputs = collate([(pair, 0.0, 0.0) for pair in pairs])
    given = {name: inputs[name] for name in ("input_ids", "position_ids", "trees")}
    found = model.hf(**given, grad_norms=True)
    assert not model.head.tied, "autograd would add the input embedding's part to a tied matrix"
    for side in ("chosen", "rejected"):
        norms = [
            torch.autograd.grad(value, weight, retain_graph=True)[0].norm().item() for value in model.hf(**given)[side]
        ]
        assert found[f"{side}_grad_norms"].tolist() == pytest.approx(norms, rel=1e-6)


def test_reward_calibration_trains_by_other_weights(capsys, model, prefs, tmp_path) -> None:
    rows = {}
    for name, more in (("plain", []), ("calibrated", ["--calibrated"])):
        code, _, err = run(capsys, *arguments(model, prefs), *more, "--out", tmp_path / name)
        assert code == 0, err
        rows[name] = pq.read_table(tmp_path / name / "tracking.parquet").to_pylist()[-1]
    assert rows["calibrated"]["margin_change"] > 0.1
    assert rows["calibrated"]["chosen_change"] != pytest.approx(rows["plain"]["chosen_change"], rel=1e-3)
    told = json.loads((tmp_path / "calibrated" / "train.json").read_text())["arguments"]["loss"]
    assert told == "RewardCalibrated(loss=DPO(beta=0.1))"


def test_a_pair_that_cannot_be_calibrated_stops_the_run_and_is_named(capsys, model, prefs, tmp_path) -> None:
    code, _, err = run(
        capsys, *arguments(model, prefs), "--loss", "slic-hf", "--calibrated", "--lr", 1e-2, "--out", tmp_path / "out"
    )
    assert code == 1
    assert "cannot be calibrated" in err
    assert re.search(r"on the pairs [0-9a-f]{16} \(row \d+\)", err), err


def test_a_row_set_aside_is_written_down(capsys, model, tmp_path) -> None:
    rows = some_rows(6)
    rows[2]["chosen"] = rows[2]["rejected"]
    prefs = write_jsonl(tmp_path / "prefs.jsonl", rows)
    out = tmp_path / "run"
    code, _, err = run(capsys, *arguments(model, prefs), "--max-steps", 1, "--on-bad-row", "skip", "--out", out)
    assert code == 0, err
    (line,) = (json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines())
    assert line["row"] == 2
    assert json.loads((out / "train.json").read_text())["data"] == {
        "format": "standard", "pairs": 5, "trained": 5, "skipped": 1, "unused_columns": ["source"],
        "notes": ["Columns of the data that are not used: `source`."],
    }  # fmt: skip


def test_a_reference_of_another_vocabulary_is_refused_before_it_is_loaded(capsys, model, prefs, tmp_path) -> None:
    other = tiny_folder(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[:2]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, _, err = run(capsys, *arguments(model, prefs), "--ref", other, "--out", tmp_path / "out")
    assert code == 2
    assert "another vocabulary than the trained model's" in err


def test_another_reference_is_another_run(capsys, model, prefs, tmp_path) -> None:
    base = [*arguments(model, prefs), "--max-steps", 1, "--ref", tmp_path / "ref", "--out", tmp_path / "out"]
    tiny_folder(tmp_path / "ref")
    assert run(capsys, *base)[0] == 0
    trained = [*arguments(model, prefs), "--max-steps", 2, "--lr", 1e-2, "--out", tmp_path / "trained"]
    assert run(capsys, *trained)[0] == 0
    (tmp_path / "trained" / "model" / "model.safetensors").replace(tmp_path / "ref" / "model.safetensors")
    code, _, err = run(capsys, *base)
    assert (code, "reference weights" in err) == (2, True), err


def test_overwrite_starts_over(capsys, model, prefs, tmp_path) -> None:
    out = tmp_path / "out"
    assert run(capsys, *arguments(model, prefs), *SFT, "--out", out)[0] == 0
    (out / "notes.txt").write_text("mine")
    code, _, err = run(capsys, *arguments(model, prefs), "--max-steps", 2, "--overwrite", "--out", out)
    assert code == 0, err
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2"]
    assert not (out / "sft").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert weights(out)


@pytest.mark.parametrize(
    ("settings", "pairs", "share"),
    [
        ({}, 24, 0.08),
        ({"batch_size": 16}, 64, 64 / 1200),
        ({"accumulate": 2}, 48, 0.08),
        ({"track_every": 2}, 8, 8 / 24),  # fewer pairs than that tell too little, whatever they cost
        ({"probe": 100}, 100, 100 / 300),  # as asked for
    ],
)
def test_a_probe_set_of_its_own_size_takes_little_of_the_time(settings: dict, pairs: int, share: float) -> None:
    """A step on a pair costs about three times a look at it."""
    found = TrainSettings(**settings)
    assert found.probe_pairs == pairs
    assert pairs / (3 * found.track_every * found.batch_size * found.accumulate) == pytest.approx(share)


def test_activations_are_recomputed_under_the_name_that_transformers_has_for_it(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        made = [
            phases._arguments(TrainSettings(gradient_checkpointing=on, device="cpu"), tmp_path, tiny_model())
            for on in (True, False)
        ]
    assert [arguments.gradient_checkpointing for arguments in made] == [True, False]


def test_the_engine_is_checked(capsys, model, prefs, tmp_path) -> None:
    code, _, err = run(capsys, *arguments(model, prefs), "--engine", "steam", "--out", tmp_path / "out")
    assert (code, "--engine steam" in err) == (2, True), err


@pytest.mark.parametrize(
    ("environment", "more", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, [], "--fsdp_version 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, ["--lora-r", 4], "--lora-r"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, [], "ZeRO-3"),
    ],
)
def test_sharding_that_is_not_known_is_refused_at_once(
    capsys, model, prefs, tmp_path, monkeypatch, environment, more, message
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = run(capsys, *arguments(model, prefs), *more, "--out", tmp_path / "out")
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "out").exists()

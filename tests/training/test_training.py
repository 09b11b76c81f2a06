"""``undertow train`` as users run it: it learns, tracks, resumes, and refuses what it must."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import undertow as ut
from command import run, some_rows, spawn, write_jsonl
from training_runs import arguments, same_weights, weights
from undertow.models.model import Model
from undertow.runs.settings import LossSettings
from undertow.training import phases
from undertow.training.run import train_to_folder
from undertow.training.settings import TrainSettings


def test_training_learns_and_tells_where_probability_went(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, stdout, err = run(capsys, *arguments(model, prefs), "--watch", "yes=Yes,Sure", "--out", out, "--json")
    assert code == 0, err
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["steps"] == 12
    rows = pq.read_table(out / "tracking.parquet").to_pylist()
    assert [row["step"] for row in rows] == [0, 3, 6, 9, 12]
    assert rows[0]["chosen_change"] == rows[0]["displaced"] == 0
    assert rows[-1]["margin_change"] > 0.1
    assert rows[-1]["watch/yes"] != 0
    assert len(rows[-1]["gaining_tokens"]) == 3
    log = json.loads((out / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
    assert any("displacement/displaced" in entry for entry in log)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[-1] < losses[0]
    # What was tracked is what the trained model's scores say.
    after = ut.audit(
        ut.read_pairs(prefs),
        ut.load_model(str(out / "model"), dtype="float32"),
        tokens=ut.TokenSettings(max_length=400),
    )
    assert np.mean(after["logp_chosen"]) == pytest.approx(rows[-1]["chosen_logp"], rel=1e-4)
    assert "Gained most" in stdout


@pytest.mark.parametrize(("loss", "lr"), [(ut.losses.DPO(0.1), 2e-3), (ut.losses.SimPO(2.0, 0.5), 1e-4)], ids=repr)
def test_the_first_step_moves_as_the_audit_said(model: Path, tmp_path: Path, monkeypatch, loss, lr: float) -> None:
    """One small step of plain descent of the unembedding matrix on one pair: the audit's change for a unit step, times
    the learning rate, is the change of both log-probabilities."""
    one = write_jsonl(tmp_path / "one.jsonl", some_rows(24)[:1])
    tokens = ut.TokenSettings(max_length=400)
    start = ut.load_model(str(model), dtype="float32")
    (audited,) = ut.audit(ut.read_pairs(one), start, loss=loss, tokens=tokens).to_pylist()

    def the_unembedding_alone(trained: Model, settings: TrainSettings) -> Any:
        trained.hf.requires_grad_(False)
        trained.hf.get_output_embeddings().weight.requires_grad_(True)
        return trained.hf

    assert not start.head.tied
    monkeypatch.setattr(phases, "trainable", the_unembedding_alone)
    name = {"DPO": "dpo", "SimPO": "simpo"}[type(loss).__name__]
    parameters = {"beta": loss.beta} if name == "dpo" else {"beta": loss.beta, "args": {"gamma": loss.gamma}}
    settings = TrainSettings(
        loss=LossSettings(name, **parameters), tokens=tokens, lr=lr, max_steps=1, batch_size=1, track_every=1,
        schedule="constant", optimiser="sgd", max_grad_norm=1e9, dtype="float32", device="cpu",
    )  # fmt: skip
    train_to_folder(one, str(model), tmp_path / "run", settings)
    moved = pq.read_table(tmp_path / "run" / "tracking.parquet").to_pylist()[-1]
    for side in ("chosen", "rejected"):
        assert abs(moved[f"{side}_change"]) > 1e-3, "far above the rounding"
        assert moved[f"{side}_change"] == pytest.approx(lr * audited[f"dlogp_{side}"], rel=2e-2), side


def test_killed_and_started_again_ends_with_the_same_weights(model: Path, prefs: Path, tmp_path: Path) -> None:
    base = arguments(model, prefs)
    spawn(*base, "--out", tmp_path / "whole", "--quiet").join()
    out = tmp_path / "out"
    killed = 0
    for step in (4, 8):
        process = spawn(*base, "--out", out, "--quiet")
        while process.is_alive() and not (out / f"checkpoint-{step}" / "trainer_state.json").exists():
            time.sleep(0.005)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed == 2
    spawn(*base, "--out", out, "--quiet").join()
    assert same_weights(tmp_path / "whole", out)
    told = [json.loads((folder / "train.json").read_text()) for folder in (tmp_path / "whole", out)]
    assert told[0]["loss"] == told[1]["loss"]
    assert min(one["peak_memory_mb"] for one in told) > 50
    tracking = [pq.read_table(folder / "tracking.parquet") for folder in (tmp_path / "whole", out)]
    assert tracking[0].equals(tracking[1])
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss", "nonsense"], "there is no loss"),
        (["--lr", "0"], "--lr 0.0"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--optimiser", "adagrad"], "--optimiser adagrad"),
        (["--report-to", "paper"], "--report-to paper"),
        (["--watch", "yes"], "--watch yes"),
        (["--config", "/nowhere.yaml"], "--config /nowhere.yaml"),
        (["--loss", "rebel", "--loss-args", "eta=1"], "numbers that training does not have"),
    ],
)
def test_wrong_options(capsys, model: Path, prefs: Path, tmp_path: Path, options, message) -> None:
    code, _, err = run(capsys, *arguments(model, prefs), *options, "--out", tmp_path / "out")
    assert (code, message in err) == (2, True), err


def test_a_recipe_gives_options_and_the_command_line_wins(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {model}\nloss: simpo\nloss-args: {{gamma: 0.5}}\nlr: 1e-4\nmax-steps: 2\nmax_length: 400\n"
    )
    code, out, err = run(
        capsys, "train", prefs, "--config", recipe, "--lr", 2e-4, "--out", tmp_path / "run", "--json", "--quiet"
    )
    assert code == 0, err
    told = json.loads(out.splitlines()[-1])["arguments"]
    assert told["loss"] == "SimPO(beta=2.0, gamma=0.5)"
    assert (told["lr"], told["max_steps"]) == (2e-4, 2)
    recipe.write_text("learning_rate: 1\n")
    code, _, err = run(capsys, "train", prefs, "--config", recipe, "--out", tmp_path / "other")
    assert (code, "there is no option 'learning_rate'" in err) == (2, True), err


def test_another_run_in_the_folder_is_refused(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    base = [*arguments(model, prefs), "--out", tmp_path / "out"]
    assert run(capsys, *base, "--quiet")[0] == 0
    code, _, err = run(capsys, *base, "--lr", "1e-5")
    assert (code, "\n  --lr: 0.001 there, 1e-05 here\n" in err) == (2, True), err
    code, _, err = run(capsys, *base, "--max-length", 300)
    assert (code, "\n  --max-length: 400 there, 300 here\n" in err, "tokenizer" in err) == (2, True, False), err
    code, _, err = run(capsys, *base)
    assert (code, "finished already" in err) == (0, True)


def test_lora_trains_an_adapter_and_leaves_a_whole_model(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, err = run(capsys, *arguments(model, prefs), "--lora-r", 4, "--out", out)
    assert code == 0, err
    assert (out / "checkpoint-12" / "adapter_model.safetensors").exists()
    before, after = load_file(model / "model.safetensors"), weights(out)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert "model.embed_tokens.weight" not in changed
    ut.load_model(str(out / "model"))


def test_two_processes_train_as_one_does(model: Path, prefs: Path, tmp_path: Path) -> None:
    """Over gloo: two processes with batches of 2 see, step by step, what one sees that accumulates two of them."""
    base = [*map(str, arguments(model, prefs)), "--batch-size", "2", "--max-steps", "6"]
    spawn(*base, "--accumulate", 2, "--out", tmp_path / "one").join()
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += ["-m", "undertow", *base]
    done = subprocess.run([*launch, "--out", str(tmp_path / "two")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 steps on 24 pairs") == 1
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    # The gradients of two batches are added up in another order.
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6) for name in one)
    # What the run was asked to do is written down whole.
    told = json.loads((tmp_path / "two" / "train.json").read_text())["arguments"]
    assert (told["data"], told["model"], told["reading"]["on_bad_row"]) == (str(prefs), str(model), "stop")
    tables = [pq.read_table(tmp_path / name / "tracking.parquet")["chosen_logp"].to_pylist() for name in ("one", "two")]
    assert tables[0] == pytest.approx(tables[1], rel=1e-5)


def test_filter_leaves_the_named_pairs_out_and_records_them(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    rules = ["--filter", "ln_ches drop-highest 25%", "--filter", "dlogp_chosen drop-lowest 2"]
    code, stdout, err = run(capsys, *arguments(model, prefs), *rules, "--out", out, "--json")
    assert code == 0, err
    table = ut.audit(
        ut.read_pairs(prefs), ut.load_model(str(model), dtype="float32"), tokens=ut.TokenSettings(max_length=400)
    ).to_pylist()
    highest = sorted(table, key=lambda row: row["ln_ches"])[-6:]
    lowest = sorted(table, key=lambda row: row["dlogp_chosen"])[:2]
    expected = sorted({row["row"] for row in highest + lowest})
    told = [json.loads(line) for line in (out / "filtered.jsonl").read_text().splitlines()]
    assert [line["row"] for line in told] == expected
    assert all(line["reason"] for line in told)
    assert json.loads(stdout.splitlines()[-1])["data"]["trained"] == 24 - len(expected)


@pytest.mark.parametrize(
    ("rule", "message"),
    [("ln_ches", "expected 'SCORE"), ("ln_ches drop-all 3", "selectors"), ("beauty drop-highest 3", "no score beauty")],
)
def test_wrong_filters(capsys, model: Path, prefs: Path, tmp_path: Path, rule: str, message: str) -> None:
    code, _, err = run(capsys, *arguments(model, prefs), "--filter", rule, "--out", tmp_path / "out")
    assert (code, message in err) == (2, True), err


def test_a_sweep_trains_its_arms_and_compares_them(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    arms = tmp_path / "arms.yaml"
    arms.write_text(
        "plain: {}\nmended: {loss: rpo, loss-args: {lam: 1.0}}\nfiltered: {filter: ln_ches drop-highest 50%}\n"
    )
    out = tmp_path / "sweep"
    code, stdout, err = run(capsys, *arguments(model, prefs), "--sweep", arms, "--out", out, "--json")
    assert code == 0, err
    found = json.loads(stdout.splitlines()[-1])["arms"]
    assert [arm["arm"] for arm in found] == ["plain", "mended", "filtered"]
    plain, mended, filtered = found
    assert mended["chosen_change"] > plain["chosen_change"]
    assert (plain["pairs"], filtered["pairs"]) == (24, 12)
    single = tmp_path / "single"
    assert run(capsys, *arguments(model, prefs), "--out", single, "--quiet")[0] == 0
    assert same_weights(single, out / "arms" / "plain")
    # All arms have the model and the data in common, and so the reference: it is computed once.
    assert len(list(out.rglob("reference-*.npy"))) == 1
    arms.write_text("plain: {los: dpo}\n")
    code, _, err = run(capsys, *arguments(model, prefs), "--sweep", arms, "--out", tmp_path / "other")
    assert (code, "did you mean loss" in err) == (2, True), err


def test_a_loss_that_is_no_number_names_step_pairs_and_checkpoint(capsys, model, prefs, tmp_path) -> None:
    out = tmp_path / "run"
    code, _, err = run(
        capsys, *arguments(model, prefs), "--lr", 1e30, "--schedule", "constant", "--save-every", 1, "--track-every", 0,
        "--out", out,
    )  # fmt: skip
    assert code == 1
    assert re.search(r"at step 2, on the pairs ([0-9a-f]{16} \(row \d+\)(, )?){3}\.", err), err
    assert "checkpoint-1" in err
    assert not (out / "train.json").exists()


def test_a_full_disk_while_saving_leaves_the_checkpoint_before_it(capsys, model, prefs, tmp_path, monkeypatch) -> None:
    from undertow.training.trainer import PreferenceTrainer

    out, plain = tmp_path / "run", PreferenceTrainer._save_optimizer_and_scheduler

    def full(self, folder):
        if self.state.global_step == 8:
            raise OSError(28, "No space left on device", str(folder))
        return plain(self, folder)

    monkeypatch.setattr(PreferenceTrainer, "_save_optimizer_and_scheduler", full)
    code, _, err = run(capsys, *arguments(model, prefs), "--out", out)
    assert (code, "space" in err) == (2, True), err
    assert (out / "checkpoint-4" / "trainer_state.json").exists()
    assert not (out / "checkpoint-8").exists()
    monkeypatch.undo()
    code, _, err = run(capsys, *arguments(model, prefs), "--out", out)
    assert code == 0, err
    assert run(capsys, *arguments(model, prefs), "--out", tmp_path / "whole")[0] == 0
    assert same_weights(out, tmp_path / "whole")

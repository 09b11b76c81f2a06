"""What can be refused is refused before a model is loaded and before the folder is there, and its place is said."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import SchedulerType, TrainingArguments, get_scheduler

from command import run
from training_runs import arguments
from undertow.errors import OptionError
from undertow.training.settings import REPORTERS, SCHEDULES, TrainSettings, from_options
from undertow.training.tracking.names import tracked_names
from undertow.training.tracking.tracker import tracked_values


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undertow.training.run.load_model", lambda *a, **k: pytest.fail("weights were loaded"))


WRONG = [
    (["--guard", "displaced>0.5"], "--guard 'displaced>0.5': at character 14"),
    (["--guard", "displased>0.5 -> stop"], "displased is not tracked. Did you mean displaced?"),
    (["--guard", "watch/refusal<0 -> stop"], "needs the group of words 'refusal', and there is none"),
    (["--guard", "watch/no<0 -> stop", "--watch", "yes=Yes"], "the groups are: yes; give --watch no=WORD,WORD."),
    (["--guard", "case/2>0.5 -> stop"], "case/2 is tracked with --track-gradients only"),
    (["--guard", "free_gradient/condition<0.5 -> stop"], "is tracked with --track-gradients only"),
    (["--watch", "a=x", "--watch", "a=y"], "the group a is given twice"),
    (["--schedule", "cosin"], "--schedule cosin: expected one of linear, cosine,"),
    (["--schedule", "warmup_stable_decay"], "--schedule warmup_stable_decay: expected one of"),
    (["--optimiser", "adam"], "--optimiser adam: expected one of rmsprop, adamw, sgd. Did you mean adamw?"),
    (["--optimizer", "adam"], "--optimiser adam: expected"),
    (["--dtype", "float16"], "--dtype float16: expected one of"),
    (["--device", "gpu"], "--device gpu: expected one of"),
    (["--lora-alpha", "8"], "--lora-alpha 8: it belongs to a LoRA adapter; give --lora-r"),
    (["--lora-r", "-1"], "--lora-r -1: expected 0 or more"),
    (["--max-steps", "-1"], "--max-steps -1: expected 0 or more"),
    (["--lr", "nan"], "--lr nan: expected a number above 0"),
    (["--lr", "inf"], "--lr inf: expected a number above 0"),
    (["--max-grad-norm", "nan"], "--max-grad-norm nan"),
    (["--weight-decay", "-0.1"], "--weight-decay -0.1: expected 0 or more"),
    (["--weight-decay", "nan"], "--weight-decay nan"),
    (["--sft-epochs", "nan"], "--sft-epochs nan"),
    (["--seed", "-1"], "--seed -1: expected 0 or more"),
    (["--seed", str(2**32)], f"--seed {2**32}: expected {2**32 - 1} or less"),
    (["--beta", "nan"], "beta must be a number in (0"),
    (["--filter", "ln_ches drop-highest 110%"], "--drop-highest"),
    (["--loss", "dpoo"], "did you mean dpo?"),
    (["--ref", "/nowhere/at/all"], "/nowhere/at/all"),
    (["--max-length", "513"], "--max-length 513 is beyond the 512 positions"),
    (["--template", "chatty"], "--template 'chatty'"),
    (["--learning-rate", "1"], "No such option: --learning-rate. Did you mean --lr?"),
    (["--per_device_train_batch_size", "1"], "Did you mean --batch-size?"),
    (["--looss", "dpo"], "No such option: --looss. Did you mean --loss?"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_a_mistyped_option_loads_nothing_and_leaves_no_folder(
    capsys, model: Path, prefs: Path, tmp_path: Path, no_weights, options, message
) -> None:
    code, stdout, err = run(capsys, *arguments(model, prefs), *options, "--out", tmp_path / "out")
    assert (code, stdout) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_logger_that_is_not_installed_is_refused_with_the_way_to_install_it(
    capsys, model, prefs, tmp_path, no_weights, monkeypatch
) -> None:
    plain = importlib.util.find_spec
    wanted = {package for packages in REPORTERS.values() for package in packages}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in wanted else plain(name, *a))
    for name in ("tensorboard", "wandb", "trackio"):
        code, _, err = run(capsys, *arguments(model, prefs), "--report-to", name, "--out", tmp_path / "out")
        assert (code, f"--report-to {name}: it is not installed; pip install {name}" in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_a_folder_named_like_a_logger_is_no_logger(tmp_path: Path, monkeypatch) -> None:
    """wandb leaves such a folder where it runs; an import of it succeeds, and finds nothing."""
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed here")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("wandb") is not None
    with pytest.raises(OptionError, match="it is not installed"):
        TrainSettings(report_to="wandb")


RECIPES = [
    ("loss: dpo\nlearning_rate: 1e-6", 2, "there is no option 'learning_rate' (did you mean lr?)"),
    ("gradient-accumulation-steps: 4", 1, "no option 'gradient_accumulation_steps' (did you mean accumulate?)"),
    ("num_train_epochs: 3", 1, "(did you mean epochs?)"),
    ("bf16: true", 1, "(did you mean dtype?)"),
    ("warmup_ratio: 0.1", 1, "(did you mean warmup-steps?)"),
    ("epochs: 2\nlr: 0", 2, "lr 0.0: expected a number above 0"),
    ("lr: fast", 1, "lr 'fast': expected a number"),
    ("lr: true", 1, "lr true: expected a number"),
    ("lr:", 1, "lr null: expected a number"),
    ("max_steps: 2.5", 1, "max-steps 2.5: expected a whole number"),
    ("gradient-checkpointing: yes", 1, "gradient-checkpointing 'yes': expected true or false"),
    ("ref: 7", 1, "ref 7: expected text; put it in quotes"),
    ("\nloss: simpoo", 2, "loss simpoo: there is no loss 'simpoo' (did you mean simpo?)"),
    ("loss: rpo\nloss-args: {lamm: 1}", 2, "has no parameter 'lamm'"),
    ("loss: dpo\nbeta: -1", 2, "beta must be a number in (0"),
    ("lr: 1e-6\nguard: displaced>0.5", 2, "guard 'displaced>0.5': at character 14"),
    ("guard: [3]", 1, "guard 3: expected text, or a list of texts"),
    ("filter: [ln_ches drop-all 3]", 1, "filter 'ln_ches drop-all 3': expected"),
    ("watch: {yes: [Yes, true]}", 1, "watch yes: true is a truth value; expected a list of words, in quotes"),
    ("watch:\n  n: [1, 2]", 1, "watch n: 1 is a number; expected a list of words, in quotes"),
    ("watch: {yes: []}", 1, "watch yes: the group has no words"),
    ("schedule: cosin", 1, "schedule cosin: expected one of"),
    ("max_length: 1", 1, "max-length 1: expected"),
]


@pytest.mark.parametrize(("text", "line", "message"), RECIPES, ids=[text for text, _, _ in RECIPES])
def test_a_mistyped_recipe_is_told_with_its_line(
    capsys, model: Path, prefs: Path, tmp_path: Path, no_weights, text, line, message
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    code, _, err = run(capsys, "train", prefs, "--model", model, "--config", recipe, "--out", tmp_path / "out")
    assert code == 2
    assert f"--config {recipe}, line {line}: " in err
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_not_blamed_for_what_was_typed(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lr: 1e-6")
    base = ["train", prefs, "--model", model, "--config", recipe, "--out", tmp_path / "out"]
    code, _, err = run(capsys, *base, "--lr", "0")
    assert (code, "undertow: --lr 0.0: expected" in err) == (2, True), err


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ("good: {}\nbad: {los: dpo}", "line 2: there is no option 'los' (did you mean loss?)"),
        ("good: {}\nbad: {filter: ln_ches drop-all 3}", "line 2: filter 'ln_ches drop-all 3'"),
        ("good: {}\nbad: {guard: watch/x>0 -> stop}", "line 2: guard: watch/x needs the group"),
        ("good: {}\nbad:\n  schedule: cosin", "line 3: schedule cosin"),
        ("good: {}\nbad: {max-length: 513}", "the arm bad: --max-length 513 is beyond the 512 positions"),
        ("good: {}\nbad: {ref: /nowhere/at/all}", "the arm bad: "),
        ("good: {}\nbad: {format: nonsense}", "the arm bad: --format nonsense"),
        ("good: {}\nbad: {columns: {prompt: 1}}", "line 2: columns"),
        ("good: {}\nbad: {template: plain, max-length: 0}", "line 2: max-length 0"),
        ("good: {}\nGOOD: {}", "differ in capitals only"),
    ],
)
def test_every_arm_is_checked_before_the_first_one_trains(
    capsys, model, prefs, tmp_path, no_weights, arms: str, message: str
) -> None:
    path = tmp_path / "arms.yaml"
    path.write_text(arms)
    code, _, err = run(capsys, *arguments(model, prefs), "--sweep", path, "--out", tmp_path / "out")
    assert (code, message in err, "--sweep" in err) == (2, True, True), err
    assert not (tmp_path / "out").exists()


def test_a_sweep_of_what_can_be_read_once_is_refused(capsys, model, tmp_path, no_weights) -> None:
    arms = tmp_path / "arms.yaml"
    arms.write_text("one: {}\nother: {loss: ipo}")
    code, _, err = run(capsys, "train", "-", "--model", model, "--sweep", arms, "--out", tmp_path / "out")
    assert (code, "every arm reads the data anew" in err) == (2, True), err


def test_another_run_is_refused_before_the_model_is_loaded(capsys, model, prefs, tmp_path, monkeypatch) -> None:
    base = [*arguments(model, prefs, "--max-steps", 1), "--out", tmp_path / "out", "--quiet"]
    assert run(capsys, *base)[0] == 0
    monkeypatch.setattr("undertow.training.run.load_model", lambda *a, **k: pytest.fail("weights were loaded"))
    code, _, err = run(capsys, *base, "--loss", "simpo", "--no-eot")
    assert code == 2
    assert "\n  --loss: DPO(beta=0.1) there, SimPO(beta=2.0, gamma=1.0) here\n" in err
    assert "\n  --eot: true there, false here\n" in err


def test_a_run_that_came_to_nothing_does_not_stand_in_the_way(capsys, model, prefs, tmp_path) -> None:
    out = tmp_path / "out"
    base = [*arguments(model, prefs, "--max-steps", 1), "--out", out]
    code, _, err = run(capsys, *base, "--filter", "ln_ches drop-below 1e9")
    assert (code, "no pair stays" in err, (out / "settings.json").exists()) == (2, True, True), err
    code, _, err = run(capsys, *base, "--filter", "ln_ches drop-above 1e9")
    assert code == 0, err
    assert json.loads((out / "settings.json").read_text())["settings"]["filter"] == ["ln_ches drop-above 1e9"]
    # Now there is something to protect.
    code, _, err = run(capsys, *base, "--filter", "ln_ches drop-below -1e9")
    assert (code, "holds another run" in err) == (2, True), err


def test_a_run_of_an_earlier_version_is_known_again(capsys, model, prefs, tmp_path, monkeypatch) -> None:
    """Earlier versions wrote a hash of all options, and knew fewer options."""
    out = tmp_path / "out"
    base = [*arguments(model, prefs, "--max-steps", 1), "--out", out, "--quiet"]
    assert run(capsys, *base)[0] == 0
    settings = json.loads((out / "settings.json").read_text())
    del settings["identity"]["option track_gradients"]
    settings["identity"]["options"] = "0123456789abcdef"
    (out / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setattr("undertow.training.run._Run.train", lambda self: pytest.fail("trained again"))
    code, _, err = run(capsys, *base)
    assert code == 0, err
    code, _, err = run(capsys, *base, "--track-gradients")
    assert (code, "--track-gradients: false there, true here" in err) == (2, True), err


@pytest.mark.parametrize("gradients", [False, True])
def test_the_names_that_are_known_beforehand_are_those_that_are_tracked(
    capsys, model, prefs, tmp_path, gradients: bool
) -> None:
    more = ["--watch", "yes=Yes", "--watch", "no=No", *(["--track-gradients"] if gradients else [])]
    code, _, err = run(capsys, *arguments(model, prefs, "--max-steps", 1), *more, "--out", tmp_path / "out")
    assert code == 0, err
    row = pq.read_table(tmp_path / "out" / "tracking.parquet").to_pylist()[-1]
    assert set(tracked_values(row)) == set(tracked_names(["yes", "no"], gradients=gradients))


def test_the_schedules_are_those_of_transformers_that_need_nothing_more(tmp_path: Path) -> None:
    works = []
    for kind in SchedulerType:
        parameter = torch.nn.Parameter(torch.zeros(1))
        try:
            TrainingArguments(output_dir=str(tmp_path), lr_scheduler_type=kind.value, use_cpu=True, report_to="none")
            optimiser = torch.optim.AdamW([parameter], lr=1e-6)
            get_scheduler(kind, optimizer=optimiser, num_warmup_steps=1, num_training_steps=9)
        except (TypeError, ValueError):
            continue
        works.append(kind.value)
    assert sorted(works) == sorted(SCHEDULES)


def test_every_option_of_the_command_line_is_one_of_the_settings() -> None:
    """What a recipe may name is what the command line has; each is read as what it is."""
    from typer.main import get_command

    from undertow.cli.app import app
    from undertow.cli.commands.train import _OURS
    from undertow.runs.recipes import Entry

    params = {p.name: p.default for p in get_command(app).commands["train"].params if p.name not in _OURS}
    params |= {"model": "demo"}
    name, settings = from_options(params)
    assert (name, settings) == ("demo", TrainSettings())
    again = {n: Entry(value, "here") for n, value in params.items() if value is not None}
    assert from_options(params, recipe=again) == (name, settings)


def test_the_message_says_the_line_of_the_option_it_is_about() -> None:
    assert OptionError("--max-length 1: expected more").option == "max_length"
    assert OptionError("there is none").option is None

"""Displacement tracked in TRL's own trainer: right numbers at the right steps, and training none the wiser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import undertow as ut
from command import run, some_rows, write_jsonl
from tiny import tiny_folder
from undertow.errors import DataError, ModelError, OptionError, OutputError
from undertow.integrations.trl import DisplacementCallback
from undertow.reporting import write_report
from undertow.reporting.kinds import kind_of, report_html
from undertow.reporting.sweep.page import multi
from undertow.training.tracking.tracker import tracked_values
from undertow.wording.numbers import number

pytest.importorskip("trl", reason="needs TRL: pip install undertow[trl]")

STEPS, LENGTH = 6, 400
LORA = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", lora_dropout=0.1, task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "prefs.jsonl", some_rows(12))


class Reporter(TrainerCallback):
    """Stands where the loggers of ``report_to`` stand: before the user's callbacks."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.open = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.open = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        assert self.open
        self.seen.append((state.global_step, dict(logs)))


class Modes(TrainerCallback):
    """Notes after every step how the model stands."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, str]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.seen.append((all(part.training for part in model.modules()), model.config._attn_implementation))


def trainer(folder: Path, out: Path, callbacks: list[TrainerCallback], **options: Any) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    rows = [
        {
            "prompt": turn("user", row["prompt"]),
            "chosen": turn("assistant", row["chosen"]),
            "rejected": turn("assistant", row["rejected"]),
        }
        for row in some_rows(12)
    ]
    settings = {
        "learning_rate": 1e-3,
        "max_steps": STEPS,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
    }
    more = {name: options.pop(name) for name in ("peft_config", "ref_model") if name in options}
    args = DPOConfig(
        output_dir=str(out), per_device_train_batch_size=2, max_length=LENGTH, use_cpu=True,
        bf16=False, gradient_checkpointing=False, disable_tqdm=True, seed=3, **{**settings, **options},
    )  # fmt: skip
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=callbacks,
        **more,
    )


def probe(prefs: Path, limit: int = 8, **options: Any) -> DisplacementCallback:
    return DisplacementCallback(ut.read_pairs(prefs, limit=limit), max_length=LENGTH, **options)


def weights(trained: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trained.model.state_dict().items()}


def audited(prefs: Path, saved: Path) -> float:
    table = ut.audit(
        ut.read_pairs(prefs, limit=8),
        ut.load_model(str(saved), dtype="float32", device="cpu"),
        tokens=ut.TokenSettings(max_length=LENGTH),
    )
    return float(np.mean(table["logp_chosen"]))


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["all weights", "lora"])
def test_training_is_tracked_and_left_alone(peft_config: Any, folder: Path, prefs: Path, tmp_path: Path) -> None:
    tracked, reporter, modes, modes_without = probe(prefs, every=2), Reporter(), Modes(), Modes()
    with_it = trainer(folder, tmp_path, [reporter, tracked, modes], peft_config=peft_config)
    with_it.train()
    without = trainer(folder, tmp_path, [modes_without], peft_config=peft_config)
    without.train()

    assert [row["step"] for row in tracked.rows] == [0, 2, 4, 6]
    first, last = tracked.rows[0], tracked.rows[-1]
    assert first["chosen_change"] == first["displaced"] == 0
    assert last["margin_change"] > 0.1
    # The same weights to the last bit, in the same modes.
    found, expected = weights(with_it), weights(without)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert modes.seen == modes_without.seen == [(True, "sdpa")] * STEPS
    # Every value is in the log and came by the loggers, at its step.
    history = [entry for entry in with_it.state.log_history if "displacement/chosen_logp" in entry]
    reported = [(step, logs) for step, logs in reporter.seen if "displacement/chosen_logp" in logs]
    for row, entry, (step, logs) in zip(tracked.rows, history, reported, strict=True):
        assert entry["step"] == step == row["step"]
        for name, value in tracked_values(row).items():
            assert entry[f"displacement/{name}"] == logs[f"displacement/{name}"] == value
    # TRL's own entries are those of a run without.
    own = [[e for e in t.state.log_history if "rewards/margins" in e] for t in (with_it, without)]
    kept = [[(e["step"], e.get("loss"), e["rewards/margins"]) for e in run] for run in own]
    assert kept[0] == kept[1]
    assert [step for step, *_ in kept[0]] == [2, 4, 6]
    # What was tracked is what an audit of the trained model says.
    model = with_it.model.merge_and_unload() if peft_config else with_it.model
    model.save_pretrained(tmp_path / "trained")
    with_it.processing_class.save_pretrained(tmp_path / "trained")
    assert last["chosen_logp"] == pytest.approx(audited(prefs, tmp_path / "trained"), rel=1e-4)
    assert first["chosen_logp"] == pytest.approx(audited(prefs, folder), rel=1e-4)
    assert abs(last["chosen_change"]) > 0.1


def test_the_last_step_is_looked_at_wherever_it_falls(folder: Path, prefs: Path, tmp_path: Path) -> None:
    tracked = probe(prefs, every=4, watch={"agree": ["It", "Yes"]})
    trainer(folder, tmp_path, [Reporter(), tracked]).train()  # the loggers are still open
    assert [row["step"] for row in tracked.rows] == [0, 4, 6]
    assert tracked.rows[-1]["watch/agree"] != 0


def test_a_run_that_goes_on_has_no_gaps_and_a_new_one_starts_anew(folder: Path, prefs: Path, tmp_path: Path) -> None:
    kept, whole = tmp_path / "history", probe(prefs, every=2)
    trainer(folder, tmp_path / "whole", [whole]).train()
    saving = {"save_strategy": "steps", "save_steps": 3}

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 5

    trainer(folder, tmp_path / "run", [probe(prefs, every=2, folder=kept), Stop()], **saving).train()
    assert pq.read_table(kept / "tracking.parquet")["step"].to_pylist() == [0, 2, 4, 5]
    resumed = probe(prefs, every=2, folder=kept)
    again = trainer(folder, tmp_path / "run", [resumed], **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    rows = pq.read_table(kept / "tracking.parquet").to_pylist()
    assert rows == resumed.rows
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert rows == whole.rows
    other = trainer(folder, tmp_path / "run", [probe(prefs, 5, folder=kept)], **saving)
    with pytest.raises(OutputError, match="the history of 8 pairs, here are 5"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    anew = probe(prefs, 5, every=3, folder=kept)
    trainer(folder, tmp_path / "new", [anew], max_steps=3).train()
    assert [row["step"] for row in anew.rows] == [0, 3]
    assert pq.read_table(kept / "tracking.parquet").to_pylist() == anew.rows


def test_what_cannot_be_tracked_is_refused_before_the_first_step(folder: Path, prefs: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="every=0"):
        probe(prefs, every=0)
    with pytest.raises(DataError, match="no pair to look at"):
        trainer(folder, tmp_path, [DisplacementCallback([])]).train()
    with pytest.raises(DataError, match=r"2 rows cannot be used"):
        trainer(folder, tmp_path, [DisplacementCallback(ut.read_pairs(prefs, limit=2), max_length=5)]).train()
    prompt = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(ModelError, match="learns a prompt"):
        trainer(folder, tmp_path, [probe(prefs)], peft_config=prompt).train()
    sharded = trainer(folder, tmp_path, [probe(prefs)])
    sharded.args.fsdp = "full_shard"
    with pytest.raises(OptionError, match="sharded"):
        sharded.callback_handler.on_train_begin(sharded.args, sharded.state, sharded.control)


def test_without_a_trainer_among_the_callers_the_history_has_the_values(folder: Path, prefs: Path) -> None:
    """Another loop that calls the events by itself, as some frameworks do."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attention_dropout=0.5)
    state, tracked = TrainerState(max_steps=1), probe(prefs)
    args, control = TrainingArguments(output_dir="unused", use_cpu=True), TrainerControl()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.train().model.layers[0].eval()
    modes = [part.training for part in model.modules()]
    tracked.on_train_begin(args, state, control, model=model, processing_class=tokenizer)
    assert [part.training for part in model.modules()] == modes
    assert state.log_history[0]["step"] == 0
    assert state.log_history[0]["displacement/chosen_logp"] == tracked.rows[0]["chosen_logp"]
    assert tracked.rows[0]["chosen_logp"] == pytest.approx(audited(prefs, folder), rel=1e-4)  # no dropout
    with pytest.raises(ModelError, match="no tokenizer"):
        tracked.on_train_begin(args, state, control, model=model, processing_class=None)


def of_gradients(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if "gradient/" in name or "case/" in name}


def mean_of(table: Any, name: str) -> float:
    return float(np.mean(table[name].to_numpy()))


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["all weights", "lora"])
def test_gradients_are_an_audits_and_change_nothing(
    peft_config: Any, folder: Path, prefs: Path, tmp_path: Path
) -> None:
    """IPO's weights hang on the reference, here TRL's own: the model before training."""
    loss = ut.losses.IPO(0.05)
    plain, tracked = probe(prefs, every=3), probe(prefs, every=3, track_gradients=True, loss=loss)
    runs = [trainer(folder, tmp_path, [callback], peft_config=peft_config) for callback in (plain, tracked)]
    for each in runs:
        each.train()
    one, two = map(weights, runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
    for row, other in zip(tracked.rows, plain.rows, strict=True):
        assert {name: value for name, value in row.items() if name not in of_gradients(row)} == other
    model = runs[1].model.merge_and_unload() if peft_config else runs[1].model
    model.save_pretrained(tmp_path / "trained")
    runs[1].processing_class.save_pretrained(tmp_path / "trained")
    start, trained = (
        ut.load_model(str(path), dtype="float32", device="cpu") for path in (folder, tmp_path / "trained")
    )
    options: dict[str, Any] = {"loss": loss, "tokens": ut.TokenSettings(max_length=LENGTH)}
    for row, table in (
        (tracked.rows[0], ut.audit(ut.read_pairs(prefs, limit=8), start, **options)),
        (tracked.rows[-1], ut.audit(ut.read_pairs(prefs, limit=8), trained, reference=start, **options)),
    ):
        for part in ("chosen", "cross", "rejected"):
            assert row[f"gradient/{part}"] == pytest.approx(mean_of(table, f"gg_{part}"), rel=1e-4)
        assert row["gradient/condition"] == np.mean(table["dlogp_chosen"].to_numpy() > 0)
        assert [row[f"case/{n}"] for n in range(5)] == [np.mean(table["case"].to_numpy() == n) for n in range(5)]
    without = ut.audit(ut.read_pairs(prefs, limit=8), trained, **options)
    assert tracked.rows[-1]["gradient/condition"] != np.mean(without["dlogp_chosen"].to_numpy() > 0)


def test_gradients_of_a_reference_of_its_own(folder: Path, prefs: Path, tmp_path: Path) -> None:
    other = tiny_folder(tmp_path / "other")
    hf = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32)
    with torch.no_grad():
        hf.lm_head.weight.mul_(2.0)
    hf.save_pretrained(other)
    loss, tracked = ut.losses.IPO(0.05), probe(prefs, track_gradients=True, loss=ut.losses.IPO(0.05))
    trainer(folder, tmp_path, [tracked], max_steps=1, ref_model=hf).train()
    start, reference = (ut.load_model(str(path), dtype="float32", device="cpu") for path in (folder, other))
    options: dict[str, Any] = {"loss": loss, "tokens": ut.TokenSettings(max_length=LENGTH)}
    expected = ut.audit(ut.read_pairs(prefs, limit=8), start, reference=reference, **options)
    assert tracked.rows[0]["gradient/condition"] == np.mean(expected["dlogp_chosen"].to_numpy() > 0)
    alone = ut.audit(ut.read_pairs(prefs, limit=8), start, **options)
    assert tracked.rows[0]["gradient/condition"] != np.mean(alone["dlogp_chosen"].to_numpy() > 0)


def test_the_loss_of_the_gradients_is_the_trainers_or_given(folder: Path, prefs: Path, tmp_path: Path) -> None:
    tracked = probe(prefs, track_gradients=True)
    trainer(folder, tmp_path, [tracked], max_steps=1, beta=0.3).train()
    assert tracked.gradients is not None
    assert tracked.gradients.loss == ut.losses.DPO(0.3)
    for options in ({"loss_type": ["ipo"]}, {"loss_type": ["robust"], "label_smoothing": 0.1}):
        with pytest.raises(OptionError, match=r"loss=undertow\.losses"):
            trainer(folder, tmp_path, [probe(prefs, track_gradients=True)], max_steps=1, **options).train()


def test_gradients_without_the_start_are_refused(folder: Path, prefs: Path, tmp_path: Path) -> None:
    """A LoRA run that goes on without its history: what the model was before the first step is not known."""
    saving = {"save_strategy": "steps", "save_steps": 2, "peft_config": LORA}
    trainer(folder, tmp_path / "run", [], max_steps=2, **saving).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    again = trainer(folder, tmp_path / "run", [probe(prefs, track_gradients=True)], max_steps=4, **saving)
    with pytest.raises(OptionError, match="before the first step"):
        again.train(resume_from_checkpoint=checkpoint)


@pytest.fixture(scope="module")
def tracked_folder(folder: Path, prefs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the callback leaves of a run of TRL's trainer; only read."""
    kept = tmp_path_factory.mktemp("tracked") / "tracking"
    callback = probe(prefs, every=2, folder=kept, displaced_by=0.5, watch={"yes": ["Yes"]})
    trainer(folder, tmp_path_factory.mktemp("run"), [callback], beta=0.3).train()
    return kept


def test_the_folder_tells_what_was_asked_for(tracked_folder: Path) -> None:
    record = json.loads((tracked_folder / "tracking.json").read_text())
    assert record["finished"] is True
    asked = record["arguments"]
    assert asked["loss"] == "DPO(beta=0.3)"
    assert (asked["trainer"], asked["probe_pairs"], asked["track_every"]) == ("DPOTrainer", 8, 2)
    assert (asked["displaced_by"], asked["max_steps"], asked["watch"]) == (0.5, STEPS, {"yes": ["Yes"]})
    rows = pq.read_table(tracked_folder / "tracking.parquet").to_pylist()
    pairs = pq.read_table(tracked_folder / "probe.parquet").to_pylist()
    assert {row["displaced_by"] for row in rows} == {0.5}
    assert rows[-1]["displaced"] == np.mean([row["chosen_change"] < -0.5 for row in pairs])
    assert rows[-1]["reward_accuracy"] == np.mean([row["chosen_change"] > row["rejected_change"] for row in pairs])


def test_the_folder_has_a_page_and_can_be_viewed(capsys, tracked_folder: Path, tmp_path: Path) -> None:
    page = write_report(tracked_folder).read_text()
    last = pq.read_table(tracked_folder / "tracking.parquet").to_pylist()[-1]
    assert kind_of(tracked_folder) == "train"
    assert f"margin grew by {number(last['margin_change'])} nats" in page
    assert "tracked by DisplacementCallback" in page
    assert "DPO(beta=0.3)" in page
    for absent in ("not finished", 'id="guards"', 'id="log"', "Mean loss"):
        assert absent not in page, absent
    code, _, err = run(capsys, "view", tracked_folder, "--html", tmp_path / "page.html")
    assert code == 0, err
    assert (tmp_path / "page.html").read_text() == report_html(tracked_folder)
    # Beside a run of ours, on one page.
    assert tracked_folder.name in multi([tracked_folder])


def test_a_folder_with_the_history_alone_has_a_page_too(tracked_folder: Path, tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    for name in ("tracking.parquet", "tracking-start.npz"):
        shutil.copy(tracked_folder / name, tmp_path)
    page = write_report(tmp_path).read_text()
    assert "margin grew by" in page
    assert 'id="settings"' not in page
    assert "not finished" not in page
    assert "None" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_a_run_that_goes_on_says_that_it_is_not_finished(tracked_folder: Path, tmp_path: Path) -> None:
    there = shutil.copytree(tracked_folder, tmp_path / "there")
    record = json.loads((there / "tracking.json").read_text())
    (there / "tracking.json").write_text(json.dumps(record | {"finished": False}))
    assert "This run is not finished" in report_html(there)


@pytest.mark.parametrize("by", [-0.1, float("nan")])
def test_a_threshold_that_is_none_is_refused(prefs: Path, by: float) -> None:
    with pytest.raises(OptionError, match="displaced_by"):
        probe(prefs, displaced_by=by)

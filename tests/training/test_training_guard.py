"""Guards on real runs: each action changes what it promises, and the run stays exactly resumable."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import training_runs
import undertow as ut
from command import run, spawn


def arguments(model: Path, prefs: Path, *guards: str) -> list:
    more = ["--lr", 3e-3, "--save-every", 2, "--track-every", 2, "--keep-checkpoints", 9, "--schedule", "constant"]
    return training_runs.arguments(model, prefs, *more, *(part for g in guards for part in ("--guard", g)))


def trained(capsys, model: Path, prefs: Path, out: Path, *guards: str) -> tuple[dict, list[dict], str]:
    code, stdout, err = run(capsys, *arguments(model, prefs, *guards), "--out", out, "--json")
    assert code == 0, err
    return json.loads(stdout.splitlines()[-1]), pq.read_table(out / "tracking.parquet").to_pylist(), err


def firings(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "guard.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(model: Path, prefs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "run"
    spawn(*arguments(model, prefs), "--out", out, "--quiet").join()
    return out


def test_warn_says_so_and_changes_nothing(capsys, model, prefs, plain, tmp_path) -> None:
    summary, rows, err = trained(capsys, model, prefs, tmp_path / "run", "margin_change>0 -> warn")
    assert summary["steps"] == 12
    assert [firing["step"] for firing in firings(tmp_path / "run")] == [2, 4, 6, 8, 10, 12]
    assert "guard at step 2" in err
    assert rows == pq.read_table(plain / "tracking.parquet").to_pylist()


def test_stop_ends_the_run_at_that_step(capsys, model, prefs, plain, tmp_path) -> None:
    summary, rows, _ = trained(capsys, model, prefs, tmp_path / "run", "margin_change>0 for 2 -> stop")
    assert summary["steps"] == rows[-1]["step"] == 4
    assert rows == pq.read_table(plain / "tracking.parquet").to_pylist()[:3]


def test_rollback_puts_the_last_weights_inside_the_limits_back(capsys, model, prefs, plain, tmp_path) -> None:
    history = pq.read_table(plain / "tracking.parquet").to_pylist()
    margins = [row["margin_change"] for row in history]
    first = next(n for n in range(2, len(margins)) if margins[n] > max(margins[:n]) + 1e-3)
    limit = (max(margins[:first]) + margins[first]) / 2
    out = tmp_path / "run"
    summary, rows, _ = trained(capsys, model, prefs, out, f"margin_change>{limit} -> rollback")
    before = history[first - 1]["step"]
    assert summary["rolled_back_to"] == before
    assert summary["steps"] == rows[-1]["step"] == history[first]["step"]
    one, two = (load_file(path / "model.safetensors") for path in (out / "model", plain / f"checkpoint-{before}"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_sft_term_lifts_the_chosen_responses(capsys, model, prefs, plain, tmp_path) -> None:
    _, rows, _ = trained(capsys, model, prefs, tmp_path / "run", "margin_change>0 for 2 -> sft=0.5")
    before = pq.read_table(plain / "tracking.parquet").to_pylist()
    assert rows[:3] == before[:3]  # the term acts from the step on at which the guard fired
    assert rows[-1]["chosen_change"] > before[-1]["chosen_change"] + 1


def test_drop_leaves_out_the_pairs_with_the_largest_pull_down(capsys, model, prefs, plain, tmp_path) -> None:
    out = tmp_path / "run"
    _, rows, _ = trained(capsys, model, prefs, out, "margin_change>0 for 3 -> drop=25%")
    before = pq.read_table(plain / "tracking.parquet").to_pylist()
    (fired,) = [firing for firing in firings(out) if firing["step"] == 6]
    assert rows[:4] == before[:4]
    assert rows[-1] != before[-1]
    assert len(fired["rows"]) == 6
    # They are those that an audit of the model as it was then names.
    table = ut.audit(
        ut.read_pairs(prefs), ut.load_model(str(plain / "checkpoint-6"), dtype="float32"), pull=True,
        tokens=ut.TokenSettings(max_length=400),
    ).to_pylist()  # fmt: skip
    lowest = sorted(table, key=lambda row: row["pull_own"] + row["pull_others"])[:6]
    assert fired["rows"] == sorted(row["row"] for row in lowest)


def test_a_guarded_run_that_was_killed_ends_as_if_it_had_not_been(model, prefs, tmp_path) -> None:
    base = arguments(model, prefs, "margin_change>0 for 2 -> sft=0.2", "margin_change>0 for 3 -> drop=10%")
    spawn(*base, "--out", tmp_path / "whole", "--quiet").join()
    out = tmp_path / "out"
    for step in (4, 8):
        process = spawn(*base, "--out", out, "--quiet")
        while process.is_alive() and not (out / f"checkpoint-{step}").exists():
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    spawn(*base, "--out", out, "--quiet").join()
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "whole", out))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert firings(tmp_path / "whole") == firings(out)
    tables = [pq.read_table(folder / "tracking.parquet") for folder in (tmp_path / "whole", out)]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ("displaced>0.5 -> explode", "--guard"),
        ("displacd>0.5 -> stop", "Did you mean displaced"),
        ("watch/no>0.5 -> stop", "watch/no"),
    ],
)
def test_wrong_guards_are_refused_before_the_first_step(capsys, model, prefs, tmp_path, guard, message) -> None:
    code, _, err = run(capsys, *arguments(model, prefs, guard), "--out", tmp_path / "out")
    assert (code, message in err) == (2, True), err
    assert not list((tmp_path / "out").glob("checkpoint-*"))

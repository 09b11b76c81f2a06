"""Guards on real runs: each action changes what it promises, and the run stays exactly resumable."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import training_runs
import undertow as ut
from command import run, spawn
from tiny import random_pairs, tiny_model
from undertow.runs.token_file import TokenFile
from undertow.training import run as run_module
from undertow.training.guards.pull import most_pulled


def arguments(model: Path, prefs: Path, *guards: str) -> list:
    more = ["--lr", 3e-3, "--save-every", 2, "--track-every", 2, "--keep-checkpoints", 9, "--schedule", "constant"]
    return training_runs.arguments(model, prefs, *more, *(part for g in guards for part in ("--guard", g)))


def trained(capsys, model: Path, prefs: Path, out: Path, *guards: str, steps: int = 12) -> tuple[dict, list[dict], str]:
    base = arguments(model, prefs, *guards)
    code, stdout, err = run(capsys, *base, "--max-steps", steps, "--out", out, "--json")
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


def audited(model: Path, prefs: Path, rows: list[int], folder: Path) -> list[dict]:
    """An audit with the pull of these rows alone, as if the data had no others; ``row`` as in the whole data."""
    lines = prefs.read_text().splitlines()
    some = folder / "some.jsonl"
    some.write_text("".join(f"{lines[row]}\n" for row in rows))
    loaded, tokens = ut.load_model(str(model), dtype="float32"), ut.TokenSettings(max_length=400)
    table = ut.audit(ut.read_pairs(some), loaded, pull=True, tokens=tokens).to_pylist()
    return [{**row, "row": rows[row["row"]]} for row in table]


def test_drop_looks_at_the_pairs_that_are_still_in_training_only(capsys, model, prefs, tmp_path) -> None:
    """What the filter or an earlier firing left out exerts no pull, is not named, and is not counted in the share."""
    out, share = tmp_path / "run", Fraction(29, 100)
    code, _, err = run(
        capsys, *arguments(model, prefs, "margin_change>0 after 2 looks -> drop=29%"),
        "--filter", "ln_ches drop-highest 4", "--out", out,
    )  # fmt: skip
    assert code == 0, err
    left_out = {json.loads(line)["row"] for line in (out / "filtered.jsonl").read_text().splitlines()}
    there = [row for row in range(24) if row not in left_out]
    assert len(there) == 20
    fired = firings(out)
    assert [firing["step"] for firing in fired] == [6, 8, 10, 12]
    for firing in fired[:-1]:
        table = audited(out / f"checkpoint-{firing['step']}", prefs, there, tmp_path)
        lowest = sorted(table, key=lambda row: row["pull_own"] + row["pull_others"])[: int(share * len(there))]
        assert firing["rows"] == sorted(row["row"] for row in lowest)
        there = [row for row in there if row not in firing["rows"]]
    assert [len(firing["rows"]) for firing in fired] == [5, 4, 3, 0], "at the last look there is no step to come"
    assert "; 5 pairs dropped." in err


def test_the_share_that_is_dropped_is_exact() -> None:
    """29 of 100 pairs, although the nearest binary fraction of 0.29 times 100 is less than 29."""
    assert int(0.29 * 100) == 28
    model, pairs = tiny_model(), random_pairs(100, longest=8)
    with tempfile.TemporaryDirectory() as folder:
        spool = TokenFile(Path(folder, "tokens.arrow"))
        for pair in pairs:
            spool.add(pair)
        spool.close()
        found = most_pulled(spool, range(100), model, ut.losses.DPO(), 0.29)
        assert len(found) == 29
        assert most_pulled(spool, [], model, ut.losses.DPO(), 0.29) == []
        some = most_pulled(spool, range(50), model, ut.losses.DPO(), 0.29, dropped=set(range(0, 50, 2)))
        assert len(some) == 7  # 29% of 25
        assert all(row < 50 and row % 2 for row in some)


def test_a_guard_sees_the_look_at_the_end_of_training(capsys, model, prefs, tmp_path) -> None:
    """Five steps, a look at every second one and at the last: the third look of the run is that at the end."""
    out = tmp_path / "run"
    summary, rows, err = trained(capsys, model, prefs, out, "margin_change>0 after 2 looks -> stop", steps=5)
    assert [row["step"] for row in rows] == [0, 2, 4, 5], "looked at once"
    assert [(firing["step"], firing["action"]) for firing in firings(out)] == [(5, "stop")]
    assert summary["steps"] == 5
    assert "guard at step 5" in err


def test_a_guard_at_the_last_look_can_put_weights_back(capsys, model, prefs, tmp_path) -> None:
    out = tmp_path / "run"
    summary, rows, _ = trained(capsys, model, prefs, out, "margin_change>0 after 2 looks -> rollback", steps=5)
    assert (summary["steps"], summary["rolled_back_to"]) == (5, 4)
    one, two = (load_file(path / "model.safetensors") for path in (out / "model", out / "checkpoint-4"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    # What is told of the end is of the weights that were put back.
    assert summary["tracked"]["step"] == 4
    assert {**rows[2], "step": 4} == {**rows[2], **summary["tracked"]}
    assert [row["step"] for row in rows] == [0, 2, 4, 5], "the look that was undone stays in the history"
    table = audited(out / "model", prefs, list(range(24)), tmp_path)
    probe = pq.read_table(out / "probe.parquet").to_pylist()
    assert {row["step"] for row in probe} == {4}
    for pair, row in zip(probe, table, strict=True):
        assert (pair["row"], pair["pair_id"]) == (row["row"], row["pair_id"])
        assert pair["chosen_logp"] == pytest.approx(row["logp_chosen"], rel=1e-4)


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_a_run_that_a_guard_ended_is_over_also_after_a_kill(
    capsys, model, prefs, tmp_path, monkeypatch, action
) -> None:
    """Killed after the last checkpoint, before the trained model stood: no step may be added."""
    guard, plain = f"margin_change>0 for 2 -> {action}", run_module._Run._save
    trained(capsys, model, prefs, tmp_path / "whole", guard)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(run_module._Run, "_save", killed)
    assert run(capsys, *arguments(model, prefs, guard), "--out", out)[0] == 130
    assert (out / "checkpoint-4").is_dir()
    assert not (out / "train.json").exists()
    monkeypatch.setattr(run_module._Run, "_save", plain)
    summary, rows, _ = trained(capsys, model, prefs, out, guard)
    whole = json.loads((tmp_path / "whole" / "train.json").read_text())
    assert summary["steps"] == whole["steps"] == rows[-1]["step"] == 4
    assert summary["tracked"] == whole["tracked"]
    assert summary["firings"] == whole["firings"] == firings(out)
    assert summary["loss"] == whole["loss"]
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "whole", out))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_guard_that_counts_later_goes_on_exactly(model, prefs, tmp_path) -> None:
    """Killed before it began to count: the looks it had had by then are in the checkpoint."""
    base = arguments(model, prefs, "margin_change>0 for 2 after 3 looks -> sft=0.2")
    spawn(*base, "--out", tmp_path / "whole", "--quiet").join()
    out = tmp_path / "out"
    process = spawn(*base, "--out", out, "--quiet")
    while process.is_alive() and not (out / "checkpoint-4").exists():
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    spawn(*base, "--out", out, "--quiet").join()
    assert [firing["step"] for firing in firings(out)] == [10]
    assert firings(tmp_path / "whole") == firings(out)


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ("accuracy>0.5 -> stop", "Did you mean reward_accuracy"),
        ("displaced>0.5 -> explode", "--guard"),
        ("displacd>0.5 -> stop", "Did you mean displaced"),
        ("watch/no>0.5 -> stop", "watch/no"),
    ],
)
def test_wrong_guards_are_refused_before_the_first_step(capsys, model, prefs, tmp_path, guard, message) -> None:
    code, _, err = run(capsys, *arguments(model, prefs, guard), "--out", tmp_path / "out")
    assert (code, message in err) == (2, True), err
    assert not list((tmp_path / "out").glob("checkpoint-*"))

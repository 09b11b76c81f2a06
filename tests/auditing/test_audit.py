"""``undertow audit`` as users run it: what it writes, what it refuses, and that a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import naive
import undertow as ut
from command import command, run, some_rows, spawn, start, write_jsonl
from tiny import tiny_folder, tiny_hf, tiny_tokenizer
from undertow.scoring.levels import schema


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "prefs.jsonl", some_rows(40))


def digest(folder: Path) -> str:
    """The bytes of all parts."""
    parts = sorted((folder / "scores").glob("*.parquet"))
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def test_writes_what_the_contract_says(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = run(
        capsys, "audit", prefs, "--model", model, "--max-length", 400, "--out", out, "--json", "--part-pairs", 16
    )
    assert code == 0, stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert summary == json.loads((out / "audit.json").read_text())
    assert sorted(p.name for p in (out / "scores").iterdir()) == [f"part-0000{n}.parquet" for n in range(3)]
    table = ut.read_scores(out)
    assert table.schema.names == schema("unembedding").names
    assert table["row"].to_pylist() == list(range(40))
    assert not (out / "skipped.jsonl").exists()
    assert summary["data"]["pairs"] == 40
    assert summary["data"]["unused_columns"] == ["source"]
    assert summary["tokens"]["layout"] == "chat"
    assert {"torch", "transformers"} <= summary["versions"].keys()
    assert "undertow filter" in stdout
    assert stderr == "note: Columns of the data that are not used: `source`.\n"  # no terminal, no progress


def test_scores_are_those_of_the_slow_loop(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    run(capsys, "audit", prefs, "--model", model, "--max-length", 400, "--out", tmp_path / "out", "--dtype", "float32")
    tokenizer, hf = tiny_tokenizer(), tiny_hf("llama", dtype=torch.float64)
    table = ut.read_scores(tmp_path / "out").to_pylist()
    for row, values in zip(some_rows(40)[:6], table, strict=False):
        message = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"]
        chosen, rejected = (tokenizer(row[side] + "<|end|>")["input_ids"] for side in ("chosen", "rejected"))
        expected = naive.hidden_scores(hf, prompt, chosen, rejected)
        assert values["chosen_tokens"] == len(chosen)
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, rel=1e-3, abs=1e-3), name


def test_python_and_the_command_line_agree(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    run(capsys, "audit", prefs, "--model", model, "--max-length", 400, "--out", tmp_path / "out", "--dtype", "float32")
    table = ut.audit(
        ut.read_pairs(prefs), ut.load_model(str(model), dtype="float32"), tokens=ut.TokenSettings(max_length=400)
    )
    assert table.equals(ut.read_scores(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "column", "changed"),
    [
        (["--max-length", 60], "chosen_tokens", True),
        (["--no-eot"], "chosen_tokens", True),
        (["--template", "plain"], "prompt_tokens", True),
        (["--dtype", "bfloat16"], "ches", True),
        (["--limit", 7], "row", True),
        (["--shard", "2/3"], "row", True),
        (["--batch-tokens", 64], "row", False),
        (["--one-at-a-time"], "row", False),
        (["--columns", "prompt=prompt,chosen=rejected,rejected=chosen"], "ches", True),
        (["--loss", "simpo"], "d_chosen", True),
        (["--beta", "0.5"], "dlogp_chosen", True),
        (["--loss", "conservative-dpo", "--loss-args", "epsilon=0.3"], "d_rejected", True),
        (["--pull"], "row", False),
    ],
)
def test_every_option_does_what_it_says(capsys, model, prefs, tmp_path, options, column, changed) -> None:
    base = ["audit", prefs, "--model", model, "--dtype", "float32", "--quiet"]
    run(capsys, *base, "--max-length", 400, "--out", tmp_path / "a")
    code, _, err = run(capsys, *base, "--max-length", 400, *options, "--out", tmp_path / "b")
    assert code == 0, err
    a, b = (pq.read_table(tmp_path / folder / "scores") for folder in "ab")
    assert (a[column].to_pylist() != b[column].to_pylist()) == changed
    if not changed:
        assert b["ln_ches"].to_pylist() == pytest.approx(a["ln_ches"].to_pylist(), rel=1e-4, abs=1e-4)


def test_a_reference_changes_the_weights_and_is_part_of_the_key(capsys, model, prefs, tmp_path) -> None:
    other = tiny_folder(tmp_path / "other", "llama-tied")
    base = ["audit", prefs, "--model", model, "--max-length", 400, "--dtype", "float32"]
    for out, options in (("own", []), ("ref", ["--ref", other])):
        code, _, err = run(capsys, *base, *options, "--out", tmp_path / out)
        assert code == 0, err
    own, ref = (ut.read_scores(tmp_path / out) for out in ("own", "ref"))
    assert set(own["d_chosen"].to_pylist()) == {0.05}
    assert len(set(ref["d_chosen"].to_pylist())) == 40
    assert own["gg_chosen"].equals(ref["gg_chosen"])
    code, _, err = run(capsys, *base, "--ref", model, "--out", tmp_path / "ref")
    assert code == 2
    assert "reference weights" in err


def test_a_reference_of_other_tokens_is_refused(capsys, model, prefs, tmp_path, smollm2_folder) -> None:
    code, _, err = run(
        capsys,
        "audit",
        prefs,
        "--model",
        model,
        "--ref",
        smollm2_folder,
        "--max-length",
        400,
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert "another vocabulary" in err


def test_level_text_has_no_scores_of_a_model_and_needs_no_weights(
    capsys, model: Path, prefs: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    (bare / "model.safetensors").write_bytes((bare / "model.safetensors").read_bytes()[:-8] + b"\0" * 8)
    code, stdout, _ = run(capsys, "audit", prefs, "--model", bare, "--level", "text", "--out", tmp_path / "out")
    assert code == 0
    assert ut.read_scores(tmp_path / "out").schema.names == schema("text").names
    assert "edit_distance" in stdout


def test_shards_read_as_one(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    base = ["audit", prefs, "--model", model, "--max-length", 400, "--dtype", "float32", "--quiet"]
    run(capsys, *base, "--out", tmp_path / "whole")
    for shard in (3, 1, 2):
        assert run(capsys, *base, "--out", tmp_path / "shards" / f"{shard}", "--shard", f"{shard}/3")[0] == 0
    merged, whole = ut.read_scores(tmp_path / "shards"), ut.read_scores(tmp_path / "whole")
    assert merged["row"].to_pylist() == list(range(40))
    assert merged["pair_id"].to_pylist() == whole["pair_id"].to_pylist()
    assert merged["ches"].to_pylist() == pytest.approx(whole["ches"].to_pylist(), rel=1e-4, abs=1e-3)


BAD = [{"prompt": "a", "chosen": "same", "rejected": "same"}, {"prompt": "a", "chosen": "b"}]


def test_bad_rows_stop_before_weights_are_loaded(capsys, model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("undertow.auditing.audit.load_model", lambda *a, **k: pytest.fail("weights were loaded"))
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(3) + BAD * 6)
    code, stdout, stderr = run(capsys, "audit", data, "--model", model, "--max-length", 400, "--out", tmp_path / "out")
    assert (code, stdout) == (2, "")
    assert "12 rows cannot be used" in stderr
    assert stderr.count("prefs.jsonl, line") == 10
    assert "line 4 (row 3)" in stderr
    assert "and 2 more" in stderr
    assert "--on-bad-row skip" in stderr
    assert not (tmp_path / "out").exists()


def test_bad_rows_skipped_are_all_accounted_for(capsys, model: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "prefs.jsonl", BAD + some_rows(3) + BAD)
    out = tmp_path / "out"
    code, _, _ = run(capsys, "audit", data, "--model", model, "--max-length", 400, "--out", out, "--on-bad-row", "skip")
    assert code == 0
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [bad["row"] for bad in skipped] == [0, 1, 5, 6]
    assert all(bad["reason"] for bad in skipped)
    assert ut.read_scores(out)["row"].to_pylist() == [2, 3, 4]


def test_truncation_that_makes_responses_identical_is_a_bad_row(capsys, model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "same beginning, A", "rejected": "same beginning, B"}]
    data = write_jsonl(tmp_path / "prefs.jsonl", rows)
    code, _, err = run(capsys, "audit", data, "--model", model, "--max-length", 12, "--out", tmp_path / "out")
    assert code == 2
    assert "identical" in err
    assert "12" in err


def test_another_run_in_the_same_folder_is_refused(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    base = ["audit", "--max-length", 400, "--out", tmp_path / "out"]
    run(capsys, *base, prefs, "--model", model)
    before = digest(tmp_path / "out")
    other = write_jsonl(tmp_path / "other.jsonl", some_rows(39))
    heavier = tiny_folder(tmp_path / "heavier", "qwen3")
    for arguments, differs in (
        ([prefs, "--model", model, "--no-eot"], "\n  --eot: true there, false here\n"),
        ([prefs, "--model", model, "--max-length", 300], "\n  --max-length: 400 there, 300 here\n"),
        ([other, "--model", model], "data"),
        ([prefs, "--model", heavier], "model weights"),
        ([prefs, "--model", model, "--batch-tokens", 99], "\n  --batch-tokens: 4096 there, 99 here\n"),
    ):
        code, _, err = run(capsys, *base, *arguments)
        assert code == 2, arguments
        assert differs in err
        assert "--out" in err
        assert digest(tmp_path / "out") == before
    code, _, err = run(capsys, *base, other, "--model", model, "--overwrite")
    assert code == 0, err
    assert len(ut.read_scores(tmp_path / "out")) == 39


def test_a_finished_run_is_not_scored_again(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    arguments = ["audit", prefs, "--model", model, "--max-length", 400, "--out", tmp_path / "out", "--json"]
    first = run(capsys, *arguments)
    part = next((tmp_path / "out" / "scores").iterdir())
    stamp = part.stat().st_mtime_ns
    again = run(capsys, *arguments)
    assert again[0] == 0
    assert again[1].splitlines()[-1] == first[1].splitlines()[-1]
    assert "finished already" in again[2]
    assert part.stat().st_mtime_ns == stamp


def test_a_model_of_the_same_bytes_elsewhere_goes_on(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    """The key holds hashes, not names."""
    moved = shutil.copytree(model, tmp_path / "moved")
    copied = shutil.copy(prefs, tmp_path / "copied.jsonl")
    run(capsys, "audit", prefs, "--model", model, "--max-length", 400, "--out", tmp_path / "out")
    code, _, err = run(capsys, "audit", copied, "--model", moved, "--max-length", 400, "--out", tmp_path / "out")
    assert (code, "finished already" in err) == (0, True)


def test_killed_at_random_moments_and_started_again(model: Path, tmp_path: Path) -> None:
    """kill -9 at ten random moments: what is there is whole, at most one part is redone, the bytes are the same."""
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(400))
    base = ["audit", data, "--model", model, "--max-length", 400, "--part-pairs", 8, "--batch-tokens", 512, "--quiet"]
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    spawn(*base, "--out", undisturbed).join()
    draw = random.Random(0)
    kept: dict[str, int] = {}
    killed_while_scoring = 0
    for _ in range(10):
        process = spawn(*base, "--out", out)
        target = len(kept) + draw.randint(0, 4)
        while process.is_alive() and len(list(out.glob("scores/part-*.parquet"))) < target:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.join()
        killed_while_scoring += process.exitcode == -signal.SIGKILL
        parts = sorted(out.glob("scores/part-*.parquet"))
        assert all(pq.read_table(part).num_rows == 8 for part in parts)
        stamps = {part.name: part.stat().st_mtime_ns for part in parts}
        assert all(stamps[name] == stamp for name, stamp in kept.items()), "a finished part was written again"
        kept = stamps
    assert killed_while_scoring == 10
    assert 0 < len(kept) < 50
    spawn(*base, "--out", out).join()
    assert digest(out) == digest(undisturbed)
    assert ut.read_scores(out).equals(ut.read_scores(undisturbed))
    assert not list(out.rglob("*.tmp"))


def test_killed_with_pull_in_either_pass_and_started_again(model: Path, tmp_path: Path) -> None:
    """The same with two passes: the sum over the data set and the parts never fall apart, the bytes are the same."""
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(160))
    base = ["audit", data, "--model", model, "--max-length", 400, "--part-pairs", 8, "--batch-tokens", 512, "--quiet"]
    base += ["--pull"]
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    spawn(*base, "--out", undisturbed).join()
    draw = random.Random(1)
    seen: set[str] = set()
    for target in (1, 4, 9, 13, 20, 20, 20):
        process = spawn(*base, "--out", out)
        while process.is_alive() and len(list(out.glob("scores/part-*.parquet"))) < target:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            parts = [pq.read_table(part) for part in sorted(out.glob("scores/part-*.parquet"))]
            full = [not part["pull_own"].null_count for part in parts]
            seen.add("second" if len(parts) == 20 and any(full) else "first")
    assert "first" in seen
    spawn(*base, "--out", out).join()
    assert digest(out) == digest(undisturbed)
    assert not list(out.rglob("*.tmp"))
    assert not list(out.glob("update-*"))


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("level", ["hidden", "unembedding"])
def test_verdicts_are_computed_in_float32_whatever_the_processor(
    capsys, model: Path, prefs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, native: str
) -> None:
    monkeypatch.setenv("UNDERTOW_NATIVE_BFLOAT16", native)
    base = ["audit", prefs, "--model", model, "--max-length", 400, "--level", level, "--limit", 4, "--quiet", "--json"]
    found = json.loads(run(capsys, *base, "--out", tmp_path / "auto")[1].splitlines()[-1])["model"]["dtype"]
    assert found == ("bfloat16" if level == "hidden" and native == "1" else "float32")
    asked = json.loads(run(capsys, *base, "--dtype", "bfloat16", "--out", tmp_path / "asked")[1].splitlines()[-1])
    assert asked["model"]["dtype"] == "bfloat16"


def test_pull_adds_up_and_goes_on_in_the_second_pass(capsys, model: Path, tmp_path: Path, monkeypatch) -> None:
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(24))
    base = ["audit", data, "--model", model, "--max-length", 400, "--dtype", "float32", "--part-pairs", 5, "--pull"]
    assert run(capsys, *base, "--out", tmp_path / "whole")[0] == 0
    from undertow.auditing import audit as module

    plain, calls = module.add_pull, []

    def stop_at_third(*args, **kwargs):
        calls.append(args[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(module, "add_pull", stop_at_third)
    assert run(capsys, *base, "--out", tmp_path / "out")[0] == 130
    assert not (tmp_path / "out" / "audit.json").exists()
    code, stdout, err = run(capsys, *base, "--out", tmp_path / "out")
    assert code == 0, err
    assert calls == [0, 1, 2, 2, 3, 4]
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")
    assert "gradient of all pairs together" in " ".join(stdout.split())
    table = ut.read_scores(tmp_path / "out")
    own = np.array(table["dlogp_chosen"]) / 24
    assert np.allclose(table["pull_own"], own)
    in_memory = ut.audit(
        ut.read_pairs(data), ut.load_model(str(model), dtype="float32"), pull=True,
        tokens=ut.TokenSettings(max_length=400),
    )  # fmt: skip
    for name in ("pull_own", "pull_others", "pull_rejected_own", "pull_rejected_others"):
        assert np.allclose(in_memory[name], table[name], rtol=1e-3, atol=1e-3), name


def test_interrupt_leaves_the_folder_resumable(model: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(600))
    arguments = ["audit", data, "--model", model, "--max-length", 400, "--part-pairs", 25, "--out", tmp_path / "out"]
    process = start(*arguments)
    while not list((tmp_path / "out").glob("scores/part-*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on where it stopped" in err
    assert "Traceback" not in err
    done = subprocess.run(command(*arguments, "--json"), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["data"]["pairs"] == 600


def test_standard_input(model: Path, prefs: Path, tmp_path: Path) -> None:
    arguments = command("audit", "-", "--model", model, "--max-length", 400, "--out", tmp_path / "out")
    done = subprocess.run(arguments, input=prefs.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(ut.read_scores(tmp_path / "out")) == 40


def test_nan_scores_are_said_and_the_run_goes_on(capsys, prefs: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tiny_folder(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][tiny_tokenizer().convert_tokens_to_ids("!")] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    code, stdout, stderr = run(
        capsys, "audit", prefs, "--model", broken, "--max-length", 400, "--out", tmp_path / "out", "--json"
    )
    assert code == 0, stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["nonfinite"]["count"] == 40  # every rejected response has an exclamation mark
    assert "not finite" in stderr


def test_output_folder_that_cannot_be_written(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(capsys, "audit", prefs, "--model", model, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert str(tmp_path / "file") in err


def test_full_disk_is_said_and_the_run_goes_on_later(
    capsys, model: Path, prefs: Path, tmp_path: Path, monkeypatch
) -> None:
    import os

    arguments = ["audit", prefs, "--model", model, "--max-length", 400, "--part-pairs", 10, "--out", tmp_path / "out"]
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "space" in err.lower()
    monkeypatch.undo()
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not (tmp_path / "out" / "audit.json").exists()
    assert run(capsys, *arguments)[0] == 0
    assert len(ut.read_scores(tmp_path / "out")) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level", "deep"], "expected one of text, hidden, unembedding, gradient"),
        (["--loss", "dop"], "did you mean dpo"),
        (["--loss", "rebel", "--loss-args", "eta=1"], "reward model's scores"),
        (["--loss", "rrhf", "--beta", "0.1"], "has no beta"),
        (["--beta", "-1"], "beta must be a number in (0, inf)"),
        (["--loss-args", "alpha"], "expected NAME=VALUE"),
        (["--loss-args", "alpha=1"], "no parameter 'alpha'"),
        (["--loss", "r-dpo", "--loss-args", "alpha=1,alpha=2"], "given twice"),
        (["--beta", "1", "--loss-args", "beta=1"], "give one of the two"),
        (["--level", "hidden", "--pull"], "--pull: it needs --level unembedding"),
        (["--level", "text", "--ref", "demo"], "--ref: it needs --level unembedding"),
        (["--pull", "--shard", "1/2"], "--pull: it is the pull of the whole data set"),
        (["--ref", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--max-length", 4000], "beyond the 512 positions"),
        (["--shard", "4/3"], "--shard 4/3"),
        (["--shard", "x"], "expected I/N"),
        (["--engine", "ray"], "--engine ray"),
        (["--on-bad-row", "explode"], "--on-bad-row explode"),
        (["--device", "tpu"], "--device tpu"),
        (["--dtype", "int3"], "--dtype int3"),
        (["--format", "nonsense"], "nonsense"),
        (["--limit", "0"], "--limit 0"),
        (["--part-pairs", "0"], "--part-pairs 0"),
        (["--nonsense"], "--nonsense"),
        (["--max-length", "many"], "--max-length"),
    ],
)
def test_wrong_options_exit_2_and_name_the_option(capsys, model, prefs, tmp_path, arguments, message) -> None:
    base = ["audit", prefs, "--model", model, "--out", tmp_path / "out"]
    if "--max-length" not in arguments:
        base += ["--max-length", 400]
    code, _, err = run(capsys, *base, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err

"""What a command can refuse it refuses before a model is loaded, and leaves no folder behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import run

AUDIT = [
    (["--by", "nope"], "nope"),
    (["--level", "text", "--pull"], "--pull: it needs --level unembedding"),
    (["--level", "hiden"], "--level hiden"),
    (["--loss", "dpoo"], "did you mean dpo?"),
    (["--loss-args", "alpha"], "--loss-args 'alpha'"),
    (["--beta", "nan"], "beta must be"),
    (["--dtype", "half"], "--dtype half: expected one of"),
    (["--device", "gpu"], "--device gpu: expected one of"),
    (["--shard", "3/2"], "--shard 3/2"),
    (["--batch-tokens", "0"], "--batch-tokens 0"),
    (["--ref", "/nowhere/at/all"], "/nowhere/at/all"),
    (["--max-length", "513"], "--max-length 513"),
    (["--on-bad-row", "drop"], "--on-bad-row drop"),
    (["--limit", "0"], "--limit 0"),
    (["--columns", "prompt=x"], "--columns"),
    (["--levl", "text"], "No such option: --levl. Did you mean --level?"),
    (["--ref-model", "x"], "Did you mean --ref?"),
]
COMPARE = [
    (["--beta", "nan"], "--beta nan"),
    (["--dtype", "half"], "--dtype half: expected one of"),
    (["--device", "gpu"], "--device gpu: expected one of"),
    (["--resamples", "0"], "--resamples 0"),
    (["--scores", "/nowhere/at/all"], "/nowhere/at/all"),
    (["--max-seq-length", "5"], "Did you mean --max-length?"),
]


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("auditing.audit", "comparing.checkpoints"):
        monkeypatch.setattr(f"undertow.{where}.load_model", lambda *a, **k: pytest.fail("weights were loaded"))


@pytest.mark.parametrize(("options", "message"), AUDIT, ids=[" ".join(options) for options, _ in AUDIT])
def test_audit(capsys, model: Path, prefs: Path, tmp_path: Path, options, message) -> None:
    base = ["audit", prefs, "--model", model, "--max-length", 400, "--out", tmp_path / "out"]
    code, out, err = run(capsys, *base, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "message"), COMPARE, ids=[" ".join(options) for options, _ in COMPARE])
def test_compare(capsys, model: Path, prefs: Path, tmp_path: Path, options, message) -> None:
    base = ["compare", prefs, "--before", model, "--after", model, "--max-length", 400, "--out", tmp_path / "out"]
    code, out, err = run(capsys, *base, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--device", "gpu"], ["--dtype", "half"], ["--modell", "x"]])
def test_demo(capsys, tmp_path: Path, options) -> None:
    code, out, _ = run(capsys, "demo", *options, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert not (tmp_path / "out").exists()


FORECAST = [
    (["--optimiser", "lion"], "--optimiser lion: expected one of rmsprop, adamw, sgd"),
    (["--order", "random"], "--order random: expected one of train, trl, unknown"),
    (["--orders", "0"], "--orders 0: expected 1 or more"),
    (["--sample", "1"], "--sample 1: expected 0 (all pairs), or 2 or more"),
    (["--sketch", "7"], "--sketch 7: expected 64 or more"),
    (["--protect", "me"], "--protect me: expected one of displaced, all, held-out"),
    (["--protect", "held-out"], "give that too"),
    (["--sft-epochs", "1"], "No such option: --sft-epochs"),
    (["--world-size", "0"], "--world-size 0: expected 1 or more"),
    (["--held-out", "/nowhere/at/all"], "/nowhere/at/all"),
    (["--texts", "/nowhere/at/all"], "/nowhere/at/all"),
    (["--filter", "nonsense"], "--filter"),
    (["--lora-alpha", "8"], "--lora-r"),
    (["--loss", "dpoo"], "did you mean dpo?"),
    (["--level", "hiden"], "--level hiden"),
    (["--config", "/nowhere/at/all.yaml"], "/nowhere/at/all.yaml"),
]


@pytest.mark.parametrize(("options", "message"), FORECAST, ids=[" ".join(options) for options, _ in FORECAST])
def test_forecast(capsys, model: Path, prefs: Path, tmp_path: Path, options, message) -> None:
    base = ["forecast", prefs, "--model", model, "--max-length", 400, "--out", tmp_path / "out"]
    code, out, err = run(capsys, *base, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()

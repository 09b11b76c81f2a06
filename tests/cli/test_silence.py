"""What reaches the terminal: with --quiet nothing but errors, and never what other libraries say."""

from __future__ import annotations

import json
import logging
import subprocess
import warnings
from pathlib import Path

import pytest

from command import command, run
from training_runs import arguments
from undertow.cli.libraries import quiet_libraries


@pytest.fixture(scope="module")
def scores(model: Path, prefs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from run_folders import audited

    return audited(prefs, model, tmp_path_factory.mktemp("scores") / "scores")


def commands(model: Path, prefs: Path, scores: Path, out: Path) -> dict[str, list]:
    return {
        "audit": ["audit", prefs, "--model", model, "--max-length", 400, "--out", out / "audit"],
        "compare": [
            *("compare", prefs, "--before", model, "--after", model, "--max-length", 400),
            *("--resamples", 10, "--out", out / "compare"),
        ],
        "train": [*arguments(model, prefs, "--max-steps", 1), "--out", out / "train"],
        "filter": [
            *("filter", prefs, "--scores", scores, "--by", "ln_ches", "--drop-highest", "10%"),
            *("--out", out / "kept.jsonl"),
        ],
    }


@pytest.mark.parametrize("name", ["audit", "compare", "train", "filter"])
def test_quiet_prints_no_table(capsys, model: Path, prefs: Path, scores: Path, tmp_path: Path, name: str) -> None:
    given = commands(model, prefs, scores, tmp_path)[name]
    assert run(capsys, *given)[1] != ""
    again = commands(model, prefs, scores, tmp_path / "again")[name]
    assert run(capsys, *again, "--quiet") == (0, "", "")
    code, out, err = run(capsys, *again, "--quiet", "--json")
    assert (code, out.count("\n"), err) == (0, 1, "")
    assert isinstance(json.loads(out), dict)


TRAININGS = {
    "lora": ["--lora-r", 2, "--gradient-checkpointing"],
    "bfloat16": ["--dtype", "bfloat16", "--gradient-checkpointing", "--sft-epochs", 0.1],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_libraries_say_nothing(model: Path, prefs: Path, tmp_path: Path, name: str) -> None:
    """In a process of its own, where every library is loaded anew and would give its warnings."""
    given = [*arguments(model, prefs, "--max-steps", 2, "--save-every", 1), *TRAININGS[name], "--out", tmp_path / "run"]
    done = subprocess.run(command(*given), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("note: ")] == []


def test_an_audit_and_a_comparison_say_only_notes(model: Path, prefs: Path, scores: Path, tmp_path: Path) -> None:
    for name in ("audit", "compare"):
        given = commands(model, prefs, scores, tmp_path)[name]
        done = subprocess.run(command(*given), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if not line.startswith("note: ")] == []


def test_libraries_are_as_loud_as_before_afterwards(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.warnoptions", [])
    logger = logging.getLogger("peft")
    before = logger.level
    with quiet_libraries():
        warnings.warn("not heard", FutureWarning, stacklevel=1)
        logger.warning("not heard")
        logger.error("heard")
    assert logger.level == before
    with pytest.warns(FutureWarning, match="heard again"):
        warnings.warn("heard again", FutureWarning, stacklevel=1)
    assert "not heard" not in capsys.readouterr().err


def test_who_asks_for_warnings_gets_them(monkeypatch) -> None:
    monkeypatch.setattr("sys.warnoptions", ["default"])
    with pytest.warns(FutureWarning, match="heard"), quiet_libraries():
        warnings.warn("heard", FutureWarning, stacklevel=1)

"""The command line's manners: help, exit codes, hostile text, the demo."""

from __future__ import annotations

import importlib
import json
import pkgutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

import undertow as ut
from command import run, some_rows, write_jsonl
from tiny import tiny_folder
from undertow.wording.visible import one_line, visible


@pytest.mark.parametrize("name", ["audit", "filter", "train", "compare", "demo"])
def test_help_teaches(capsys, name: str) -> None:
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert "--out" in out
    if name != "demo":
        assert "Examples" in out
        assert f"undertow {name} prefs" in out


def test_version_and_no_arguments(capsys) -> None:
    assert run(capsys, "--version")[1].strip() == f"undertow {ut.__version__}"
    code, out, err = run(capsys)
    assert code == 2
    assert "audit" in out + err


def test_unknown_command_and_missing_option(capsys) -> None:
    code, _, err = run(capsys, "adit")
    assert (code, "adit" in err) == (2, True)
    code, _, err = run(capsys, "audit", "x.jsonl", "--model", "demo")
    assert (code, "--out" in err) == (2, True)


def test_missing_data_is_said_before_anything_is_loaded(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("undertow.auditing.audit.load_model", lambda *a, **k: pytest.fail("weights were loaded"))
    model = tiny_folder(tmp_path / "model")
    code, _, err = run(
        capsys, "audit", tmp_path / "prefs.jsonl", "--model", model, "--out", tmp_path / "o", "--max-length", 99
    )
    assert code == 2
    assert "prefs.jsonl" in err


@given(st.text())
def test_nothing_that_a_terminal_obeys_comes_through(text: str) -> None:
    shown = visible(text)
    joiners = "\u200c\u200d"  # these stay between letters that need them; a terminal does nothing for them
    kept = "\n\t" + joiners
    assert not [c for c in shown if c not in kept and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert not [c for c in joiners if f"a{c}b" in visible(f"a{c}b")]
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert len(one_line(text, 20)) <= 20


def test_escape_codes_in_data_never_reach_the_terminal(capsys, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[31mred\u202e"
    model = tiny_folder(tmp_path / "model")
    data = write_jsonl(tmp_path / "prefs.jsonl", [{"prompt": evil, "chosen": evil, "rejected": evil}, *some_rows(2)])
    code, out, err = run(capsys, "audit", data, "--model", model, "--out", tmp_path / f"o{evil}", "--max-length", 400)
    assert code == 2
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    code, out, err = run(
        capsys,
        "audit",
        data,
        "--model",
        model,
        "--out",
        tmp_path / f"o{evil}",
        "--max-length",
        400,
        "--on-bad-row",
        "skip",
    )
    assert code == 0
    assert "\x1b" not in out + err
    assert "␛" in out


def test_public_names_are_there_and_every_module_can_be_imported() -> None:
    assert ut.__all__ == sorted(ut.__all__)
    assert all(getattr(ut, name) is not None for name in ut.__all__)
    for module in pkgutil.walk_packages(ut.__path__, "undertow."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


@pytest.mark.model
def test_demo_from_the_real_model(capsys, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    code, out, err = run(capsys, "demo", "--out", tmp_path / "demo", "--json")
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["data"]["pairs"] == 30
    assert "After one epoch" in out
    assert "undertow simulate" in out
    assert "undertow filter" in out
    # What the run has really done stands beside, and the forecast ranks and counts it well.
    assert "Trained for real" in out
    fact = json.loads((tmp_path / "demo" / "fact.json").read_text())
    table = pq.read_table(tmp_path / "demo" / "forecast.parquet")
    real = np.array([chosen for _, chosen, _ in fact["pairs"]])
    said = table["forecast_chosen"].to_numpy()
    assert spearmanr(said, real).statistic > 0.85
    assert abs(summary["end"]["displaced"]["value"] - (real < 0).mean()) < 0.15
    assert (real < 0).mean() > 0.2, "something happens"
    assert "Forecast and fact" in (tmp_path / "demo" / "report.html").read_text()

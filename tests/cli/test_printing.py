"""What an audit prints: the page's verdict first, and the columns that fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import run, some_rows, write_jsonl
from tiny import tiny_folder
from undertow.reporting.audit.page import verdict_of
from undertow.reporting.audit.reading import read_audit_run
from undertow.scoring.columns import shown_in
from undertow.wording.names import CASE_LABELS

LENGTH = ("--max-length", 400)


@pytest.mark.parametrize("level", ["text", "hidden", "unembedding"])
def test_the_terminal_begins_with_the_headline_of_the_page(capsys, tmp_path: Path, level: str) -> None:
    model, data = tiny_folder(tmp_path / "model"), write_jsonl(tmp_path / "prefs.jsonl", some_rows(12))
    out = tmp_path / "scores"
    code, printed, err = run(capsys, "audit", data, "--model", model, "--out", out, "--level", level, *LENGTH)
    assert code == 0, err
    found = verdict_of(read_audit_run(out))
    headline = found.before + found.number + found.after
    flat = " ".join(printed.split())
    assert flat.startswith(headline)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{found.number}</strong>{found.after}" in page
    summary = json.loads((out / "audit.json").read_text())
    first_cells = {line.partition("│")[0].strip() for line in printed.splitlines() if "│" in line}
    for name in shown_in("quantiles"):
        assert (name in first_cells) == (name in summary["quantiles"]), name
    for code_, count in summary.get("cases", {}).get("case", {}).items():
        assert f"{code_} {CASE_LABELS[int(code_)]}" in printed, (code_, count)
    assert all(len(line) <= 80 for line in printed.splitlines() if "│" in line)


def test_where_no_chosen_response_falls_no_pair_is_called_displacing(capsys, tmp_path: Path) -> None:
    """The demo once said `none will fall` above `most displacing`."""
    model, data = tiny_folder(tmp_path / "model"), write_jsonl(tmp_path / "prefs.jsonl", some_rows(12))
    printed = run(capsys, "audit", data, "--model", model, "--out", tmp_path / "scores", *LENGTH)[1]
    falls = json.loads((tmp_path / "scores" / "audit.json").read_text())["displaced"]["own"]
    assert ("most displacing, by dlogp_chosen" in printed) == bool(falls)
    assert ("closest to displacing, by dlogp_chosen" in printed) == (not falls)
    ranked = run(capsys, "audit", data, "--model", model, "--out", tmp_path / "text", "--level", "text", *LENGTH)[1]
    assert "most displacing, by edit_distance" in ranked

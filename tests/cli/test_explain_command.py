"""``undertow explain`` as users give it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import run
from run_folders import audited, made


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Data, model and an audit."""
    folder = tmp_path_factory.mktemp("explain")
    data, model = made(folder)
    return data, model, audited(data, model, folder / "scores")


def test_rows_of_a_run_have_a_page_each(capsys, scores: tuple[Path, Path, Path]) -> None:
    code, out, _ = run(capsys, "explain", scores[2], "--row", 2, "--row", 5, "--heat-map", "unembedding", "--json")
    assert code == 0
    assert "row 2: A step on this pair alone" in out
    found = json.loads(out.splitlines()[-1])["pairs"]
    assert [one["row"] for one in found] == [2, 5]
    for one in found:
        page = Path(one["page"])
        assert page == scores[2] / "explain" / f"row-{one['row']}.html"
        assert "Token by token" in page.read_text(encoding="utf-8")
        assert one["foretold"] is None
        assert one["cases"]["dpo"] == one["numbers"]["full_case"]


def test_a_pair_on_the_command_line_needs_no_data(capsys, scores: tuple[Path, Path, Path], tmp_path: Path) -> None:
    pair = ("--prompt", "q?", "--chosen", "yes", "--rejected", "no")
    code, _, _ = run(capsys, "explain", "--model", scores[1], *pair, "--out", tmp_path / "pair.html", "--quiet")
    assert code == 0
    assert "q?" in (tmp_path / "pair.html").read_text(encoding="utf-8")


def test_several_rows_in_one_name(capsys, scores: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, model, _ = scores
    more = ("--model", model, "--row", 0, "--row", 1, "--heat-map", "none", "--out", tmp_path / "why.html")
    assert run(capsys, "explain", data, *more)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["why-row-0.html", "why-row-1.html"]


def test_what_makes_no_sense_is_refused(capsys, scores: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, model, folder = scores
    taken = tmp_path / "taken.html"
    taken.mkdir()
    out = ("--out", tmp_path / "x.html")
    for arguments, said in (
        ((folder, "--row", 1, "--loss", "simpo"), "--loss"),
        ((folder, "--row", 1, "--model", model), "--model"),
        ((data, "--row", 1, "--model", model), "--out"),
        ((data, "--row", 1, *out), "--model"),
        ((data, "--model", model, *out), "Which pair"),
        ((data, "--row", 99, "--model", model, *out), "0 to 23"),
        ((data, "--row", 1, "--model", model, "--out", taken), "is a folder"),
        ((data, "--row", 1, "--model", model, "--out", data), "--out"),
        ((tmp_path / "nothing", "--row", 1, "--model", model, *out), "nothing"),
        (("--prompt", "a", "--model", model, *out), "--chosen"),
    ):
        code, _, err = run(capsys, "explain", *arguments)
        assert code == 2, (arguments, err)
        assert said in err, (arguments, err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.html"]

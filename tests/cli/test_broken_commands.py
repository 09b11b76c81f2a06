"""Broken data on the real command line: exit code 2 and the place, before any weights are loaded; or set aside."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import run, some_rows, write_jsonl
from tiny import tiny_folder

GOOD = [json.dumps(row).encode() + b"\n" for row in some_rows(4)]
TABLE = pa.BufferOutputStream()
pq.write_table(pa.Table.from_pylist(some_rows(4)), TABLE)
PARQUET = TABLE.getvalue().to_pybytes()
CUT = gzip.compress(b"".join(GOOD))[:-5]

# name, content, exit message
BROKEN: dict[str, tuple[str, bytes, list[str]]] = {
    "a line that is not JSON": ("a.jsonl", GOOD[0] + b"{oops\n" + GOOD[1], ["line 2 (row 1)", "not JSON"]),
    "a null": (
        "a.jsonl",
        GOOD[0] + b'{"prompt": "a", "chosen": null, "rejected": "b"}\n',
        ["line 2", "`chosen` is null"],
    ),
    "a lone surrogate": (
        "a.jsonl",
        b'{"prompt": "a", "chosen": "\\ud800", "rejected": "b"}\n' + GOOD[1],
        ["line 1 (row 0)", "surrogate"],
    ),
    "two formats": (
        "a.jsonl",
        GOOD[0] + b'{"prompt": "a", "responses": ["b", "c"], "scores": [1, 0]}\n',
        ["line 2", "`standard`", "`chosen` is missing"],
    ),
    "invalid UTF-8": ("a.jsonl", GOOD[0] + GOOD[1].replace(b"It", b"\xff"), ["line 2", "invalid UTF-8"]),
    "nested too deeply": ("a.jsonl", GOOD[0] + b"[" * 50_000 + b"\n", ["line 2", "nested too deeply"]),
    "control characters": ("a.jsonl", GOOD[0] + b'{"\\u001b[31mred": 1}\n', ["line 2", "`prompt` is missing"]),
    "UTF-16": ("a.jsonl", GOOD[0].decode().encode("utf-16"), ["UTF-16", "iconv"]),
    "truncated gzip": ("a.jsonl.gz", CUT, ["line 5", "gzip"]),
    "empty": ("a.jsonl", b"", ["no rows"]),
    "header alone": ("a.csv", b"prompt,chosen,rejected\n", ["no rows"]),
    "no Parquet": ("a.parquet", b"PAR1" + b"\0" * 40, ["Parquet"]),
    "truncated Parquet": ("a.parquet", PARQUET[:-40], ["cannot be read as Parquet", "cut off"]),
    "no Arrow": ("a.arrow", b"rubbish" * 9, ["Arrow"]),
    "a scalar": ("a.json", b"42", ["neither a list nor an object"]),
    "too many fields": ("a.csv", b"prompt,chosen,rejected\na,b,c\na,b,c,d\n", ["line 3", "4 fields, expected 3"]),
    "unknown ending": ("a.txt", GOOD[0], ["a.txt"]),
    "unknown columns": ("a.jsonl", b'{"x": 1}\n', ["--columns prompt="]),
    "nothing left": ("a.jsonl", b"[1]\n" * 12, ["12 rows cannot be used", "line 10", "2 more"]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def no_weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "set_aside" not in request.node.name:
        monkeypatch.setattr("undertow.auditing.audit.load_model", lambda *a, **k: pytest.fail("weights were loaded"))


@pytest.mark.parametrize(("name", "content", "words"), BROKEN.values(), ids=BROKEN)
def test_stop_ends_with_two_and_says_where(
    capsys, model: Path, tmp_path: Path, name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    code, stdout, stderr = run(
        capsys, "audit", tmp_path / name, "--model", model, "--out", out, "--max-length", 400, "--level", "hidden"
    )
    assert code == 2
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "\x1b[31m" not in stderr
    said = " ".join(stderr.split())  # the terminal wraps lines
    for word in [name, *words]:
        assert word in said, stderr
    assert not list(out.rglob("*.parquet"))


def test_a_missing_file_with_a_near_name(capsys, model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prefs.jsonl", some_rows(2))
    code, _, stderr = run(
        capsys, "audit", tmp_path / "pref.jsonl", "--model", model, "--out", tmp_path / "o", "--max-length", 400
    )
    assert code == 2
    assert "Did you mean" in " ".join(stderr.split())


def test_rows_set_aside_are_listed_with_their_place(capsys, model: Path, tmp_path: Path) -> None:
    broken = [b"{oops\n", b'{"prompt": "a", "chosen": "", "rejected": "b"}\n', GOOD[3].replace(b"It", b"\xff")]
    data = tmp_path / "a.jsonl"
    data.write_bytes(GOOD[0] + broken[0] + b"\n" + GOOD[1] + broken[1] + GOOD[2] + broken[2])
    out = tmp_path / "out"
    code, stdout, stderr = run(
        *(capsys, "audit", data, "--model", model, "--out", out, "--max-length", 400, "--level", "text"),
        *("--on-bad-row", "skip", "--json"),
    )
    assert code == 0, stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert (summary["data"]["pairs"], summary["data"]["skipped"]) == (3, 3)
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert [set(record) for record in skipped] == [{"row", "file", "line", "reason"}] * 3
    assert [(record["row"], record["line"], record["file"]) for record in skipped] == [
        (1, 2, str(data)),
        (3, 5, str(data)),
        (5, 7, str(data)),
    ]
    assert "not JSON" in skipped[0]["reason"]
    assert "`chosen` is empty" in skipped[1]["reason"]
    assert "invalid UTF-8" in skipped[2]["reason"]

"""Where rows come from: every kind of file and place gives the same rows, in order, as often as asked, streamed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from undertow.data.reading import open_pairs, read_pairs
from undertow.data.sources.csvfiles import read_header
from undertow.data.sources.opening import from_rows, open_source
from undertow.errors import DataError, OptionError

Rows = list[dict[str, Any]]

ROWS: Rows = [
    {"prompt": "What is snow?", "chosen": "Frozen water.\nIn crystals.", "rejected": 'A "colour", I say.'},
    {"prompt": "Où est le café ?", "chosen": "Là-bas 🙂", "rejected": "Là"},
    {"prompt": "One, two?", "chosen": "Three,\n\nfour", "rejected": "five"},
]


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def json_list(rows: Rows) -> bytes:
    return json.dumps(rows, indent=1).encode()


def csv_text(rows: Rows) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def arrow(rows: Rows, new: Callable[..., Any]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


def arrow_file(rows: Rows) -> bytes:
    return arrow(rows, pa.ipc.new_file)


def arrow_stream(rows: Rows) -> bytes:
    return arrow(rows, pa.ipc.new_stream)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


FILES: dict[str, bytes] = {
    "a.jsonl": jsonl(ROWS),
    "a.ndjson": jsonl(ROWS),
    "a.json": json_list(ROWS),
    "lines.json": jsonl(ROWS),
    "a.csv": csv_text(ROWS),
    "a.parquet": parquet(ROWS),
    "a.arrow": arrow_file(ROWS),
    "stream.arrow": arrow_stream(ROWS),
    **{f"a.{kind}.gz": gzip.compress(make(ROWS)) for kind, make in (("jsonl", jsonl), ("csv", csv_text))},
    "a.json.gz": gzip.compress(json_list(ROWS)),
    "lines.json.gz": gzip.compress(jsonl(ROWS)),
    **{f"a.{kind}.zst": zst(make(ROWS)) for kind, make in (("jsonl", jsonl), ("csv", csv_text), ("json", json_list))},
    "members.jsonl.gz": b"".join(gzip.compress(jsonl([row])) for row in ROWS),
    "frames.jsonl.zst": b"".join(zst(jsonl([row])) for row in ROWS),
    "bom.jsonl": b"\xef\xbb\xbf" + jsonl(ROWS),
    "bom.json": b"\xef\xbb\xbf" + json_list(ROWS),
    "bom.csv": b"\xef\xbb\xbf" + csv_text(ROWS),
    "bom.jsonl.gz": gzip.compress(b"\xef\xbb\xbf" + jsonl(ROWS)),
}


def values(data: str | Path, **options: Any) -> Rows:
    return [dict(raw.value or {}) for raw in open_source(data, **options).rows()]


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    source = open_source(path)
    found = list(source.rows())
    assert [raw.value for raw in found] == ROWS
    assert [raw.row for raw in found] == [0, 1, 2]
    assert {raw.file for raw in found} == {str(path)}
    assert list(source.rows()) == found, "a second reading gives the same"
    is_lines = name.startswith("lines") or ".ndjson" in name  # JSON lines are JSON lines under any name
    assert source.kind == ("jsonl" if is_lines else name.split(".")[1])


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.jsonl", [1, 2, 3]),
        ("bom.jsonl", [1, 2, 3]),
        ("a.json", [2, 7, 12]),  # where each object opens
        ("a.csv", [2, 4, 5]),  # the header is line 1, the first row has a line break
        ("a.parquet", [1, 2, 3]),
        ("stream.arrow", [1, 2, 3]),
    ],
)
def test_lines_are_those_an_editor_shows(tmp_path: Path, name: str, lines: list[int]) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert [raw.line for raw in open_source(tmp_path / name).rows()] == lines


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "lines.json"])
def test_raw_is_each_line_to_the_byte(tmp_path: Path, name: str) -> None:
    content = jsonl(ROWS[:2]) + b' {"prompt" : "p\\u00e9",\t"n": 1.50 }\r\n\n' + jsonl(ROWS[2:]).rstrip(b"\n")
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zst}
    (tmp_path / name).write_bytes(packers.get(Path(name).suffix, bytes)(content))
    raw = [row.raw for row in open_source(tmp_path / name).rows()]
    assert raw == [line for line in content.splitlines(keepends=True) if line.strip()]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_raw_is_each_csv_record_to_the_byte(tmp_path: Path, packing: str, mark: bytes) -> None:
    """Quotes, line breaks inside and line ends as they stand; a record that cannot be parsed has none."""
    header, one, broken, two, three = (
        *(b'"a",b \r\n', b'1,"x\ny""z"\r\n', b'"open" quote,y\n', b"\xc3\xa9, 3\n", b'4,""'),
    )
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zst}
    path = tmp_path / f"a.csv{packing}"
    path.write_bytes(packers.get(packing, bytes)(mark + header + one + broken + b"\n" + two + three))
    rows = list(open_source(path).rows())
    assert [row.raw for row in rows] == [one, None, two, three]
    assert [bool(row.error) for row in rows] == [False, True, False, False]
    assert read_header(path, "a.csv") == (["a", "b "], mark + header)


def test_raw_is_none_where_rows_are_no_lines(tmp_path: Path) -> None:
    for name in ("a.json", "a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(FILES[name])
        assert {raw.raw for raw in open_source(tmp_path / name).rows()} == {None}


def test_a_folder_is_its_files_in_order_and_nothing_else(tmp_path: Path) -> None:
    for name, rows in (("b.csv", ROWS[1:2]), ("c.parquet", ROWS[2:]), ("a.jsonl", ROWS[:1])):
        (tmp_path / name).write_bytes({"b.csv": csv_text, "c.parquet": parquet, "a.jsonl": jsonl}[name](rows))
    (tmp_path / ".hidden.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "README.md").write_text("# Our data\n")
    (tmp_path / "notes.txt").write_text("not data")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.jsonl").write_bytes(jsonl(ROWS))
    found = list(open_source(tmp_path).rows())
    assert [raw.value for raw in found] == ROWS
    assert [raw.row for raw in found] == [0, 1, 2], "row numbers run on"
    assert [raw.line for raw in found] == [1, 2, 1], "lines are each file's own"
    assert [Path(raw.file).name for raw in found] == ["a.jsonl", "b.csv", "c.parquet"]


def test_rows_in_memory() -> None:
    kept = [dict(row) for row in ROWS]
    for data in (kept, datasets.Dataset.from_list(ROWS)):
        source = from_rows(data)
        assert [raw.value for raw in source.rows()] == ROWS
        assert list(source.rows()) == list(source.rows())
        assert [pair.row for pair in read_pairs(data)] == [0, 1, 2]
    assert kept == ROWS, "the caller's rows are not touched"


def test_standard_input_is_read_as_often_as_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(jsonl(ROWS))))
    pairs = read_pairs("-")
    assert [pair.chosen for pair in pairs] == [row["chosen"] for row in ROWS]
    assert list(pairs) == list(pairs)
    first = next(iter(pairs))
    assert "standard input" in first.file
    assert first.line == 1


def test_standard_input_of_a_process_of_its_own() -> None:
    code = (
        "import sys; from undertow.data.sources.opening import open_source\n"
        "source = open_source('-')\n"
        "for _ in range(2): sys.stdout.buffer.write(b''.join(raw.raw for raw in source.rows()))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=jsonl(ROWS), capture_output=True, check=False)
    assert done.stdout == 2 * jsonl(ROWS), done.stderr.decode()


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    assert values(tmp_path / "one") == ROWS
    source = open_source(tmp_path / "one")
    assert source.kind == "datasets"
    assert list(source.rows()) == list(source.rows())
    with pytest.raises(DataError, match="leave --split away"):
        open_source(tmp_path / "one", split="train")


def test_splits_of_a_saved_folder(tmp_path: Path) -> None:
    splits = {"train": datasets.Dataset.from_list(ROWS[:2]), "test": datasets.Dataset.from_list(ROWS[2:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "two"))
    assert values(tmp_path / "two", split="test") == ROWS[2:]
    assert values(tmp_path / "two", split="train") == ROWS[:2]
    with pytest.raises(DataError, match=r"train, test.*--split"):
        open_source(tmp_path / "two")
    with pytest.raises(DataError, match=r"no split valid.*train, test"):
        open_source(tmp_path / "two", split="valid")
    datasets.DatasetDict({"only": splits["test"]}).save_to_disk(str(tmp_path / "single"))
    assert values(tmp_path / "single") == ROWS[2:]


CARD = """---
license: mit
configs:
- config_name: easy
  data_files:
  - split: train
    path: easy/train.jsonl
  - split: test
    path: easy/test.jsonl
- config_name: hard
  data_files: hard.jsonl
---
# A data set
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder as it lies on the Hub: a card that names configurations, and data files."""
    folder = tmp_path / "repository"
    (folder / "easy").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "easy" / "train.jsonl").write_bytes(jsonl(ROWS[:1]))
    (folder / "easy" / "test.jsonl").write_bytes(jsonl(ROWS[1:2]))
    (folder / "hard.jsonl").write_bytes(jsonl(ROWS[2:]))
    return folder


def test_a_repository_folder_has_configurations_and_splits(repository: Path) -> None:
    assert values(repository, name="easy", split="train") == ROWS[:1]
    assert values(repository, name="easy", split="test") == ROWS[1:2]
    assert values(repository, name="hard") == ROWS[2:]
    with pytest.raises(DataError, match=r"train, test"):
        open_source(repository, name="easy")
    with pytest.raises(DataError, match=r"easy[\s\S]*hard"):
        open_source(repository)


def test_a_hub_id_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(DataError, match=r"nobody-here/no-such-data") as caught:
        open_source("nobody-here/no-such-data")
    assert caught.value.exit_code == 2


def test_one_file_has_no_splits_to_choose_from(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    for option in ({"split": "train"}, {"name": "easy"}):
        with pytest.raises(OptionError, match=f"--{next(iter(option))}.*leave"):
            open_source(tmp_path / "a.jsonl", **option)


def test_limit_is_a_number_of_input_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"not json\n" + jsonl(ROWS))
    entries = list(open_pairs(tmp_path / "a.jsonl", on_bad_row="skip", limit=2).entries())
    assert [entry.row for entry in entries] == [0, 1]


def many(path: Path, count: int) -> Path:
    rows = [
        {"prompt": f"Question {n}?", "chosen": f"Yes, {n}. " * 6, "rejected": f"No,\n{n}. " * 6} for n in range(count)
    ]
    make = {".jsonl": jsonl, ".csv": csv_text, ".json": json_list, ".parquet": parquet, ".arrow": arrow_stream}
    path.write_bytes(make[path.suffix](rows))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".json"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, ending: str) -> None:
    peaks = []
    for count in (2_000, 20_000):
        pairs = open_pairs(many(tmp_path / f"{count}{ending}", count))
        assert pairs.format == "standard"
        tracemalloc.start()
        assert sum(1 for _ in pairs) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    small, large = peaks
    assert large < 1.3 * small + 50_000, f"{small:,} bytes for 2,000 rows, {large:,} for 20,000"

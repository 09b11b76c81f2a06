"""``undertow filter``: rows as they were, every selector's effect, and refusals."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import undertow as ut
from command import run, some_rows, write_jsonl
from tiny import tiny_folder
from undertow.filtering.selection import LINKS

BAD = {"prompt": "a", "chosen": "same", "rejected": "same"}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set with two bad rows in it, and its scores."""
    folder = tmp_path_factory.mktemp("filter")
    model = tiny_folder(folder / "model")
    rows = some_rows(20)
    data = write_jsonl(folder / "prefs.jsonl", [*rows[:5], BAD, *rows[5:], BAD])
    from undertow.auditing.audit import audit_to_folder
    from undertow.auditing.settings import AuditSettings
    from undertow.data.tokens.encoder import TokenSettings
    from undertow.runs.settings import DataSettings

    settings = AuditSettings(tokens=TokenSettings(max_length=400), data=DataSettings(on_bad_row="skip"))
    audit_to_folder(data, str(model), folder / "scores", settings)
    return data, folder / "scores"


def scores_of(folder: Path, by: str = "ln_ches") -> dict[int, float]:
    table = ut.read_scores(folder)
    return dict(zip(table["row"].to_pylist(), table[by].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("options", "stays"),
    [
        (["--by", "ln_ches", "--drop-highest", "25%"], lambda rank, n, value: rank < n - 5),
        (["--by", "ln_ches", "--drop-highest", "3"], lambda rank, n, value: rank < n - 3),
        (["--by", "ln_ches", "--drop-lowest", "25%"], lambda rank, n, value: rank >= 5),
        (["--by", "ln_ches", "--keep-highest", "10%"], lambda rank, n, value: rank >= n - 2),
        (["--by", "ln_ches", "--keep-lowest", "4"], lambda rank, n, value: rank < 4),
        (["--by", "ln_ches", "--drop-above", "0"], lambda rank, n, value: value <= 0),
        (["--by", "ln_ches", "--drop-below", "-0.5"], lambda rank, n, value: value >= -0.5),
        (["--by", "ln_ches", "--drop-highest", "2", "--drop-lowest", "2"], lambda rank, n, value: 2 <= rank < n - 2),
        (["--by", "edit_distance", "--drop-lowest", "5"], lambda rank, n, value: rank >= 5),
    ],
)
def test_selectors_keep_the_right_lines_to_the_byte(capsys, audited, tmp_path: Path, options, stays) -> None:
    data, folder = audited
    code, out, err = run(
        capsys, "filter", data, "--scores", folder, *options, "--out", tmp_path / "kept.jsonl", "--json"
    )
    assert code == 0, err
    by = options[1]
    ranked = sorted(scores_of(folder, by).items(), key=lambda item: (item[1], item[0]))
    expected = sorted(row for rank, (row, value) in enumerate(ranked) if stays(rank, len(ranked), value))
    lines = data.read_bytes().splitlines(keepends=True)
    assert (tmp_path / "kept.jsonl").read_bytes() == b"".join(lines[row] for row in expected)
    summary = json.loads(out.splitlines()[-1])
    assert (summary["kept"], summary["dropped"], summary["unscored"]) == (len(expected), 22 - len(expected), 2)
    table = ut.read_scores(folder).to_pylist()
    tokens = {r["row"]: r["prompt_tokens"] + r["chosen_tokens"] + r["rejected_tokens"] for r in table}
    assert summary["kept_tokens"] == sum(tokens[row] for row in expected)
    assert summary["kept_tokens"] + summary["dropped_tokens"] == sum(tokens.values())


def test_decisions_say_why(capsys, audited, tmp_path: Path) -> None:
    data, folder = audited
    base = [
        "filter",
        data,
        "--scores",
        folder,
        "--by",
        "ln_ches",
        "--drop-highest",
        "3",
        "--out",
        tmp_path / "kept.jsonl",
    ]
    assert run(capsys, *base, "--decisions", tmp_path / "why.csv")[0] == 0
    assert run(capsys, *base, "--decisions", tmp_path / "why.jsonl")[0] == 0
    with (tmp_path / "why.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(22))
    dropped = [row for row in rows if row["kept"] == "False"]
    assert sum("drop-highest 3 by ln_ches" in row["reason"] for row in dropped) == 3
    assert sum("identical" in row["reason"] for row in dropped) == 2
    assert all(not row["reason"] for row in rows if row["kept"] == "True")
    assert len((tmp_path / "why.jsonl").read_text().splitlines()) == 22


def test_parquet_stays_parquet_with_its_schema(capsys, audited, tmp_path: Path) -> None:
    data, folder = audited
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    schema = pa.schema(
        [
            ("prompt", pa.large_string()),
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("source", pa.dictionary(pa.int8(), pa.string())),
        ],
        metadata={"made": "by hand"},
    )
    whole = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(whole, tmp_path / "prefs.parquet")
    code, _, err = run(
        capsys,
        "filter",
        tmp_path / "prefs.parquet",
        "--scores",
        folder,
        "--by",
        "ln_ches",
        "--drop-highest",
        "3",
        "--out",
        tmp_path / "k.parquet",
    )
    assert code == 0, err
    kept = pq.read_table(tmp_path / "k.parquet")
    assert kept.schema.equals(pq.read_table(tmp_path / "prefs.parquet").schema, check_metadata=True)
    highest = sorted(scores_of(folder).items(), key=lambda item: (item[1], item[0]))[-3:]
    gone = {row for row, _ in highest} | {5, 21}
    assert kept.to_pylist() == [row for index, row in enumerate(whole.to_pylist()) if index not in gone]


def test_other_kinds(capsys, audited, tmp_path: Path) -> None:
    data, folder = audited
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    (tmp_path / "prefs.json").write_text(json.dumps(rows))
    with (tmp_path / "prefs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "chosen", "rejected", "source"])
        writer.writeheader()
        writer.writerows(rows)
    base = ["--scores", folder, "--by", "ln_ches", "--drop-highest", "3", "--out"]
    assert run(capsys, "filter", data, *base, tmp_path / "a.jsonl.gz")[0] == 0
    assert run(capsys, "filter", tmp_path / "prefs.json", *base, tmp_path / "b.json")[0] == 0
    assert run(capsys, "filter", tmp_path / "prefs.csv", *base, tmp_path / "c.csv")[0] == 0
    expected = [json.loads(line) for line in gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).splitlines()]
    assert len(expected) == 17
    assert json.loads((tmp_path / "b.json").read_text()) == expected
    with (tmp_path / "c.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == expected


def test_python_keeps_the_same_pairs(audited) -> None:
    data, folder = audited
    pairs = ut.read_pairs(data, on_bad_row="skip")
    kept = ut.filter_pairs(pairs, ut.read_scores(folder), by="ln_ches", drop_highest=0.10)
    highest = sorted(scores_of(folder).items(), key=lambda item: (item[1], item[0]))[-2:]
    assert [pair.row for pair in kept] == [row for row in scores_of(folder) if row not in dict(highest)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Nothing to filter by"),
        (["--drop-highest", "lots"], "--drop-highest lots"),
        (["--by", "ln_ches", "--drop-highest", "110%"], "--drop-highest 110%: expected a share from 0.0 to 1.0"),
        (["--drop-highest", "10%"], "--drop-highest 10%: say by which score. --by dlogp_chosen is the best"),
        (["--by", "truncated", "--drop-highest", "1"], "no such numeric column. They have row, prompt_tokens"),
        (["--by", "pair_id", "--drop-highest", "1"], "--by pair_id: the scores have no such numeric column"),
        (["--drop-above", "x"], "--drop-above x"),
        (["--by", "nonsense", "--drop-highest", "1"], "--by nonsense"),
        (["--drop-case", "7"], "--drop-case"),
    ],
)
def test_wrong_options(capsys, audited, tmp_path: Path, options, message) -> None:
    data, folder = audited
    code, _, err = run(capsys, "filter", data, "--scores", folder, *options, "--out", tmp_path / "o.jsonl")
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "o.jsonl").exists()


def test_drop_case_leaves_out_the_pairs_of_that_case(capsys, audited, tmp_path: Path) -> None:
    data, folder = audited
    cases = scores_of(folder, "case")
    lines = data.read_bytes().splitlines(keepends=True)
    assert set(cases.values()) <= {1, 2, 3}
    for case in (1, 2):
        out = tmp_path / f"{case}.jsonl"
        assert run(capsys, "filter", data, "--scores", folder, "--drop-case", case, "--out", out)[0] == 0
        assert out.read_bytes() == b"".join(lines[row] for row, found in cases.items() if found != case)


def test_drop_case_needs_the_cases(audited) -> None:
    data, folder = audited
    table = ut.read_scores(folder).drop_columns(["case"])
    with pytest.raises(ut.OptionError, match="level unembedding"):
        ut.filter_pairs(ut.read_pairs(data, on_bad_row="skip"), table, drop_case=2)


def test_scores_of_other_data_and_bad_targets_are_refused(capsys, audited, tmp_path: Path) -> None:
    data, folder = audited
    other = write_jsonl(tmp_path / "other.jsonl", some_rows(22)[::-1])
    base = ["--scores", folder, "--by", "ln_ches", "--drop-highest", "1", "--out"]
    code, _, err = run(capsys, "filter", other, *base, tmp_path / "o.jsonl")
    assert (code, "other data" in err) == (2, True), err
    before = data.read_bytes()
    code, _, err = run(capsys, "filter", data, *base, data)
    assert (code, "the input itself" in err) == (2, True), err
    assert data.read_bytes() == before
    code, _, err = run(capsys, "filter", data, *base, tmp_path / "o.parquet")
    assert (code, "cannot be written as parquet" in err) == (2, True), err
    code, _, err = run(
        capsys, "filter", data, "--scores", tmp_path, "--drop-highest", "1", "--out", tmp_path / "o.jsonl"
    )
    assert code == 2
    assert not list(tmp_path.glob("o.*"))


def test_unpaired_rows_stay_when_their_pair_stays(capsys, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", "completion": f"{'good' if label else 'bad'} answer {n}" * (n + 1), "label": label}
        for n in range(4)
        for label in (True, False)
    ]
    data = write_jsonl(tmp_path / "unpaired.jsonl", rows)
    model = tiny_folder(tmp_path / "model")
    assert run(capsys, "audit", data, "--model", model, "--max-length", 400, "--out", tmp_path / "s")[0] == 0
    code, _, err = run(
        capsys, "filter", data, "--scores", tmp_path / "s", "--by", "ln_ches", "--drop-highest", "1", "--out",
        tmp_path / "k.jsonl",
    )  # fmt: skip
    assert code == 0, err
    worst = max(scores_of(tmp_path / "s").items(), key=lambda item: item[1])[0]
    lines = data.read_bytes().splitlines(keepends=True)
    assert (tmp_path / "k.jsonl").read_bytes() == b"".join(
        line for n, line in enumerate(lines) if n not in (worst, worst - 1)
    )


# Rows as they were, whatever the kind of file.


def scored(folder: Path, data: Path, *, columns: dict[str, list] | None = None, **settings: object) -> Path:
    """Scores of a data set, by a level that runs no model; with other columns where they are given."""
    from undertow.auditing.audit import audit_to_folder
    from undertow.auditing.settings import AuditSettings
    from undertow.data.tokens.encoder import TokenSettings
    from undertow.runs.settings import DataSettings

    model = folder / "model"
    if not model.exists():
        tiny_folder(model)
    audit_to_folder(
        data,
        str(model),
        folder / "scores",
        AuditSettings(
            level="text", tokens=TokenSettings(max_length=400), data=DataSettings(on_bad_row="skip", **settings)
        ),
    )
    if columns:
        path = folder / "scores" / "scores" / "part-00000.parquet"
        table = pq.read_table(path)
        for name, values in columns.items():
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, pa.array(values, pa.int64() if name in LINKS.values() else None))
        pq.write_table(table, path)
    return folder / "scores"


def filtered(capsys, data: Path, scores: Path, out: Path, *options: object) -> Path:
    code, _, err = run(capsys, "filter", data, "--scores", scores, *options, "--out", out)
    assert code == 0, err
    return out


EVERYTHING = ("--by", "edit_distance", "--drop-above", "2")

UNPAIRED = (
    b'\xef\xbb\xbf"prompt",completion,label\r\n'
    b'p1,"A good, long answer",1\r\n'
    b"p1,'bad' answer,0\r\n"
    b'"p2","line one\nline ""two""", True \r\n'
    b"p2,n\xc3\xb6,false\n"
    b"p3,yes,TRUE\r\n"
    b'p3,"no",FALSE'
)


@pytest.mark.parametrize("ending", [".csv", ".CSV", ".csv.gz", ".Csv.Zst"])
def test_csv_rows_come_out_to_the_byte(capsys, tmp_path: Path, ending: str) -> None:
    """`1` stays `1`, quotes stay where they were, and so do line ends and the mark at the beginning of the file."""
    data = tmp_path / "in.csv"
    data.write_bytes(UNPAIRED)
    scores = scored(tmp_path, data)

    def unpacked(path: Path) -> bytes:
        content, packing = path.read_bytes(), path.suffix.lower()
        if packing == ".zst":
            return zstandard.ZstdDecompressor().decompressobj().decompress(content)
        return gzip.decompress(content) if packing == ".gz" else content

    assert unpacked(filtered(capsys, data, scores, tmp_path / f"all{ending}", *EVERYTHING)) == UNPAIRED
    nearest = min(scores_of(scores, "edit_distance").items(), key=lambda item: item[1])[0]
    out = unpacked(
        filtered(capsys, data, scores, tmp_path / f"some{ending}", "--by", "edit_distance", "--drop-lowest", "1")
    )
    header, *pairs = (
        b'\xef\xbb\xbf"prompt",completion,label\r\n',
        b"p1,\"A good, long answer\",1\r\np1,'bad' answer,0\r\n",
        b'"p2","line one\nline ""two""", True \r\np2,n\xc3\xb6,false\n',
        b'p3,yes,TRUE\r\np3,"no",FALSE',
    )
    assert out == header + b"".join(pair for n, pair in enumerate(pairs) if n != nearest // 2)


def test_a_folder_of_csv_files_needs_one_header(capsys, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b'prompt,chosen,rejected\r\np,"yes",no')
    (folder / "b.csv").write_bytes(b'"prompt",chosen,rejected\nq,yes,"no"\n')
    scores = scored(tmp_path, folder)
    out = filtered(capsys, folder, scores, tmp_path / "out.csv", *EVERYTHING)
    assert out.read_bytes() == b'prompt,chosen,rejected\r\np,"yes",no\r\nq,yes,"no"\n'
    (folder / "b.csv").write_bytes(b'chosen,prompt,rejected\nyes,q,"no"\n')
    code, _, err = run(
        capsys, "filter", folder, "--scores", scores, *EVERYTHING, "--out", tmp_path / "mixed.csv"
    )  # fmt: skip
    assert (code, "one CSV file cannot hold both as they are" in err, ".jsonl" in err) == (2, True, True), err
    assert not (tmp_path / "mixed.csv").exists()


@pytest.mark.parametrize("name", ["PREFS.PARQUET", "Prefs.Arrow", "PREFS.JSONL", "PREFS.JSON", "PREFS.JSONL.GZ"])
def test_capitals_in_an_ending_change_nothing(capsys, tmp_path: Path, name: str) -> None:
    rows = some_rows(6)
    data = tmp_path / name
    write = {
        ".parquet": lambda: pq.write_table(pa.Table.from_pylist(rows), data),
        ".arrow": lambda: data.write_bytes(arrow_bytes(pa.Table.from_pylist(rows))),
        ".jsonl": lambda: write_jsonl(data, rows),
        ".json": lambda: data.write_text(json.dumps(rows)),
        ".gz": lambda: data.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows))),
    }
    write[data.suffix.lower()]()
    out = filtered(capsys, data, scored(tmp_path, data), tmp_path / f"OUT-{name}", *EVERYTHING)
    assert [pair.chosen for pair in ut.read_pairs(out)] == [row["chosen"] for row in rows]
    if name.endswith(".GZ"):
        assert gzip.decompress(out.read_bytes()) == gzip.decompress(data.read_bytes())


def arrow_bytes(table: pa.Table, *, stream: bool = False) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_files_of_a_folder_may_differ_in_their_columns(capsys, tmp_path: Path) -> None:
    """Types are widened where that loses nothing, and a column that a file lacks is empty there."""
    folder, rows = tmp_path / "data", some_rows(6)
    folder.mkdir()
    one = pa.Table.from_pylist([{**row, "score": n} for n, row in enumerate(rows[:3])])
    one = one.set_column(4, "score", one["score"].cast(pa.int32())).replace_schema_metadata({"made": "by hand"})
    two = pa.Table.from_pylist([{"new": "x", **row, "score": 1 << 40} for row in rows[3:]])
    two = two.set_column(1, "prompt", two["prompt"].cast(pa.large_string())).drop_columns(["source"])
    pq.write_table(one, folder / "a.parquet")
    pq.write_table(two, folder / "b.parquet")
    out = filtered(capsys, folder, scored(tmp_path, folder), tmp_path / "out.parquet", *EVERYTHING)
    found = pq.ParquetFile(out).read()
    assert found.schema.metadata[b"made"] == b"by hand"
    assert found.schema.field("score").type == pa.int64()
    expected = [{**row, "new": None} for row in one.to_pylist()] + [{**row, "source": None} for row in two.to_pylist()]
    assert found.to_pylist() == [{name: row[name] for name in found.column_names} for row in expected]


def test_columns_that_do_not_fit_together_are_refused_with_the_way_out(capsys, tmp_path: Path) -> None:
    folder, rows = tmp_path / "data", some_rows(4)
    folder.mkdir()
    for name, values in (("a", [1, 2]), ("b", [0.5, 1.5])):
        half = rows[:2] if name == "a" else rows[2:]
        table = pa.Table.from_pylist(half).append_column("score", pa.array(values))
        pq.write_table(table, folder / f"{name}.parquet")
    scores = scored(tmp_path, folder)
    code, _, err = run(
        capsys, "filter", folder, "--scores", scores, *EVERYTHING, "--out", tmp_path / "out.parquet"
    )  # fmt: skip
    assert (code, "b.parquet" in err, "`score` is int64" in err, ".jsonl" in err) == (2, True, True, True), err
    assert not (tmp_path / "out.parquet").exists()
    out = filtered(capsys, folder, scores, tmp_path / "out.jsonl", *EVERYTHING)
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == [1, 2, 0.5, 1.5]


def test_row_groups_and_compression_stay(capsys, tmp_path: Path) -> None:
    rows = some_rows(5_000)
    data = tmp_path / "prefs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), data, row_group_size=3_000, compression="zstd")
    scores = scored(tmp_path, data)
    out = filtered(capsys, data, scores, tmp_path / "out.parquet", "--by", "row", "--drop-lowest", "10")
    found = pq.ParquetFile(out).metadata
    assert [found.row_group(n).num_rows for n in range(found.num_row_groups)] == [2_990, 2_000]
    assert found.row_group(0).column(0).compression == "ZSTD"
    assert pq.ParquetFile(out).read().to_pylist() == rows[10:]


def test_a_damaged_row_group_is_left_out_and_nothing_else(capsys, tmp_path: Path) -> None:
    rows, data = some_rows(12), tmp_path / "prefs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), data, row_group_size=4, compression="none", use_dictionary=False)
    column = pq.ParquetFile(data).metadata.row_group(1).column(1)
    content = bytearray(data.read_bytes())
    begin = column.data_page_offset
    content[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    data.write_bytes(content)
    scores = scored(tmp_path, data)
    assert ut.read_scores(scores)["row"].to_pylist() == [0, 1, 2, 3, 8, 9, 10, 11]
    out = filtered(capsys, data, scores, tmp_path / "out.parquet", "--by", "row", "--drop-highest", "1")
    assert pq.ParquetFile(out).read().to_pylist() == [*rows[:4], *rows[8:11]]


@pytest.mark.parametrize("stream", [False, True])
def test_an_arrow_stream_stays_one(capsys, tmp_path: Path, stream: bool) -> None:
    table = pa.Table.from_pylist(some_rows(6)).replace_schema_metadata({"made": "by hand"})
    data = tmp_path / "prefs.arrow"
    data.write_bytes(arrow_bytes(table, stream=stream))
    out = filtered(capsys, data, scored(tmp_path, data), tmp_path / "out.arrow", *EVERYTHING)
    assert (out.read_bytes()[:6] == b"ARROW1") is not stream
    found = (pa.ipc.open_stream if stream else pa.ipc.open_file)(out.read_bytes()).read_all()
    assert found.equals(table)
    assert found.schema.equals(table.schema, check_metadata=True)


def test_a_mixed_folder_becomes_json_lines_and_those_it_had_stay(capsys, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    line = b'{"prompt": "p\\u00e9",  "chosen":"yes", "rejected":"no", "n":1.50}\n'
    (folder / "a.jsonl").write_bytes(line)
    (folder / "b.csv").write_bytes(b"prompt,chosen,rejected\nq,good,bad\n")
    scores = scored(tmp_path, folder)
    out = filtered(capsys, folder, scores, tmp_path / "out.jsonl", *EVERYTHING)
    assert out.read_bytes() == line + b'{"prompt": "q", "chosen": "good", "rejected": "bad"}\n'
    code, _, err = run(
        capsys, "filter", folder, "--scores", scores, *EVERYTHING, "--out", tmp_path / "o.csv"
    )  # fmt: skip
    assert (code, "(jsonl) cannot be written as csv" in err) == (2, True), err


def test_half_a_surrogate_pair_stays_readable(capsys, tmp_path: Path) -> None:
    data = tmp_path / "in.json"
    data.write_text('[{"prompt": "p", "chosen": "yes", "rejected": "no", "id": "\\ud800 é"}]', encoding="utf-8")
    out = filtered(capsys, data, scored(tmp_path, data), tmp_path / "out.jsonl", *EVERYTHING)
    assert json.loads(out.read_bytes().decode("utf-8"))["id"] == "\ud800 é"


# Whose scores, and which column of them.


def test_scores_of_more_data_are_refused(capsys, audited, tmp_path: Path) -> None:
    data, folder = audited
    lines = data.read_bytes().splitlines(keepends=True)
    part = tmp_path / "part.jsonl"
    part.write_bytes(b"".join(lines[:10]))
    code, _, err = run(
        capsys, "filter", part, "--scores", folder, "--by", "ln_ches", "--drop-highest", "10%",
        "--out", tmp_path / "kept.jsonl", "--decisions", tmp_path / "why.csv",
    )  # fmt: skip
    assert (code, "11 of the 20 pairs that were scored are not in" in err) == (2, True), err
    assert "Audit this data by itself, or filter the whole data" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.jsonl"]
    with pytest.raises(ut.DataError, match="11 of the 20 pairs"):
        ut.filter_pairs(
            ut.read_pairs(part, on_bad_row="skip"), ut.read_scores(folder), by="ln_ches", drop_highest=0.1
        )  # fmt: skip


def test_a_score_has_to_be_named_where_one_is_looked_at(audited) -> None:
    data, folder = audited
    pairs, table = ut.read_pairs(data, on_bad_row="skip"), ut.read_scores(folder)
    with pytest.raises(ut.OptionError, match="--drop-highest 10%: say by which score"):
        ut.filter_pairs(pairs, table, drop_highest=0.1)
    cases = dict(zip(table["row"].to_pylist(), table["case"].to_pylist(), strict=True))
    kept = ut.filter_pairs(pairs, table, drop_case=2)
    assert [pair.row for pair in kept] == [row for row, case in cases.items() if case != 2]


def test_duplicates_and_contradictions_go(capsys, tmp_path: Path) -> None:
    rows = some_rows(6)
    data = write_jsonl(tmp_path / "prefs.jsonl", rows)
    links = {"duplicate_of": [None, None, 0, None, 0, None], "contradicts": [3, None, None, 0, None, None]}
    scores = scored(tmp_path, data, columns=links)
    lines = data.read_bytes().splitlines(keepends=True)

    def kept(*options: object) -> list[int]:
        out = filtered(capsys, data, scores, tmp_path / "out.jsonl", *options, "--decisions", tmp_path / "why.jsonl")
        found = out.read_bytes().splitlines(keepends=True)
        return [n for n, line in enumerate(lines) if line in found]

    assert kept("--drop-duplicates") == [0, 1, 3, 5]
    why = [json.loads(line) for line in (tmp_path / "why.jsonl").read_text().splitlines()]
    assert [one["reason"] for one in why] == ["", "", "drop-duplicates", "", "drop-duplicates", ""]
    assert {one["score"] for one in why} == {None}
    assert kept("--drop-contradictions") == [1, 2, 4, 5]
    assert kept("--drop-duplicates", "--drop-contradictions", "--by", "row", "--drop-highest", "1") == [1]
    why = [json.loads(line)["reason"] for line in (tmp_path / "why.jsonl").read_text().splitlines()]
    assert why[5] == "drop-highest 1 by row"
    pairs, table = ut.read_pairs(data), ut.read_scores(scores)
    assert [pair.row for pair in ut.filter_pairs(pairs, table, drop_duplicates=True)] == [0, 1, 3, 5]
    assert [pair.row for pair in ut.filter_pairs(pairs, table, drop_contradictions=True)] == [1, 2, 4, 5]
    with pytest.raises(ut.OptionError, match="Nothing to filter by"):
        ut.filter_pairs(pairs, table, drop_duplicates=False)
    code, out, err = run(
        capsys, "filter", data, "--scores", scores, "--drop-duplicates", "--out", tmp_path / "o.jsonl"
    )  # fmt: skip
    assert (code, "drop-duplicates: 2 pairs" in out) == (0, True), err


def test_scores_that_know_of_no_duplicates_say_so(capsys, audited, tmp_path: Path) -> None:
    data, folder = audited
    table = ut.read_scores(folder)
    table = table.drop_columns([name for name in LINKS.values() if name in table.column_names])
    for option, column in (("drop_duplicates", "duplicate_of"), ("drop_contradictions", "contradicts")):
        with pytest.raises(ut.OptionError, match=f"no column `{column}`.*Audit the data again"):
            ut.filter_pairs(ut.read_pairs(data, on_bad_row="skip"), table, **{option: True})


def test_a_column_with_gaps_is_a_score_with_gaps(capsys, tmp_path: Path) -> None:
    """Null, as in an int64 column that not every pair has, is neither high nor low, as NaN is."""
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(5))
    scores = scored(tmp_path, data, columns={"duplicate_of": [4, None, 2, None, 1]})
    base = ("--by", "duplicate_of")
    out = filtered(capsys, data, scores, tmp_path / "a.jsonl", *base, "--drop-highest", "1")
    assert [pair.chosen for pair in ut.read_pairs(out)] == [row["chosen"] for row in some_rows(5)[1:]]
    out = filtered(capsys, data, scores, tmp_path / "b.jsonl", *base, "--keep-lowest", "2")
    assert [pair.chosen for pair in ut.read_pairs(out)] == [some_rows(5)[n]["chosen"] for n in (2, 4)]

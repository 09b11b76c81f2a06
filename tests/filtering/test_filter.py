"""``undertow filter``: rows as they were, every selector's effect, and refusals."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import undertow as ut
from command import run, some_rows, write_jsonl
from tiny import tiny_folder

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
        (["--drop-highest", "25%"], lambda rank, n, value: rank < n - 5),
        (["--drop-highest", "3"], lambda rank, n, value: rank < n - 3),
        (["--drop-lowest", "25%"], lambda rank, n, value: rank >= 5),
        (["--keep-highest", "10%"], lambda rank, n, value: rank >= n - 2),
        (["--keep-lowest", "4"], lambda rank, n, value: rank < 4),
        (["--drop-above", "0"], lambda rank, n, value: value <= 0),
        (["--drop-below", "-0.5"], lambda rank, n, value: value >= -0.5),
        (["--drop-highest", "2", "--drop-lowest", "2"], lambda rank, n, value: 2 <= rank < n - 2),
        (["--by", "edit_distance", "--drop-lowest", "5"], lambda rank, n, value: rank >= 5),
    ],
)
def test_selectors_keep_the_right_lines_to_the_byte(capsys, audited, tmp_path: Path, options, stays) -> None:
    data, folder = audited
    code, out, err = run(
        capsys, "filter", data, "--scores", folder, *options, "--out", tmp_path / "kept.jsonl", "--json"
    )
    assert code == 0, err
    by = options[1] if options[0] == "--by" else "ln_ches"
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
    base = ["filter", data, "--scores", folder, "--drop-highest", "3", "--out", tmp_path / "kept.jsonl"]
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
    base = ["--scores", folder, "--drop-highest", "3", "--out"]
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
        (["--drop-highest", "120%"], "drop-highest"),
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
    base = ["--scores", folder, "--drop-highest", "1", "--out"]
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
        capsys, "filter", data, "--scores", tmp_path / "s", "--drop-highest", "1", "--out", tmp_path / "k.jsonl"
    )
    assert code == 0, err
    worst = max(scores_of(tmp_path / "s").items(), key=lambda item: item[1])[0]
    lines = data.read_bytes().splitlines(keepends=True)
    assert (tmp_path / "k.jsonl").read_bytes() == b"".join(
        line for n, line in enumerate(lines) if n not in (worst, worst - 1)
    )

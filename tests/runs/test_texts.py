"""The texts kept beside the scores, and the columns of the data that pairs are grouped by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from command import run, some_rows, write_jsonl
from run_folders import TOKENS, compared
from tiny import tiny_folder
from undertow.auditing.audit import audit_to_folder
from undertow.auditing.settings import AuditSettings
from undertow.data.pairs import Message, Pair
from undertow.data.reading import open_pairs
from undertow.errors import OptionError
from undertow.runs.settings import DataSettings, Shard
from undertow.runs.texts import BY, PAIR_TEXTS, TextLog, keep_texts, read_beginnings, read_texts, text_schema
from undertow.scoring.shards import read_scores


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("texts") / "model")


def audited(source: Path, model: Path, out: Path, **options: Any) -> Path:
    given = {"level": "text", "tokens": TOKENS} | options
    audit_to_folder(source, str(model), out, AuditSettings(**given))
    return out


def texts(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.ParquetFile(folder / "texts.parquet").read().to_pylist()
    return rows


def test_texts_are_those_of_the_data_in_the_order_of_the_scores(tmp_path: Path, model: Path) -> None:
    rows = some_rows(9)
    found = texts(audited(write_jsonl(tmp_path / "d.jsonl", rows), model, tmp_path / "out", by=("source",)))
    scores = read_scores(tmp_path / "out", ["row", "pair_id"]).to_pylist()
    assert [{"row": one["row"], "pair_id": one["pair_id"]} for one in found] == scores
    for text, row in zip(found, rows, strict=True):
        assert {name: text[name] for name in ("prompt", "chosen", "rejected")} == {
            name: row[name] for name in ("prompt", "chosen", "rejected")
        }
        assert text["by:source"] == row["source"]


def test_a_conversation_is_kept_as_blocks_of_role_and_content() -> None:
    pair = Pair(0, (Message("system", "Be kind."), Message("user", "Hi")), "Hello", "No")
    assert pair.prompt_text == "system: Be kind.\n\nuser: Hi"


def test_values_of_any_type_become_text(tmp_path: Path) -> None:
    values = ["a", 3, 2.5, True, None, {"x": [1]}, "\ud800"]
    rows = [row | {"kind": value} for row, value in zip(some_rows(6), values, strict=False)] + some_rows(7)[6:]
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    found = [pair.by for pair in open_pairs(data, by=["kind", "source", "kind"])]
    assert [kind for kind, _ in found] == ["a", "3", "2.5", "true", "", '{"x": [1]}', ""]


def test_a_pair_of_two_rows_has_the_values_of_both_where_they_differ(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completion": "good", "label": True, "kind": "x", "site": "s"},
        {"prompt": "p", "completion": "bad", "label": False, "kind": "y", "site": "s"},
    ]
    (pair,) = open_pairs(write_jsonl(tmp_path / "d.jsonl", rows), by=["kind", "site"])
    assert pair.by == ("x / y", "s")


def test_a_column_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", some_rows(4))
    code, _, err = run(
        capsys, "audit", data, "--model", model, "--level", "text", "--by", "source", "--by", "colour", "--out",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert "--by colour" in err
    assert "prompt, chosen, rejected, source" in err
    assert not (tmp_path / "out").exists()
    with pytest.raises(OptionError, match="colour"):
        list(open_pairs(data, by=["colour"]).entries())


def test_a_column_may_be_missing_in_some_rows(tmp_path: Path) -> None:
    rows = some_rows(3)
    rows[2]["grade"] = "A"
    assert [pair.by for pair in open_pairs(write_jsonl(tmp_path / "d.jsonl", rows), by=["grade"])] == [
        ("",),
        ("",),
        ("A",),
    ]


def test_other_columns_need_no_new_scores(tmp_path: Path, model: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", some_rows(6))
    out = audited(data, model, tmp_path / "out")
    part = out / "scores" / "part-00000.parquet"
    before = part.stat().st_mtime_ns
    assert pq.read_schema(out / "texts.parquet") == text_schema()
    audited(data, model, out, by=("source",))
    assert part.stat().st_mtime_ns == before
    assert [one["by:source"] for one in texts(out)] == [row["source"] for row in some_rows(6)]


def test_texts_of_an_older_folder_are_added(tmp_path: Path, model: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", some_rows(6))
    out = audited(data, model, tmp_path / "out")
    kept = (out / "texts.parquet").read_bytes()
    (out / "texts.parquet").unlink()
    audited(data, model, out)
    assert (out / "texts.parquet").read_bytes() == kept


def test_what_is_the_same_is_not_written_again(tmp_path: Path) -> None:
    log = TextLog(tmp_path / "log.parquet")
    log.add(Pair(0, "p", "c", "r"))
    log.close()
    folder = tmp_path / "run"
    keep_texts(log.path, folder)
    before = (folder / "texts.parquet").stat().st_mtime_ns
    keep_texts(log.path, folder)
    assert (folder / "texts.parquet").stat().st_mtime_ns == before


def test_rows_set_aside_have_no_texts_and_shards_have_their_own(tmp_path: Path, model: Path) -> None:
    rows = some_rows(7)
    rows[3]["chosen"] = rows[3]["rejected"]
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    skipping = DataSettings(on_bad_row="skip")
    shards = [
        texts(audited(data, model, tmp_path / str(n), data=skipping, shard=Shard(n, 2))) for n in (1, 2)
    ]  # fmt: skip
    assert [[one["row"] for one in part] for part in shards] == [[0, 2, 4, 6], [1, 5]]


def test_long_texts_are_not_held_together(tmp_path: Path) -> None:
    log = TextLog(tmp_path / "log.parquet", ["kind"])
    for row in range(4):
        log.add(Pair(row, "p", "c" * 5_000_000, "r", by=("k",)))
    log.close()
    file = pq.ParquetFile(log.path)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [2, 2]
    assert file.schema_arrow.names[-1] == f"{BY}kind"


def test_overwriting_removes_them_and_settings_record_the_columns(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", some_rows(6))
    out = audited(data, model, tmp_path / "out", by=("source",))
    assert json.loads((out / "audit.json").read_text())["arguments"]["by"] == ["source"]
    other = write_jsonl(tmp_path / "other.jsonl", some_rows(4))
    code, _, _ = run(
        capsys, "audit", other, "--model", model, "--level", "text", "--max-length", "400", "--overwrite", "--out", out
    )
    assert code == 0
    assert len(texts(out)) == 4
    assert pq.read_schema(out / "texts.parquet") == text_schema()


def test_a_comparison_keeps_texts_too(tmp_path: Path, model: Path) -> None:
    rows = some_rows(4)
    out = compared(write_jsonl(tmp_path / "d.jsonl", rows), model, model, tmp_path / "out")
    assert [one["chosen"] for one in texts(out)] == [row["chosen"] for row in rows]


def test_some_rows_are_read_whole_or_from_their_beginning(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "without"]
    for first, folder in zip((0, 600), folders, strict=False):
        folder.mkdir()
        log = TextLog(folder / "texts.parquet", ["kind"])
        for row in range(first, first + 600):
            log.add(Pair(row, f"prompt {row}", f"chosen {row}", "é" * 50, by=("k",)))
        log.close()
    folders[-1].mkdir()
    rows = [1100, 3, 599, 600, 5000]
    found = read_beginnings(folders, rows, 8)
    assert sorted(found) == [3, 599, 600, 1100]
    assert list(found[3]) == list(PAIR_TEXTS)
    assert found[1100] == {"prompt": ("prompt 1", 11), "chosen": ("chosen 1", 11), "rejected": ("é" * 8, 50)}
    assert read_texts(folders[0], rows) == {
        row: {"prompt": f"prompt {row}", "chosen": f"chosen {row}", "rejected": "é" * 50} for row in (3, 599)
    }
    assert read_texts(folders[-1], rows) == {}

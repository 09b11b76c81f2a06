"""The folder of scores: killed runs go on to the same bytes, runs are never mixed, shards are read as one."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from undertow.data.pairs import BadRow
from undertow.errors import DataError, OptionError, OutputError
from undertow.scoring.folder import ScoreStore, read_scores

IDENTITY = {"score version": "1", "model weights": "abc", "level": "hidden", "shard": "1/1"}
SCHEMA = pa.schema(
    [("row", pa.int64()), ("pair_id", pa.string()), ("ln_ches", pa.float64())],
    metadata={"undertow_score_version": "1"},
)


def table(rows: Sequence[int]) -> pa.Table:
    """Scores that differ from row to row, made by hand."""
    values = [[row, f"{row:016x}", row * 0.5] for row in rows]
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, value, strict=True)) for value in values], schema=SCHEMA)


def write_run(folder: Path, parts: Sequence[Sequence[int]], *, commit: bool = True, **identity: object) -> Path:
    store = ScoreStore(folder)
    store.begin({**IDENTITY, **identity}, {"limit": None})
    for index, rows in enumerate(parts):
        store.write_part(index, table(rows))
    if commit:
        store.commit({"counts": sum(map(len, parts))})
    store.close()
    return folder


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_run_is_read_back_as_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[0, 1], [2, 4]])
    scores = read_scores(run)
    assert scores.equals(table([0, 1, 2, 4]))
    assert scores.schema.metadata[b"undertow_score_version"] == b"1"
    assert read_scores(str(run), columns=["ln_ches"]).column_names == ["ln_ches"]
    settings = json.loads((run / "settings.json").read_text())
    assert settings["identity"] == IDENTITY
    assert settings["settings"] == {"limit": None}
    part = pq.ParquetFile(run / "scores" / "part-00000.parquet")
    assert part.metadata.row_group(0).column(0).compression == "ZSTD"


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    assert digest(write_run(tmp_path / "a", [[0], [1]])) == digest(write_run(tmp_path / "b", [[0], [1]]))


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_store import IDENTITY, table
from undertow.data.pairs import BadRow
from undertow.scoring.folder import ScoreStore

store = ScoreStore(Path(sys.argv[2]))
store.begin(IDENTITY, {"limit": None})
if not store.finished:
    first = store.finished_parts()
    print(first, flush=True)
    for index in range(first, 40):
        store.write_part(index, table(range(index * 50, index * 50 + 50)))
        print(index, flush=True)
    store.write_skipped(BadRow(row, "prefs.jsonl", row + 1, "empty") for row in (2000, 2001))
    store.commit({"pairs": 2000})
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(folder)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_killed_at_five_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert start_writer(calm).wait(60) == 0
    moments = random.Random(7)
    begun = []
    for _ in range(5):
        with start_writer(killed) as writer:
            assert writer.stdout is not None
            begun.append(int(writer.stdout.readline()))
            for _ in range(moments.randrange(5)):
                writer.stdout.readline()
            time.sleep(moments.uniform(0.0, 0.01))
            os.kill(writer.pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"not finished \(no audit\.json\).*goes on where it stopped"):
            read_scores(killed)
    assert begun[0] == 0
    assert begun == sorted(begun)
    assert begun[-1] > 0, "nothing was kept over five kills"
    assert start_writer(killed).wait(60) == 0
    assert digest(killed) == digest(calm)
    assert read_scores(killed)["row"].to_pylist() == list(range(2000))


def test_only_whole_parts_without_a_gap_count(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[0], [1], [2], [3]], commit=False)
    part = run / "scores" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-10])
    (run / "scores" / ".part-00004.parquet.tmp").write_bytes(b"half")
    store = ScoreStore(run)
    store.begin(IDENTITY, {})
    assert store.finished_parts() == 1
    assert [path.name for path in (run / "scores").iterdir()] == ["part-00000.parquet"]
    assert store.read_parts()["row"].to_pylist() == [0]


def test_a_finished_run_that_lost_a_part_is_not_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[0], [1]])
    (run / "scores" / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"part-00001\.parquet is missing or damaged"):
        read_scores(run)
    store = ScoreStore(run)
    store.begin(IDENTITY, {})
    assert not store.finished
    assert not (run / "audit.json").exists()
    store.write_part(1, table([1]))
    store.commit({})
    assert store.finished
    assert read_scores(run)["row"].to_pylist() == [0, 1]


def test_another_run_is_refused_key_by_key_and_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[0]])
    before = digest(run)
    other = {**IDENTITY, "model weights": "f" * 64, "level": None, "dtype": "float32"}
    del other["score version"]
    with pytest.raises(OutputError) as caught:
        ScoreStore(run).begin(other, {})
    message = str(caught.value)
    assert "holds another run" in message
    assert "model weights: abc there, ffffffffffff… here" in message
    assert "level: hidden there, null here" in message
    assert "score version: 1 there, nothing here" in message
    assert "dtype: nothing there, float32 here" in message
    assert "shard" not in message
    assert "--overwrite" in message
    assert digest(run) == before


def test_overwrite_starts_over_and_spares_what_is_not_ours(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[0], [1]])
    (run / "report.html").write_text("old")
    (run / "notes.txt").write_text("mine")
    (run / "scores" / "mine.csv").write_text("mine")
    store = ScoreStore(run)
    store.begin({**IDENTITY, "level": "text"}, {}, overwrite=True)
    assert not store.finished
    assert store.finished_parts() == 0
    left = {name for name in digest(run) if not name.startswith(".")}
    assert left == {"settings.json", "notes.txt", str(Path("scores", "mine.csv"))}
    store.write_part(0, table([5]))
    store.commit({})
    assert read_scores(run)["row"].to_pylist() == [5]


def test_a_folder_of_something_else_is_refused_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    for action in (lambda s: s.check_writable(), lambda s: s.begin(IDENTITY, {}, overwrite=True)):
        with pytest.raises(
            OutputError, match=r"not empty and holds no run of `undertow audit` \(it holds photo\.png\)"
        ):
            action(ScoreStore(tmp_path))
    other = tmp_path / "editor"
    other.mkdir()
    (other / "settings.json").write_text('{"editor.fontSize": 12}')
    with pytest.raises(OutputError, match="was not written by `undertow audit`"):
        ScoreStore(other).begin(IDENTITY, {}, overwrite=True)
    assert (other / "settings.json").read_text() == '{"editor.fontSize": 12}'
    with pytest.raises(OutputError, match="is a file"):
        ScoreStore(tmp_path / "photo.png").check_writable()


def test_a_folder_of_the_first_version_is_known_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[0], [1]])
    settings = json.loads((run / "settings.json").read_text())
    del settings["command"]
    (run / "settings.json").write_text(json.dumps(settings))
    assert read_scores(run)["row"].to_pylist() == [0, 1]
    ScoreStore(run).begin(IDENTITY, {})


def test_looking_whether_a_folder_can_be_written_changes_nothing(tmp_path: Path) -> None:
    ScoreStore(tmp_path / "a" / "b").check_writable()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_never_write_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start_writer(run) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(OutputError, match="another process is writing there"):
            ScoreStore(run).begin(IDENTITY, {}, overwrite=True)
        assert writer.wait(60) == 0
    store = ScoreStore(run)
    store.begin(IDENTITY, {})
    assert store.finished


def test_a_refusal_gives_the_folder_back(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[0]])
    store = ScoreStore(run)
    with pytest.raises(OutputError):
        store.begin({**IDENTITY, "level": "text"}, {})
    ScoreStore(run).begin(IDENTITY, {})


def test_skipped_rows_are_listed_and_none_leaves_no_file(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    store.begin(IDENTITY, {})
    bad = [BadRow(3, "a.jsonl", 4, "empty"), BadRow(9, "a.jsonl", 10, "text \ud800 that no encoding can write")]
    assert store.write_skipped(iter(bad)) == 2
    lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert [BadRow(**json.loads(line)) for line in lines] == bad
    assert store.write_skipped([]) == 0
    assert not (tmp_path / "skipped.jsonl").exists()


def shards(folder: Path, count: int = 3) -> list[Path]:
    """Rows 0 to 9, dealt out."""
    return [
        write_run(folder / f"s{i}", [list(range(i, 10, count))], shard=f"{i + 1}/{count}", **{"shard data": f"of {i}"})
        for i in range(count)
    ]


def test_shards_are_read_as_one_in_any_order(tmp_path: Path) -> None:
    folders = shards(tmp_path)
    whole = table(range(10))
    assert read_scores(folders).equals(whole)
    assert read_scores(folders[::-1]).equals(whole)
    assert read_scores(tmp_path).equals(whole)
    assert read_scores(tmp_path, columns=["pair_id"]).equals(whole.select(["pair_id"]))


def test_shards_missing_doubled_or_of_other_runs_are_refused(tmp_path: Path) -> None:
    one, two, three = shards(tmp_path)
    with pytest.raises(DataError, match=r"^Shard 2/3 is missing"):
        read_scores([one, three])
    with pytest.raises(DataError, match=r"^Shards 1/3, 3/3 are missing"):
        read_scores(two)
    with pytest.raises(DataError, match=r"^Shard 1/3 is there twice"):
        read_scores([one, two, one])
    other = write_run(tmp_path / "other", [[2, 5, 8]], shard="3/3", level="text")
    with pytest.raises(DataError, match=r"not shards of one run:\n  --level: hidden in .*s0, text in .*other"):
        read_scores([one, two, other])
    whole = write_run(tmp_path / "whole", [[0]])
    with pytest.raises(DataError, match="Shards of different cuts"):
        read_scores([one, whole])
    overlap = write_run(tmp_path / "overlap", [[0, 5, 8]], shard="3/3")
    with pytest.raises(DataError, match="Row 0 is scored twice"):
        read_scores([one, two, overlap])


def test_what_is_no_score_folder_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[0]])
    with pytest.raises(DataError, match="does not exist"):
        read_scores(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is inside a score folder: name .*run itself"):
        read_scores(run / "scores")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no scores \(no settings\.json\)"):
        read_scores(tmp_path / "empty")
    with pytest.raises(DataError, match="No score folder was given"):
        read_scores([])
    with pytest.raises(OptionError, match=r"no column 'lnches'.*row, pair_id, ln_ches"):
        read_scores(run, columns=["lnches"])

"""The table of all pairs over Parquet: orders and searches are what the slow way finds, nothing else is reached."""

from __future__ import annotations

import contextlib
import math
import random
import threading
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from undertow.errors import DataError, OptionError
from undertow.reporting.viewing.table import EXCERPT, LARGEST_PAGE, LONGEST_SEARCH, LONGEST_TEXT, PairTable, Query

ROWS = 500
HOSTILE = "'; DROP TABLE numbers; -- \" %_\\ \0 \u202e"


def some_pairs() -> list[dict[str, Any]]:
    draw = random.Random(3)
    odd = [math.nan, None, math.inf, -math.inf, 0.0]
    return [
        {
            "row": 3 * n,
            "pair_id": f"{n:016x}",
            "ln_ches": odd[n % 5] if n % 11 == 0 else float(draw.randint(-20, 20)),
            "case": draw.choice([1, 2, 3, 4, None]),
            "truncated": draw.choice([True, False]),
            "gained_tokens": ["a", "b"],
            "prompt": f"Prompt {n}: " + draw.choice(["weißes Haus", "ÄPFEL", "äpfel", HOSTILE, "a_b%c"]),
            "chosen": "word " * draw.randint(1, 60) + str(n),
            "rejected": draw.choice(["Needle", "needle", "hay"]),
            "by:category": draw.choice(["one", "two", None]),
        }
        for n in range(ROWS)
    ]


PAIRS = some_pairs()
NUMBERS = pa.schema(
    [
        ("row", pa.int64()),
        ("pair_id", pa.string()),
        ("ln_ches", pa.float64()),
        ("case", pa.int8()),
        ("truncated", pa.bool_()),
        ("gained_tokens", pa.list_(pa.string())),
    ]
)
TEXTS = pa.schema([("row", pa.int64()), *((t, pa.string()) for t in ("prompt", "chosen", "rejected", "by:category"))])


def write(folder: Path) -> tuple[list[Path], list[Path]]:
    """Scores in three parts, texts in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for index, start in enumerate(range(0, ROWS, 200)):
        parts.append(folder / f"part-{index:05d}.parquet")
        rows = [{name: pair[name] for name in NUMBERS.names} for pair in PAIRS[start : start + 200]]
        pq.write_table(pa.Table.from_pylist(rows, NUMBERS), parts[-1])
    texts = folder / "texts.parquet"
    rows = [{name: pair[name] for name in TEXTS.names} for pair in PAIRS]
    pq.write_table(pa.Table.from_pylist(rows, TEXTS), texts, row_group_size=100)
    return parts, [texts]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory):
    made = PairTable(*write(tmp_path_factory.mktemp("run")))
    yield made
    made.close()


def rows_of(table: PairTable, **query: Any) -> list[int]:
    """All rows that a query finds, page by page."""
    found: list[int] = []
    while True:
        page = table.page(Query(first=len(found), count=LARGEST_PAGE, **query))
        found += [row["row"] for row in page.rows]
        if len(found) >= page.found:
            assert len(found) == page.found
            return found


def missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def slowly(sort: str, *, descending: bool, search: str = "") -> list[int]:
    """The specification: search, then sort, missing values last, of equal ones the earlier row first."""
    fits = [p for p in PAIRS if search.lower() in "\x1f".join((p["prompt"], p["chosen"], p["rejected"])).lower()]
    there = sorted((p for p in fits if not missing(p[sort])), key=lambda p: p["row"])
    there.sort(key=lambda p: p[sort], reverse=descending)  # stable, also in reverse
    return [p["row"] for p in there] + [p["row"] for p in fits if missing(p[sort])]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["row", "pair_id", "ln_ches", "case", "truncated", "by:category"])
def test_every_order_is_the_slow_ones(table: PairTable, sort: str, descending: bool) -> None:
    assert rows_of(table, sort=sort, descending=descending) == slowly(sort, descending=descending)


@pytest.mark.parametrize(
    "search", ["needle", "NEEDLE", "äpfel", "_", "%", "\\", "'", HOSTILE, "nowhere at all", "Prompt 7"]
)
def test_every_search_is_the_slow_one(table: PairTable, search: str) -> None:
    found = rows_of(table, search=search, sort="ln_ches", descending=True)
    assert found == slowly("ln_ches", descending=True, search=search)
    assert (found == []) == (search == "nowhere at all")


def test_a_page_holds_what_the_files_hold(table: PairTable) -> None:
    pairs = {pair["row"]: pair for pair in PAIRS}
    names = {None: None, math.inf: "Infinity", -math.inf: "-Infinity"}
    for row in table.page(Query(first=50, count=LARGEST_PAGE)).rows:
        pair = pairs[row["row"]]
        value = pair["ln_ches"]
        assert row["ln_ches"] == ("NaN" if value is not None and math.isnan(value) else names.get(value, value))
        assert row["chosen"] == pair["chosen"][:EXCERPT]
        assert row["by:category"] == pair["by:category"]
        assert "gained_tokens" not in row


def test_a_pair_is_whole(table: PairTable) -> None:
    pair = table.pair(PAIRS[7]["row"])
    assert pair["chosen"] == PAIRS[7]["chosen"]
    assert pair["chosen_length"] == len(PAIRS[7]["chosen"])
    assert pair["numbers"]["gained_tokens"] == ["a", "b"]
    assert pair["by:category"] == PAIRS[7]["by:category"]


def test_columns_of_another_file_come_first_each_once(tmp_path: Path) -> None:
    numbers, texts = write(tmp_path)
    more = {"row": [3, 0], "pair_id": ["x", "y"], 'push:"; --': [-2.5, 4.0], "LN_CHES": [1.0, 2.0]}
    pq.write_table(pa.table(more), tmp_path / "beside.parquet")
    with contextlib.closing(PairTable(numbers, texts, tmp_path / "beside.parquet")) as table:
        assert [column.name for column in table.columns][:3] == ["row", 'push:"; --', "pair_id"]
        assert table.total == ROWS
        found = table.page(Query(sort='push:"; --', count=3)).rows
        assert [row["row"] for row in found[:2]] == [3, 0]
        assert [row['push:"; --'] for row in found] == [-2.5, 4.0, None]
        assert found[0]["pair_id"] == PAIRS[1]["pair_id"]


def test_a_long_text_is_cut_and_its_length_told(tmp_path: Path) -> None:
    parts, texts = write(tmp_path)
    long = pa.Table.from_pylist([{**{n: PAIRS[0][n] for n in TEXTS.names}, "chosen": "é" * 1_000_000}], TEXTS)
    pq.write_table(long, texts[0])
    table = PairTable(parts, texts)
    pair = table.pair(0)
    assert (pair["chosen"], pair["chosen_length"]) == ("é" * LONGEST_TEXT, 1_000_000)
    assert len(table.page(Query(count=1)).rows[0]["chosen"]) == EXCERPT
    table.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": -1}, "first=-1"),
        ({"count": 0}, "count=0"),
        ({"count": LARGEST_PAGE + 1}, f"expected 1 to {LARGEST_PAGE}"),
        ({"search": "x" * (LONGEST_SEARCH + 1)}, f"at most {LONGEST_SEARCH}"),
        ({"sort": "nonsense"}, "no such column. It has: row, pair_id, ln_ches, case, truncated, by:category"),
        ({"sort": 'row" DESC; --'}, "no such column"),
        ({"sort": "gained_tokens"}, "no such column"),
        ({"sort": "prompt"}, "no such column"),
    ],
)
def test_what_makes_no_sense_is_refused(table: PairTable, given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message.replace("(", r"\(")):
        table.page(Query(**given))


def test_a_page_behind_the_last_is_empty(table: PairTable) -> None:
    page = table.page(Query(first=10_000))
    assert (page.rows, page.found) == ([], ROWS)


def test_a_row_that_is_not_there(table: PairTable) -> None:
    with pytest.raises(OptionError, match="row=1"):
        table.pair(1)


def test_without_texts_there_is_nothing_to_search(tmp_path: Path) -> None:
    table = PairTable(write(tmp_path)[0])
    assert table.page(Query(count=1)).rows[0].keys() == {"row", "pair_id", "ln_ches", "case", "truncated"}
    assert table.pair(0).keys() == {"row", "numbers"}
    with pytest.raises(OptionError, match="no texts"):
        table.page(Query(search="a"))
    table.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "COPY numbers TO '{folder}/out.parquet'",
        "ATTACH '{folder}/out.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
        "SET enable_external_access = true",
        "SET allowed_paths = ['{secret}']",
        "SELECT * FROM PAIRS",  # a variable of this module
    ],
)
def test_the_database_reaches_nothing_but_the_runs_files(tmp_path: Path, statement: str) -> None:
    table = PairTable(*write(tmp_path / "run"))
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(duckdb.Error):
        table._cursor().execute(statement.format(secret=secret, folder=tmp_path)).fetchall()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "secret.csv"]
    table.close()


@pytest.mark.parametrize("name", ["it's", "st*r", "br[ab]", "q?m", "{a,b}", "ümläut", 'quo"te'])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    for sibling in ("star", "bra", "qxm", "a"):  # what the name would match as a pattern
        write(tmp_path / sibling)
    table = PairTable(*write(tmp_path / name))
    assert table.total == ROWS
    assert rows_of(table, search="needle")
    table.close()


def test_damaged_and_missing_files_are_said(tmp_path: Path) -> None:
    parts, texts = write(tmp_path)
    table = PairTable(parts, texts)
    texts[0].unlink()
    with pytest.raises(DataError, match="cannot be read"):
        table.page(Query())
    table.close()
    parts[1].write_bytes(b"PAR1 rubbish")
    with pytest.raises(DataError, match="cannot be read"):
        PairTable(parts)


def test_threads_do_not_disturb_each_other(table: PairTable) -> None:
    wanted = {
        (sort, down): slowly(sort, descending=down) for sort in ("row", "ln_ches", "case") for down in (False, True)
    }
    wrong: list[tuple[str, bool]] = []

    def ask(sort: str, down: bool) -> None:
        for _ in range(3):
            if rows_of(table, sort=sort, descending=down) != wanted[sort, down]:
                wrong.append((sort, down))

    threads = [threading.Thread(target=ask, args=key) for key in wanted for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

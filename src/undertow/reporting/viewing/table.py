"""The pairs of a run, sorted, searched and paged from Parquet: for tables too large for one page.

Every statement is written here, with values as parameters and column names checked against the files' own. The
database lives in memory, opens no file but the run's, loads no extension, and nothing can be set again.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from undertow.errors import DataError, OptionError
from undertow.runs.identity import JSON
from undertow.runs.texts import BY, PAIR_TEXTS

LARGEST_PAGE = 200
LONGEST_SEARCH = 500
EXCERPT = 160
LONGEST_TEXT = 200_000
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "BOOLEAN")
_FRACTIONS = ("FLOAT", "DOUBLE")
# An order is 8 bytes a pair; the pages of the last few are turned without sorting or searching again.
_KEPT_ORDERS = 4


@dataclass(frozen=True, slots=True)
class Column:
    """A column that pairs can be sorted by: ``number`` where it is shown as one."""

    name: str
    number: bool
    fraction: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """Which pairs are wanted, and in which order.

    Attributes:
        sort: a column; missing and NaN come last in both directions, of equal values the earlier row first.
        descending: the highest first.
        search: text that the prompt or a response must hold, upper and lower case alike; nothing for all pairs.
        first: how many pairs to pass over.
        count: how many to give.

    Raises:
        OptionError: on creation, for a value out of its range.
    """

    sort: str = "row"
    descending: bool = False
    search: str = ""
    first: int = 0
    count: int = 50

    def __post_init__(self) -> None:
        if self.first < 0:
            raise OptionError(f"first={self.first}: expected 0 or more.")
        if not 1 <= self.count <= LARGEST_PAGE:
            raise OptionError(f"count={self.count}: expected 1 to {LARGEST_PAGE} pairs.")
        if len(self.search) > LONGEST_SEARCH:
            raise OptionError(f"search: {len(self.search)} characters; at most {LONGEST_SEARCH} can be searched for.")


@dataclass(frozen=True, slots=True)
class Page:
    """Some pairs of those that a query found, and how many it found in all."""

    rows: list[dict[str, JSON]]
    found: int


class PairTable:
    """All pairs of a run. Safe to use from several threads; :meth:`close` it.

    Args:
        numbers: Parquet files with one row a pair and a column ``row``.
        texts: Parquet files with ``row``, ``prompt``, ``chosen``, ``rejected`` and any ``by:NAME``; none where the
            run kept no texts: then there is nothing to search in, and no text to show.
        beside: another Parquet file with one row a pair and a column ``row``, whose columns come first.

    Raises:
        DataError: a file cannot be read.
    """

    def __init__(self, numbers: Sequence[Path], texts: Sequence[Path] = (), beside: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._connection = _connect([*numbers, *texts, *([beside] if beside else [])])
        with _readable():
            self._view("numbers" if beside is None else "scores", numbers)
            if beside is not None:
                self._view("beside", [beside])
                self._join()
            self.has_texts = bool(texts)
            if texts:
                self._view("texts", texts)
            self.columns = tuple(self._columns())
            self.total = int(self._fetch("SELECT count(*) FROM numbers")[0][0])
        self._order = functools.lru_cache(maxsize=_KEPT_ORDERS)(self._find_order)

    def page(self, query: Query) -> Page:
        """One page of the pairs that a query wants, their texts cut to excerpts.

        Raises:
            OptionError: a column that the table does not have; a search where there are no texts.
            DataError: a file cannot be read any more.
        """
        self._check(query)
        order = self._order(query.sort, query.descending, query.search)
        return Page(self._rows(order[query.first : query.first + query.count].tolist()), len(order))

    def pair(self, row: int) -> dict[str, Any]:
        """One pair: its ``numbers``, its texts cut after 200,000 characters, and the length of each, ``prompt_length``.

        Raises:
            OptionError: there is no such row.
        """
        found = self._records("SELECT * FROM numbers WHERE row = ?", [row])
        if not found:
            raise OptionError(f"row={row}: the table has no such row.")
        texts = ", ".join(f"left({t}, {LONGEST_TEXT}) AS {t}, length({t}) AS {t}_length" for t in PAIR_TEXTS)
        pair: dict[str, Any] = {"row": row, "numbers": found[0]}
        if self.has_texts:
            said = self._records(f"SELECT {texts}{self._by_columns()} FROM texts WHERE row = ?", [row])
            pair |= said[0] if said else {}
        return pair

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._connection.close()

    def _check(self, query: Query) -> None:
        names = [column.name for column in self.columns]
        if query.sort not in names:
            raise OptionError(f"sort={query.sort}: the table has no such column. It has: {', '.join(names)}.")
        if query.search and not self.has_texts:
            raise OptionError("search: this run kept no texts to search in.")

    def _find_order(self, sort: str, descending: bool, search: str) -> NDArray[np.int64]:
        """The rows that fit, in order. ``sort`` is a known column."""
        column = next(column for column in self.columns if column.name == sort)
        name = _quoted(sort)
        # NaN is a number to a database, and its highest: here it is missing, as an empty cell is.
        value = f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END" if column.fraction else name
        source = "numbers" if not sort.startswith(BY) else "numbers JOIN texts USING (row)"
        where, values = "", []
        if search:
            fits = " OR ".join(f"contains(lower({text}), lower(?))" for text in PAIR_TEXTS)
            where, values = f"WHERE row IN (SELECT row FROM texts WHERE {fits})", [search] * len(PAIR_TEXTS)
        direction = "DESC" if descending else "ASC"
        with _readable():
            found = self._cursor().execute(
                f"SELECT row FROM {source} {where} ORDER BY {value} {direction} NULLS LAST, row", values
            )
            return np.asarray(found.fetchnumpy()["row"], dtype=np.int64)

    def _rows(self, rows: list[int]) -> list[dict[str, JSON]]:
        """These rows, in this order."""
        if not rows:
            return []
        shown = ", ".join(_quoted(column.name) for column in self.columns if not column.name.startswith(BY))
        wanted = "WHERE row IN (SELECT unnest(?))"
        found = {record["row"]: record for record in self._records(f"SELECT {shown} FROM numbers {wanted}", [rows])}
        if self.has_texts:
            excerpts = ", ".join(f"left({text}, {EXCERPT}) AS {text}" for text in PAIR_TEXTS)
            for record in self._records(f"SELECT row, {excerpts}{self._by_columns()} FROM texts {wanted}", [rows]):
                found[record["row"]] |= record
        return [found[row] for row in rows]

    def _by_columns(self) -> str:
        return "".join(f", {_quoted(column.name)}" for column in self.columns if column.name.startswith(BY))

    def _columns(self) -> Iterator[Column]:
        numbers = self._connection.view("numbers")
        for name, kind in zip(numbers.columns, map(str, numbers.types), strict=True):
            if kind in _NUMBERS or kind == "VARCHAR":
                yield Column(name, kind in _NUMBERS, kind in _FRACTIONS)
        if self.has_texts:
            names = self._connection.view("texts").columns
            yield from (Column(name, False) for name in names if name.startswith(BY))

    def _view(self, name: str, files: Sequence[Path]) -> None:
        self._connection.read_parquet([_pattern(path) for path in files]).create_view(name)

    def _join(self) -> None:
        """The scores with the columns beside them; one that both have is taken from there once."""
        scores, beside = (self._connection.view(name).columns for name in ("scores", "beside"))
        there = {name.casefold() for name in scores}  # to a database the two cases of a letter are one
        more = [name for name in beside if name.casefold() not in there]
        names = ["scores.row", *(f"beside.{_quoted(name)}" for name in more)]
        names += [f"scores.{_quoted(name)}" for name in scores if name != "row"]
        self._connection.execute(
            f"CREATE VIEW numbers AS SELECT {', '.join(names)} FROM scores LEFT JOIN beside ON scores.row = beside.row"
        )

    def _records(self, statement: str, values: Sequence[object]) -> list[dict[str, Any]]:
        with _readable():
            cursor = self._cursor().execute(statement, values)
            names = [str(column[0]) for column in cursor.description or ()]
            return [dict(zip(names, map(_plain, record), strict=True)) for record in cursor.fetchall()]

    def _fetch(self, statement: str) -> list[Any]:
        return self._cursor().execute(statement).fetchall()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor of its own for each statement: a connection serves one thread at a time, and refuses a second."""
        with self._lock:
            return self._connection.cursor()


def _connect(files: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """A database in memory that may read these files and do nothing else outside."""
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    names = {name for path in files for name in (str(path.resolve()), _pattern(path))}
    allowed = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
    connection.execute(f"SET allowed_paths = [{allowed}]")
    for setting in ("autoload_known_extensions", "enable_external_access", "python_enable_replacements"):
        connection.execute(f"SET {setting} = false")
    connection.execute("SET lock_configuration = true")
    return connection


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise DataError(f"The pairs cannot be read: {str(error).splitlines()[0]}") from error


def _pattern(path: Path) -> str:
    """The pattern that this file alone fits: its bare name may fit others, where it has a ``*``, ``?`` or ``[``."""
    return glob.escape(str(path.resolve()))


def _quoted(name: str) -> str:
    """A column's name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _plain(value: Any) -> JSON:
    """A value as JSON has it; numbers that JSON lacks are named: NaN, Infinity, -Infinity."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    plain: JSON = value
    return plain

"""Parquet and Arrow files, batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from undertow.data.rows import RawRow
from undertow.errors import DataError

# Rows held as Python objects at a time.
_BATCH = 64

Cell = tuple[dict[str, Any] | None, str | None]


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows that are in a table and cannot be read."""

    rows: int
    reason: str


Piece: TypeAlias = "pa.RecordBatch | Lost"
Group: TypeAlias = Iterator[Piece]
"""What was written together: a row group of Parquet, a record batch of Arrow."""


def read_parquet(path: Path, name: str, start: int) -> Iterator[RawRow]:
    """Rows of a Parquet file. Where a row group is damaged, each of its rows that is lost is an error row.

    Raises:
        DataError: it is no Parquet file, or names a column twice.
    """
    return _rows(parquet_groups(path, name, _BATCH), name, start)


def read_arrow(path: Path, name: str, start: int) -> Iterator[RawRow]:
    """Rows of an Arrow IPC file or stream. What cannot be read ends it, with an error row.

    Raises:
        DataError: it is no Arrow file, or names a column twice.
    """
    return _rows(arrow_groups(path, name), name, start)


def _rows(groups: Iterable[Group], name: str, start: int) -> Iterator[RawRow]:
    row = start
    for piece in (piece for group in groups for piece in group):
        found = ((None, piece.reason) for _ in range(piece.rows)) if isinstance(piece, Lost) else cells(piece)
        for value, error in found:
            yield RawRow(row, name, row - start + 1, value, error)
            row += 1


def parquet_groups(path: Path, name: str, batch_rows: int) -> Iterator[Group]:
    """The row groups of a Parquet file, each in batches. Of a damaged one, the rows that are lost come as one piece.

    Raises:
        DataError: it is no Parquet file, or names a column twice.
    """
    with _parquet(path, name) as file:
        check_columns(file.schema_arrow, name)
        for group in range(file.num_row_groups):
            yield _row_group(file, group, batch_rows)


def arrow_groups(path: Path, name: str) -> Iterator[Group]:
    """The record batches of an Arrow IPC file or stream. What cannot be read ends it and counts as one row.

    Raises:
        DataError: it is no Arrow file, or names a column twice.
    """
    with _arrow(path, name) as file:
        check_columns(file.schema, name)
        # A file knows its batches by number; a stream is read one after another.
        count = getattr(file, "num_record_batches", None)
        batches = iter(file) if count is None else map(file.get_batch, range(count))
        try:
            for batch in batches:
                yield iter((batch,))
        except (OSError, pa.ArrowException) as error:
            yield iter((Lost(1, f"the Arrow data break off here ({first_line(error)})"),))


@dataclass(frozen=True, slots=True)
class Form:
    """How a table is stored: its schema with metadata, and what else a copy should have like it.

    ``compression`` is that of the first column of a Parquet file; ``stream`` says that an Arrow file is a stream.
    """

    schema: pa.Schema
    compression: str = "none"
    stream: bool = False


def parquet_form(path: Path, name: str) -> Form:
    """How a Parquet file is stored.

    Raises:
        DataError: it is no Parquet file, or names a column twice.
    """
    with _parquet(path, name) as file:
        check_columns(file.schema_arrow, name)
        columns = file.num_row_groups and file.metadata.num_columns
        compression = file.metadata.row_group(0).column(0).compression if columns else "SNAPPY"
        return Form(file.schema_arrow, "none" if compression == "UNCOMPRESSED" else str(compression).lower())


def arrow_form(path: Path, name: str) -> Form:
    """How an Arrow file is stored.

    Raises:
        DataError: it is no Arrow file, or names a column twice.
    """
    with _arrow(path, name) as file:
        check_columns(file.schema, name)
        return Form(file.schema, stream=not hasattr(file, "num_record_batches"))


@contextlib.contextmanager
def _parquet(path: Path, name: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        # Buffered: without it, pyarrow holds whole column chunks, which is the file where it is one row group.
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, pa.ArrowException) as failure:
        raise DataError(_unreadable(name, "Parquet", failure)) from failure
    with file:
        yield file


@contextlib.contextmanager
def _arrow(path: Path, name: str) -> Iterator[Any]:
    try:
        mapped = pa.memory_map(str(path))
    except (OSError, pa.ArrowException) as error:
        raise DataError(_unreadable(name, "Arrow", error)) from error
    with mapped:
        if mapped.size() == 0:
            raise DataError(f"{name} is empty: not even a schema.")
        try:
            magic = mapped.read(6)
            mapped.seek(0)
            file = pa.ipc.open_file(mapped) if magic == b"ARROW1" else pa.ipc.open_stream(mapped)
        except (OSError, pa.ArrowException) as error:
            raise DataError(_unreadable(name, "Arrow", error)) from error
        yield file


def _row_group(file: Any, group: int, batch_rows: int) -> Group:
    left = file.metadata.row_group(group).num_rows
    try:
        for batch in file.iter_batches(batch_rows, row_groups=[group]):
            left -= batch.num_rows
            yield batch
    except (OSError, pa.ArrowException) as failure:
        if left:
            yield Lost(left, f"row group {group} of the file is damaged ({first_line(failure)})")


def cells(batch: pa.RecordBatch | pa.Table) -> Iterator[Cell]:
    """The rows of a batch as objects; a row with text that is no UTF-8 comes with that as its error."""
    for at in range(0, batch.num_rows, _BATCH):
        part = batch.slice(at, _BATCH)
        try:
            values = part.to_pylist()
        except (UnicodeDecodeError, ValueError, OverflowError):
            yield from (_one_row(part.slice(index, 1)) for index in range(part.num_rows))
        else:
            yield from ((value, None) for value in values)


def _one_row(part: pa.RecordBatch | pa.Table) -> Cell:
    value = {}
    for name in part.schema.names:
        try:
            value[name] = part.column(name)[0].as_py()
        except UnicodeDecodeError:
            return None, f"invalid UTF-8 in `{name}`"
        except (ValueError, OverflowError) as error:
            return None, f"`{name}` cannot be read: {first_line(error)}"
    return value, None


def check_columns(schema: pa.Schema, name: str) -> None:
    """Refuse a table that has a column twice: a row could only hold one of them."""
    for column in schema.names:
        if schema.names.count(column) > 1:
            raise DataError(f"{name} has the column `{column}` twice; rename one of them.")


def _unreadable(name: str, what: str, error: Exception) -> str:
    return (
        f"{name} cannot be read as {what}: {first_line(error)}. It may be cut off, or of another kind than its name "
        "says; copy or download it again, or give it the right ending."
    )


def first_line(error: Exception) -> str:
    """What an error says, without its details."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

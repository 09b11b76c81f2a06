"""Parquet and Arrow files, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from undertow.data.rows import RawRow
from undertow.errors import DataError

# Rows held as Python objects at a time.
_BATCH = 64

Cell = tuple[dict[str, Any] | None, str | None]


def read_parquet(path: Path, name: str, start: int) -> Iterator[RawRow]:
    """Rows of a Parquet file. Where a row group is damaged, each of its rows that is lost is an error row.

    Raises:
        DataError: it is no Parquet file, or names a column twice.
    """
    import pyarrow.parquet as pq

    try:
        # Buffered: without it, pyarrow holds whole column chunks, which is the file where it is one row group.
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, pa.ArrowException) as failure:
        raise DataError(_unreadable(name, "Parquet", failure)) from failure
    with file:
        check_columns(file.schema_arrow, name)
        row, end = start, start
        for group in range(file.num_row_groups):
            end += file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(_BATCH, row_groups=[group]):
                    for value, error in cells(batch):
                        yield RawRow(row, name, row - start + 1, value, error)
                        row += 1
            except (OSError, pa.ArrowException) as failure:
                reason = f"row group {group} of the file is damaged ({_first_line(failure)})"
                for lost in range(row, end):
                    yield RawRow(lost, name, lost - start + 1, None, reason)
            row = end


def read_arrow(path: Path, name: str, start: int) -> Iterator[RawRow]:
    """Rows of an Arrow IPC file or stream. What cannot be read ends it, with an error row.

    Raises:
        DataError: it is no Arrow file, or names a column twice.
    """
    try:
        with pa.memory_map(str(path)) as mapped:
            if mapped.size() == 0:
                raise DataError(f"{name} is empty: not even a schema.")
            mapped.seek(0)
            magic = mapped.read(6)
            mapped.seek(0)
            file = pa.ipc.open_file(mapped) if magic == b"ARROW1" else pa.ipc.open_stream(mapped)
            check_columns(file.schema, name)
            yield from _arrow_rows(file, name, start)
    except (OSError, pa.ArrowException) as error:
        raise DataError(_unreadable(name, "Arrow", error)) from error


def _arrow_rows(file: Any, name: str, start: int) -> Iterator[RawRow]:
    row = start
    batches = (
        iter(file) if not hasattr(file, "num_record_batches") else map(file.get_batch, range(file.num_record_batches))
    )
    try:
        for batch in batches:
            for value, error in cells(batch):
                yield RawRow(row, name, row - start + 1, value, error)
                row += 1
    except (OSError, pa.ArrowException) as error:
        yield RawRow(row, name, row - start + 1, None, f"the Arrow data break off here ({_first_line(error)})")


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
            return None, f"`{name}` cannot be read: {_first_line(error)}"
    return value, None


def check_columns(schema: pa.Schema, name: str) -> None:
    """Refuse a table that has a column twice: a row could only hold one of them."""
    for column in schema.names:
        if schema.names.count(column) > 1:
            raise DataError(f"{name} has the column `{column}` twice; rename one of them.")


def _unreadable(name: str, what: str, error: Exception) -> str:
    return (
        f"{name} cannot be read as {what}: {_first_line(error)}. It may be cut off, or of another kind than its name "
        "says; copy or download it again, or give it the right ending."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

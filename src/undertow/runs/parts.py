"""Parts of a table on disk: how many rows one has, by its footer, and its rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from undertow.errors import DataError


def rows_in(part: Path) -> int | None:
    """The rows of a part, by its footer, or None where it cannot be opened."""
    try:
        return int(pq.read_metadata(part).num_rows)
    except (OSError, pa.ArrowException):
        return None


def read_part(path: Path) -> pa.Table:
    """A part as a table.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error

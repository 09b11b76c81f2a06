"""Comma-separated values: quoted fields may hold line breaks, and one broken row does not take the others with it."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from undertow.data.rows import RawRow
from undertow.data.sources.textblocks import BrokenStreamError, blocks, byte_order_mark, lines
from undertow.errors import DataError

_LONGEST_FIELD = 1 << 26


class _Lines:
    """The lines of a file for ``csv.reader``, with a memory of the row being read, so that reading can go back."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._again: deque[str] = deque()
        self.read: list[str] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._source).decode("utf-8", "surrogateescape")
        self.read.append(line)
        self.number += 1
        return line

    def raw(self) -> bytes:
        """The row being read, to the byte."""
        return "".join(self.read).encode("utf-8", "surrogateescape")

    def back_to_second(self) -> None:
        """Give all lines of the row but its first back, to be read anew."""
        self._again.extendleft(reversed(self.read[1:]))
        self.number -= len(self.read) - 1


def read_csv(path: Path, name: str, start: int) -> Iterator[RawRow]:
    """Rows of a CSV file with a header. Values are strings; what they mean, the layouts know.

    A row that cannot be parsed is an error row for its first line; reading goes on with the line after it.
    """
    # The limit is the interpreter's, not the reader's; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    feed = _Lines(lines(blocks(path, name)))
    records = _records(feed)
    header = _header(records, name)
    row = start
    for line, fields, error in records:
        value, raw = None, None
        if fields is not None:
            error, raw = _misfit(header, fields), feed.raw()
            value = dict(zip(header, fields, strict=True)) if error is None else None
        yield RawRow(row, name, line, value, error, raw)
        row += 1


def read_header(path: Path, name: str) -> tuple[list[str], bytes]:
    """The columns of a CSV file, and its header to the byte, a byte order mark included.

    Raises:
        DataError: it has no header that can be read.
    """
    feed = _Lines(lines(blocks(path, name)))
    header = _header(_records(feed), name)
    return header, byte_order_mark(path) + feed.raw()


def _records(feed: _Lines) -> Iterator[tuple[int, list[str] | None, str | None]]:
    reader = csv.reader(feed, strict=True)
    while True:
        line = feed.number + 1
        feed.read.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except BrokenStreamError as error:
            yield line, None, str(error)
            return
        except csv.Error as error:
            feed.back_to_second()
            yield line, None, _reason(error)
        else:
            if fields:
                yield line, fields, None


def _header(records: Iterator[tuple[int, list[str] | None, str | None]], name: str) -> list[str]:
    _, header, error = next(records, (0, [], None))
    if header is None:
        raise DataError(f"{name} has no header that can be read: {error}.")
    if twice := {column for column in header if header.count(column) > 1}:
        raise DataError(f"{name} has the column `{min(twice)}` twice; rename one of them.")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise DataError(f"{name} has one column, {header[0]!r}: it seems not to be separated by commas, as expected.")
    return header


def _misfit(header: list[str], fields: list[str]) -> str | None:
    if len(fields) != len(header):
        return f"{len(fields)} field{'s' if len(fields) != 1 else ''}, expected {len(header)} as in the header"
    for column, field in zip(header, fields, strict=True):
        if not field.isascii() and not _is_utf8(field):
            return f"invalid UTF-8 in `{column}`"
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote that opens in this line is never closed"
    if "field larger" in str(error):
        return f"a field of more than {_LONGEST_FIELD >> 20} MiB: most likely a quote that is never closed"
    return f"not CSV: {error}"

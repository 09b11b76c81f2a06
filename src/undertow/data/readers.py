"""One reader a kind of file: each yields its records in order, streamed, with what could not be read named in place.

A record is ``(line, value, error, raw)``: the 1-based line of a text file or row of a table file; the row as a
dictionary, or what is wrong with it; for JSON lines the very bytes. An error in one record never costs the others.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from undertow.errors import DataError

Record = tuple[int, dict[str, Any] | None, str | None, bytes | None]

BATCH = 256
_BOMS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_UTF8_BOM = b"\xef\xbb\xbf"
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


class RepeatedKeyError(ValueError):
    """An object names a key twice: either value may be the one that was meant."""


def read_jsonl(path: Path) -> Iterator[Record]:
    """JSON lines. Blank lines are no rows."""
    line = 0
    with open_bytes(path) as file:
        try:
            for line, raw in enumerate(file, start=1):
                text = raw.removeprefix(_UTF8_BOM) if line == 1 else raw
                if text.strip():
                    value, error = _parse(text)
                    yield line, value, error, raw
        except (OSError, EOFError) as error:
            yield line + 1, None, _damaged(error), None


def read_json(path: Path) -> Iterator[Record]:
    """A JSON array of objects, or JSON lines under the name of ``.json``; streamed either way."""
    with open_bytes(path) as file:
        beginning = file.peek(4096).lstrip(_UTF8_BOM).lstrip()[:1]  # type: ignore[attr-defined]
    if beginning == b"{":
        records = read_jsonl(path)
        first = next(records, None)
        if first is None or first[1] is None:
            raise DataError(
                f"{path}: neither a JSON array of rows nor JSON lines. Give a list of objects, [{{…}}, {{…}}], "
                "or one object a line."
            )
        yield first
        yield from records
    elif beginning == b"[":
        yield from _read_array(path)
    else:
        raise DataError(f"{path}: its JSON is not a list of rows. Expected [{{…}}, {{…}}], or one object a line.")


def read_csv(path: Path) -> Iterator[Record]:
    """Comma-separated values with a header line; quoted fields may hold line breaks."""
    csv.field_size_limit(sys.maxsize)
    with open_bytes(path) as file:
        # surrogateescape: an invalid byte spoils its own row only, when its text is checked.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, strict=True)
        header = _csv_header(path, reader)
        begin = reader.line_num + 1
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield begin, None, f"not CSV: {error}", None
            except (OSError, EOFError) as error:
                yield begin, None, _damaged(error), None
                return
            else:
                if fields and len(fields) != len(header):
                    yield begin, None, f"has {len(fields)} fields, the header {len(header)}", None
                elif fields:
                    yield begin, dict(zip(header, fields, strict=True)), None, None
            begin = reader.line_num + 1


def read_parquet(path: Path) -> Iterator[Record]:
    """A Parquet file, a few hundred rows at a time."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({_short(error)}).") from error
    with file:
        yield from _tables(file.iter_batches(batch_size=BATCH))


def read_arrow(path: Path) -> Iterator[Record]:
    """An Arrow IPC file or stream, mapped into memory."""
    try:
        with pa.memory_map(str(path)) as mapped:
            try:
                opened = pa.ipc.open_file(mapped)
                batches: Iterator[pa.RecordBatch] = map(opened.get_batch, range(opened.num_record_batches))
            except pa.ArrowInvalid:
                mapped.seek(0)
                batches = iter(pa.ipc.open_stream(mapped))
            yield from _tables(batches)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not an Arrow file or stream ({_short(error)}).") from error


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
_ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


def kind_of(path: Path) -> str | None:
    """The reader for a file by its ending, ``.gz`` and ``.zst`` of text files taken off; None for other files."""
    packed = path.suffix in _COMPRESSIONS
    kind = _ENDINGS.get(Path(path.stem).suffix if packed else path.suffix)
    return None if packed and kind in ("parquet", "arrow") else kind


def open_bytes(path: Path) -> IO[bytes]:
    """A text file as bytes, decompressed by its ending; a damaged stream raises OSError where it breaks off."""
    try:
        stream = pa.input_stream(str(path), compression=_COMPRESSIONS.get(path.suffix))
        file = io.BufferedReader(stream, 1 << 16)
        beginning = file.peek(4)[:4]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({_short(error)}).") from error
    for mark, name in _BOMS.items():
        if beginning.startswith(mark):
            raise DataError(
                f"{path}: is {name}, expected UTF-8. Convert it: iconv -f {name} -t UTF-8 {path.name} > new-file"
            )
    return file


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary, unless a key occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKeyError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found


def _parse(text: bytes) -> tuple[dict[str, Any] | None, str | None]:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        return None, f"invalid UTF-8 at byte {error.start}"
    except RepeatedKeyError as error:
        return None, str(error)
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        return None, "not JSON that can be read: nested too deeply"
    if not isinstance(value, dict):
        return None, f"expected a JSON object, found {type(value).__name__}"
    return value, None


class _UniqueKeys(dict[str, Any]):
    """What ijson builds objects with; a repeated key is remembered, since raising would end the whole file."""

    repeated: str | None = None

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.repeated = key
        super().__setitem__(key, value)


def _read_array(path: Path) -> Iterator[Record]:
    number = 0
    with open_bytes(path) as file:
        if file.peek(3)[:3] == _UTF8_BOM:  # type: ignore[attr-defined]
            file.read(3)
        try:
            for number, value in enumerate(ijson.items(file, "item", use_float=True, map_type=_UniqueKeys), start=1):
                if not isinstance(value, dict):
                    yield number, None, f"expected a JSON object, found {type(value).__name__}", None
                elif getattr(value, "repeated", None) is not None:
                    yield number, None, f"the key {value.repeated!r} occurs twice", None
                else:
                    yield number, value, None, None
        except (ijson.JSONError, OSError, EOFError, UnicodeDecodeError) as error:
            yield number + 1, None, _damaged(error), None


def _csv_header(path: Path, reader: Any) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except (csv.Error, OSError) as error:
        raise DataError(f"{path}: its header line cannot be read ({_short(error)}).") from error
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise DataError(f"{path}: its header names the column {min(repeated)!r} twice.")
    return header


def _tables(batches: Iterator[pa.RecordBatch]) -> Iterator[Record]:
    number = 0
    try:
        for batch in batches:
            for begin in range(0, batch.num_rows, BATCH):
                for value in _records(batch.slice(begin, BATCH)):
                    number += 1
                    yield (number, None, value, None) if isinstance(value, str) else (number, value, None, None)
    except (pa.ArrowException, OSError) as error:
        yield number + 1, None, _damaged(error), None


def _records(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The rows as dictionaries; one that Python cannot hold (invalid UTF-8) as what is wrong with it."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield f"invalid UTF-8 ({error.reason})"


def _damaged(error: BaseException) -> str:
    return f"the file is damaged or breaks off here, what comes after cannot be read ({_short(error)})"


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

"""Writing rows of an input as they were: JSON lines byte for byte, tables with their schema and metadata."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from undertow.data.sources.opening import RawRow, Source
from undertow.errors import DataError, OptionError
from undertow.files import write_atomically

BATCH = 1024


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an input row stays, and why not."""

    row: int
    pair_id: str | None
    score: float | None
    kept: bool
    reason: str


def check_target(source: Source, out: Path) -> None:
    """Refuse an output that would be the input, or of a kind the input cannot become."""
    kind = _kind(out)
    if any(out.exists() and out.samefile(file) for file in source.files if file.exists()):
        raise OptionError(f"--out {out} is the input itself. Choose another file.")
    if kind in ("parquet", "arrow", "csv") and source.kind != kind:
        raise OptionError(
            f"--out {out}: rows of {source.name} ({source.kind}) cannot be written as {kind} without changing them. "
            f"Write .jsonl, or .{source.kind if source.kind in ('parquet', 'arrow', 'csv') else 'json'}."
        )


def write_rows(source: Source, out: Path, kept: bytearray) -> int:
    """Write the rows marked in ``kept`` and return the number of all input rows."""
    kind = _kind(out)
    if kind in ("parquet", "arrow"):
        return _write_table(source, out, kept, kind)
    count = 0

    def staying() -> Iterator[RawRow]:
        nonlocal count
        for raw in source.rows():
            count = raw.row + 1
            if raw.row < len(kept) and kept[raw.row]:
                yield raw

    with ExitStack() as stack:
        file = _compressed(stack, stack.enter_context(write_atomically(out)), out)
        _TEXT_WRITERS[kind](file, staying())
    return count


def write_decisions(path: Path, decisions: Iterable[Decision]) -> None:
    """One line for each pair or bad row: ``.csv``, ``.jsonl`` or ``.parquet`` by the file's ending."""
    kind = _kind(path)
    names = [field.name for field in fields(Decision)]
    with ExitStack() as stack:
        file = _compressed(stack, stack.enter_context(write_atomically(path)), path)
        if kind == "csv":
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text)
            writer.writerow(names)
            writer.writerows([getattr(decision, name) for name in names] for decision in decisions)
            text.detach()
        elif kind == "jsonl":
            for decision in decisions:
                file.write(json.dumps({**asdict(decision), "score": _json_number(decision.score)}).encode() + b"\n")
        else:
            raise OptionError(f"--decisions {path}: expected a name that ends in .csv or .jsonl.")


def _json_number(score: float | None) -> float | str | None:
    return score if score is None or np.isfinite(score) else str(score)


def _kind(path: Path) -> str:
    """What a file to be written is, by its ending."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    kinds = {
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".json": "json",
        ".csv": "csv",
        ".parquet": "parquet",
        ".arrow": "arrow",
    }
    kind = kinds.get(Path(name).suffix)
    if kind is None or (kind in ("parquet", "arrow") and name != path.name):
        raise OptionError(f"{path}: expected a name that ends in .jsonl, .json, .csv, .parquet or .arrow.")
    return kind


def _compressed(stack: ExitStack, file: IO[bytes], path: Path) -> IO[bytes]:
    packed: Any = file
    if path.suffix == ".gz":  # no name and no time in it: equal rows give equal bytes
        packed = stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0))
    elif path.suffix == ".zst":
        packed = stack.enter_context(zstandard.ZstdCompressor().stream_writer(file, closefd=False))
    return packed  # type: ignore[no-any-return]


def _write_jsonl(file: IO[bytes], rows: Iterator[RawRow]) -> None:
    for raw in rows:
        line = raw.raw if raw.raw is not None else _dumped(raw)
        file.write(line if line.endswith(b"\n") else line + b"\n")


def _write_json(file: IO[bytes], rows: Iterator[RawRow]) -> None:
    separator = b"[\n"
    for raw in rows:
        file.write(separator + _dumped(raw))
        separator = b",\n"
    file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def _write_csv(file: IO[bytes], rows: Iterator[RawRow]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True)
    writer = None
    for raw in rows:
        value = raw.value or {}
        if writer is None:
            writer = csv.DictWriter(text, list(value))
            writer.writeheader()
        writer.writerow(value)
    text.detach()


_TEXT_WRITERS: dict[str, Callable[[IO[bytes], Iterator[RawRow]], None]] = {
    "jsonl": _write_jsonl,
    "json": _write_json,
    "csv": _write_csv,
}


def _dumped(raw: RawRow) -> bytes:
    try:
        return json.dumps(raw.value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except TypeError as error:
        raise DataError(
            f"{raw.file}, line {raw.line}: holds a value that JSON cannot ({error}). "
            "Write the kind of file the data came in (--out with its ending)."
        ) from error


def _write_table(source: Source, out: Path, kept: bytearray, kind: str) -> int:
    """Batches of the input with the rows that go taken out: the schema and its metadata stay."""
    begin = 0
    with ExitStack() as stack:
        file = stack.enter_context(write_atomically(out))
        writer: Any = None
        for batch in _batches(source.files):
            if writer is None:
                writer = stack.enter_context(
                    pq.ParquetWriter(file, batch.schema) if kind == "parquet" else pa.ipc.new_file(file, batch.schema)
                )
            mask = np.frombuffer(bytes(kept[begin : begin + batch.num_rows]).ljust(batch.num_rows, b"\0"), dtype=bool)
            writer.write_table(pa.Table.from_batches([batch.filter(pa.array(mask))], batch.schema))
            begin += batch.num_rows
    return begin


def _batches(files: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    for path in files:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as table:
                yield from table.iter_batches(BATCH)
            continue
        with pa.memory_map(str(path)) as mapped:
            stream = mapped.read(6) != b"ARROW1"
            mapped.seek(0)
            opened = pa.ipc.open_stream(mapped) if stream else pa.ipc.open_file(mapped)
            yield from opened if stream else (opened.get_batch(i) for i in range(opened.num_record_batches))

"""Writing rows of an input as they were: text byte for byte, tables with their schema, metadata and row groups."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from undertow.data.sources.csvfiles import read_header
from undertow.data.sources.kinds import Kind, kind_of, packing_of
from undertow.data.sources.opening import DataFile, RawRow, Source
from undertow.data.sources.tables import (
    Form,
    Group,
    Lost,
    arrow_form,
    arrow_groups,
    first_line,
    parquet_form,
    parquet_groups,
)
from undertow.errors import DataError, OptionError
from undertow.files import write_atomically

__all__ = ["Decision", "Rewriter", "check_endings", "open_decisions"]

ROW_KINDS: Mapping[Kind, str] = {
    "jsonl": ".jsonl",
    "json": ".json",
    "csv": ".csv (each also .gz or .zst)",
    "parquet": ".parquet",
    "arrow": ".arrow",
}
"""What rows can be written as, with the endings that say so."""
DECISION_KINDS: Mapping[Kind, str] = {"csv": ".csv", "jsonl": ".jsonl"}

_TABLES: frozenset[Kind] = frozenset({"parquet", "arrow"})
_AS_THEY_ARE: Mapping[Kind, frozenset[Kind]] = {"csv": frozenset({"csv"}), "parquet": _TABLES, "arrow": _TABLES}
"""Of which kinds of input these kinds of output hold the rows without changing them. JSON takes all."""
_BATCH_ROWS = 1024
_GROUP_BYTES = 1 << 27
"""A row group of more bytes is written as several: what is held in memory stays bounded."""

Write = Callable[[pa.Table], None]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an input row stays, and why not."""

    row: int
    pair_id: str | None
    score: float | None
    kept: bool
    reason: str


def check_endings(out: Path, decisions: Path | None = None) -> None:
    """Refuse names whose endings say no kind of file that can be written.

    Raises:
        OptionError: they are such names.
    """
    _kind_to_write(out, "--out", ROW_KINDS)
    if decisions is not None:
        _kind_to_write(decisions, "--decisions", DECISION_KINDS)


class Rewriter:
    """Writes some rows of a source into a file, as they were. What the file cannot hold is refused on creation.

    Raises:
        OptionError: a name whose ending says no kind, or one that these rows cannot become as they are.
        DataError: the source cannot be read.
    """

    def __init__(self, source: Source, out: Path) -> None:
        self._source, self._out, self._kind = source, out, _kind_to_write(out, "--out", ROW_KINDS)
        self._header, self._form = b"", Form(pa.schema([]))
        if self._kind not in _AS_THEY_ARE:
            return
        kinds = {part.kind for part in source.parts} or {source.kind}
        if other := kinds - _AS_THEY_ARE[self._kind]:
            raise self._refusal(
                f"rows of {source.name} ({min(other)}) cannot be written as {self._kind} without changing them"
            )
        if self._kind == "csv":
            self._header = self._common_header(source.parts)
        else:
            self._form = self._common_form(source.parts)

    def write(self, kept: bytearray) -> int:
        """Write the rows that are marked in ``kept``, and return the number of all rows.

        Raises:
            DataError: a value that the file cannot hold; nothing is written then.
        """
        if self._kind in _TABLES:
            return self._write_table(kept)
        count = 0

        def staying() -> Iterator[RawRow]:
            nonlocal count
            for raw in self._source.rows():
                count = raw.row + 1
                if raw.row < len(kept) and kept[raw.row]:
                    yield raw

        with _open_packed(self._out) as file:
            if self._kind == "json":
                _write_list(file, staying())
            elif self._kind == "csv":
                _write_lines(file, (raw.raw or b"" for raw in staying()), self._header)
            else:
                as_they_are = {part.name for part in self._source.parts if part.kind == "jsonl"}
                _write_lines(
                    file,
                    (raw.raw if raw.raw and raw.file in as_they_are else _dumped(raw) + b"\n" for raw in staying()),
                )
        return count

    def _common_header(self, parts: Sequence[DataFile]) -> bytes:
        """The header of the first file. All have the same columns in the same order."""
        (first, raw), *others = (read_header(part.path, part.name) for part in parts)
        for part, (columns, _) in zip(parts[1:], others, strict=True):
            if columns != first:
                raise self._refusal(
                    f"{part.name} has the columns {', '.join(columns)}, and {parts[0].name} has {', '.join(first)}: "
                    "one CSV file cannot hold both as they are"
                )
        return raw

    def _common_form(self, parts: Sequence[DataFile]) -> Form:
        """As the first file is stored, with a schema that holds the rows of all, whole."""
        forms = [(parquet_form if part.kind == "parquet" else arrow_form)(part.path, part.name) for part in parts]
        schema = forms[0].schema
        for part, form in zip(parts, forms, strict=True):
            try:
                schema = _united(schema, form.schema)
            except (pa.ArrowException, ValueError) as error:
                raise self._refusal(
                    f"the columns of {part.name} and of the files before it do not fit into one table without loss "
                    f"({first_line(error)})"
                ) from error
        return Form(schema, forms[0].compression, forms[0].stream)

    def _write_table(self, kept: bytearray) -> int:
        """Row group by row group, with the rows that go taken out."""
        begin = 0
        try:
            with write_atomically(self._out) as file, self._writer(file) as write:
                for group in (group for part in self._source.parts for group in _groups(part)):
                    waiting: list[pa.Table] = []
                    for piece in group:
                        rows = piece.rows if isinstance(piece, Lost) else piece.num_rows
                        if not isinstance(piece, Lost):
                            waiting.append(_staying(piece, kept[begin : begin + rows], self._form.schema))
                        begin += rows
                        if sum(table.nbytes for table in waiting) > _GROUP_BYTES:
                            _flush(waiting, write)
                    _flush(waiting, write)
        except pa.ArrowException as error:
            raise DataError(
                f"{self._source.name} cannot be written as {self._kind} as it is: {first_line(error)}. "
                "Give --out a name that ends in .jsonl."
            ) from error
        return begin

    @contextlib.contextmanager
    def _writer(self, file: IO[bytes]) -> Iterator[Write]:
        schema = self._form.schema
        if self._kind == "parquet":
            with pq.ParquetWriter(file, schema, compression=self._form.compression) as parquet:
                yield lambda table: parquet.write_table(table, row_group_size=len(table))
        else:
            with (pa.ipc.new_stream if self._form.stream else pa.ipc.new_file)(file, schema) as arrow:
                yield arrow.write_table

    def _refusal(self, why: str) -> OptionError:
        return OptionError(f"--out {self._out}: {why}. Give it a name that ends in .jsonl.")


@contextlib.contextmanager
def open_decisions(path: Path) -> Iterator[Callable[[Decision], None]]:
    """What writes one line for each pair or bad row: ``.csv`` or ``.jsonl`` by the file's ending."""
    kind = _kind_to_write(path, "--decisions", DECISION_KINDS)
    names = [field.name for field in fields(Decision)]
    with _open_packed(path) as file:
        if kind == "jsonl":

            def write(decision: Decision) -> None:
                file.write(json.dumps({**asdict(decision), "score": _json_number(decision.score)}).encode() + b"\n")

            yield write
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(names)
        yield lambda decision: writer.writerow([getattr(decision, name) for name in names])
        text.detach()


def _json_number(score: float | None) -> float | str | None:
    return score if score is None or np.isfinite(score) else str(score)


def _kind_to_write(path: Path, option: str, kinds: Mapping[Kind, str]) -> Kind:
    """What a file to be written is, by its ending, in capitals or not; ``kinds`` are the ones there can be."""
    kind = kind_of(path)
    if kind is None or kind not in kinds:
        *others, last = kinds.values()
        raise OptionError(f"{option} {path}: expected a name that ends in {', '.join(others)} or {last}.")
    return kind


@contextlib.contextmanager
def _open_packed(path: Path) -> Iterator[IO[bytes]]:
    """A file as :func:`write_atomically` opens it, packed where its name says so."""
    with ExitStack() as stack:
        file: Any = stack.enter_context(write_atomically(path))
        packing = packing_of(path)
        if packing == ".gz":  # no name and no time in it: equal rows give equal bytes
            file = stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0))
        elif packing == ".zst":
            file = stack.enter_context(zstandard.ZstdCompressor().stream_writer(file, closefd=False))
        yield file


def _write_lines(file: IO[bytes], lines: Iterable[bytes], header: bytes = b"") -> None:
    """Lines as they are. One that ends its file without a line end gets one only where another line follows."""
    end, open_line = b"\r\n" if header.endswith(b"\r\n") else b"\n", False
    for line in itertools.chain([header] if header else [], lines):
        file.write(end + line if open_line else line)
        open_line = not line.endswith(b"\n")


def _write_list(file: IO[bytes], rows: Iterator[RawRow]) -> None:
    separator = b"[\n"
    for raw in rows:
        file.write(separator + _dumped(raw))
        separator = b",\n"
    file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def _dumped(raw: RawRow) -> bytes:
    try:
        return json.dumps(raw.value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and UTF-8 cannot
        return json.dumps(raw.value).encode()
    except TypeError as error:
        raise DataError(
            f"{raw.file}, line {raw.line}: holds a value that JSON cannot ({error}). "
            "Write the kind of file the data came in (--out with its ending)."
        ) from error


def _groups(part: DataFile) -> Iterator[Group]:
    if part.kind == "parquet":
        return parquet_groups(part.path, part.name, _BATCH_ROWS)
    return arrow_groups(part.path, part.name)


def _staying(batch: pa.RecordBatch, kept: bytearray, schema: pa.Schema) -> pa.Table:
    """The rows of a batch that stay, in the schema of the whole; columns that its file lacks are null."""
    mask = np.frombuffer(bytes(kept).ljust(batch.num_rows, b"\0"), dtype=bool)
    table = pa.Table.from_batches([batch.filter(pa.array(mask))], batch.schema)
    return _in_schema(table, schema)


def _in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    there = set(table.column_names)
    columns = [
        table[field.name].cast(field.type) if field.name in there else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _flush(waiting: list[pa.Table], write: Write) -> None:
    """Write what waits as one row group, and wait for the next."""
    table = pa.concat_tables(waiting).combine_chunks() if waiting else None
    if table is not None and len(table):
        write(table)
    waiting.clear()


def _united(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """A schema that holds the rows of two, whole; with the first's metadata, and its columns first.

    Raises:
        ValueError: there is none without loss.
        ArrowException: there is none at all.
    """
    if one.equals(other):
        return one
    found = pa.unify_schemas([one, other], promote_options="permissive")
    for schema in (one, other):
        for field in schema:
            to = found.field(field.name).type
            if _changes(field.type, to):
                raise ValueError(f"`{field.name}` is {field.type} in one of them and would become {to}")
        _in_schema(schema.empty_table(), found)
    return found.with_metadata(one.metadata)


def _changes(kind: pa.DataType, to: pa.DataType) -> bool:
    """Whether a promotion makes something else of the values than a wider form of the same."""
    same = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)
    text = (pa.types.is_string, pa.types.is_large_string)
    if any(is_text(kind) for is_text in text):
        return not any(is_text(to) for is_text in text)
    return any(is_kind(kind) and not is_kind(to) for is_kind in same)

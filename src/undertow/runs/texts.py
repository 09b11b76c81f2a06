"""The texts of a run's pairs, kept beside its scores for the pages that show them: their columns, writing, reading.

``texts.parquet`` has a row a pair, in the order of the scores: ``row``, ``pair_id``, ``prompt``, ``chosen``,
``rejected`` as they stood in the data, and ``by:NAME`` for each column that was asked for. It is written while the data
are read, a bounded number of pairs in memory, and copied into the run's folder once that is ours.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from undertow.data.pairs import Pair
from undertow.files import output_errors, write_atomically

__all__ = [
    "BY",
    "PAIR_TEXTS",
    "TEXTS",
    "Beginning",
    "TextLog",
    "keep_texts",
    "read_beginnings",
    "read_texts",
    "text_schema",
]

TEXTS = "texts.parquet"
PAIR_TEXTS = ("prompt", "chosen", "rejected")
"""The columns of a pair's texts."""
BY = "by:"
"""What the name of a column begins with that the user asked for."""

_BATCH_PAIRS, _BATCH_CHARACTERS = 1024, 1 << 23
_READ_PAIRS = 256


def text_schema(by: Sequence[str] = ()) -> pa.Schema:
    """The columns of ``texts.parquet``."""
    names = ("pair_id", *PAIR_TEXTS, *(BY + name for name in by))
    return pa.schema([("row", pa.int64()), *((name, pa.string()) for name in names)])


class TextLog:
    """Texts on their way to a file, pair by pair."""

    def __init__(self, path: Path, by: Sequence[str] = ()) -> None:
        self.path = path
        self._schema = text_schema(by)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[tuple[object, ...]] = []
        self._characters = 0

    def add(self, pair: Pair) -> None:
        """Append a pair."""
        texts = (pair.prompt_text, pair.chosen, pair.rejected)
        self._waiting.append((pair.row, pair.pair_id, *texts, *pair.by))
        self._characters += sum(map(len, texts))
        # By size too: a row group is held in memory by whoever reads it.
        if len(self._waiting) >= _BATCH_PAIRS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def close(self) -> None:
        """End the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            arrays = [pa.array(v, f.type) for v, f in zip(zip(*self._waiting, strict=True), self._schema, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._waiting, self._characters = [], 0


def keep_texts(texts: Path, folder: Path) -> None:
    """Copy the texts into a run's folder, whole or not at all; nothing is written where the same stands there."""
    with output_errors(folder):
        if (folder / TEXTS).is_file() and filecmp.cmp(texts, folder / TEXTS, shallow=False):
            return
    with texts.open("rb") as source, write_atomically(folder / TEXTS) as target:
        shutil.copyfileobj(source, target)


class Beginning(NamedTuple):
    """The first characters of a text, and how many it has."""

    text: str
    characters: int


def read_beginnings(folders: Sequence[Path], rows: Sequence[int], longest: int) -> dict[int, dict[str, Beginning]]:
    """At most so many characters of each text of some rows, by row; runs without texts, and other rows, are left out.

    A few pairs are in memory at a time: a text can be very long.
    """
    return {
        row: {name: Beginning(text[:longest], len(text)) for name, text in texts.items()}
        for folder in folders
        for row, texts in _texts(folder / TEXTS, rows)
    }


def read_texts(folder: Path, rows: Sequence[int]) -> dict[int, dict[str, str]]:
    """The whole texts of a few rows, by row; none where the run has no texts."""
    return dict(_texts(folder / TEXTS, rows))


def _texts(path: Path, rows: Sequence[int]) -> Iterator[tuple[int, dict[str, str]]]:
    if not path.exists():
        return
    wanted = pa.array(sorted(rows), pa.int64())
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_READ_PAIRS, columns=["row", *PAIR_TEXTS]):
            for entry in batch.filter(pc.is_in(batch["row"], wanted)).to_pylist():
                yield entry.pop("row"), entry

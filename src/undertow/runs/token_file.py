"""Tokens on disk between the first look at the data and the scoring.

Every row is read and tokenised once, before any weights are loaded: bad rows are all known by then, standard input is
read once only, and memory does not grow with the number of pairs, since what stands here is mapped, not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa

from undertow.data.tokens.encoder import TokenPair
from undertow.runs.repeats import Repeats

_BATCH = 256
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("pair_id", pa.string()),
        ("prompt", _IDS),
        ("chosen", _IDS),
        ("rejected", _IDS),
        ("truncated", pa.bool_()),
    ]
)
_NAMES = tuple(_SCHEMA.names)


class TokenFile:
    """Token pairs in an Arrow file: written once, then read from anywhere, with their count and tokens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pa.RecordBatchFileWriter | None = pa.ipc.new_file(str(path), _SCHEMA)
        self._waiting: list[TokenPair] = []
        self._reader: pa.RecordBatchFileReader | None = None
        self._repeats = Repeats()
        self.weights: Sequence[tuple[float, ...]] | None = None
        """What the tokens of each pair count, where that is known; see :class:`TokenPair`."""
        self.pairs = 0
        self.tokens = 0

    def add(self, pair: TokenPair) -> None:
        """Append a pair."""
        self._waiting.append(pair)
        self.pairs += 1
        self.tokens += pair.total
        if len(self._waiting) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        assert self._writer is not None
        columns = [[getattr(pair, name) for pair in self._waiting] for name in _NAMES]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        self._waiting = []

    def close(self, repeats: Repeats | None = None) -> None:
        """End writing; the pairs can be read from now on, each with the row that it repeats or contradicts."""
        self._repeats = repeats or self._repeats
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._reader = pa.ipc.open_file(pa.memory_map(str(self._path)))

    def read(self, begin: int, end: int, *, weighted: bool = False) -> Iterator[TokenPair]:
        """Pairs ``begin`` to ``end`` (exclusive), in order; ``weighted``: with what their tokens count."""
        assert self._reader is not None, "close() before read()"
        for index in range(begin // _BATCH, -(-min(end, self.pairs) // _BATCH)):
            batch = self._reader.get_batch(index)
            low, high = max(begin - index * _BATCH, 0), min(end - index * _BATCH, len(batch))
            some = batch.slice(low, high - low)
            rows = np.asarray(some["row"].to_numpy(), np.int64)
            repeated, opposed = self._repeats.duplicate_of.of(rows), self._repeats.contradicts.of(rows)
            first = index * _BATCH + low
            each = zip(count(first), some.to_pylist(), repeated, opposed, strict=False)
            for number, record, duplicate_of, contradicts in each:
                yield TokenPair(
                    row=record["row"],
                    pair_id=record["pair_id"],
                    prompt=tuple(record["prompt"]),
                    chosen=tuple(record["chosen"]),
                    rejected=tuple(record["rejected"]),
                    truncated=record["truncated"],
                    duplicate_of=duplicate_of,
                    contradicts=contradicts,
                    weights=tuple(self.weights[number]) if weighted and self.weights is not None else (),
                )

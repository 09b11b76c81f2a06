"""The first look at the data: every row read and tokenised, bad rows set aside, before any weights are loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from undertow.data.pairs import BadRow, Pair
from undertow.data.tokens.encoder import PairEncoder
from undertow.data.tokens.notes import EncodingNotes
from undertow.errors import SHOWN_BAD_ROWS, BadRowsError, DataError
from undertow.runs.progress import Watcher
from undertow.runs.repeats import PairHashes
from undertow.runs.settings import Shard
from undertow.runs.texts import TEXTS, TextLog
from undertow.runs.token_file import TokenFile


class BadRowLog:
    """Bad rows on disk: their count, the first few, and all of them again on reading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w", encoding="utf-8")
        self.first: list[BadRow] = []
        self.count = 0

    def add(self, bad: BadRow) -> None:
        """Set a row aside."""
        if self.count < SHOWN_BAD_ROWS:
            self.first.append(bad)
        self.count += 1
        self._file.write(json.dumps(bad.record()) + "\n")

    def __iter__(self) -> Iterator[BadRow]:
        self._file.flush()
        with self._path.open(encoding="utf-8") as lines:
            for line in lines:
                yield BadRow(**json.loads(line))

    def close(self) -> None:
        """No more rows to come."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run scores: the pairs of its shard as tokens, the rows set aside, and the fingerprint of *all* the data.

    ``fingerprint`` is a SHA-256 over every input row's number and pair id, whatever the shard: the shards of one data
    set know each other by it. ``tokens`` says how the shard's pairs became tokens, as a run's summary keeps it: the
    layout, and what happened to the responses. ``texts`` is the file with the pairs' texts, where it was asked for.
    """

    spool: TokenFile
    bad: BadRowLog
    fingerprint: str
    tokens: dict[str, object]
    texts: Path | None = None


@contextlib.contextmanager
def prepare(
    entries: Iterable[Pair | BadRow],
    encoder: PairEncoder,
    shard: Shard,
    on_bad_row: str,
    watch: Watcher,
    *,
    texts_by: Sequence[str] | None = None,
) -> Iterator[Prepared]:
    """Read and tokenise everything into a temporary folder that is gone when the context ends.

    With ``texts_by`` the texts are kept there too, and of each pair the values of these columns of the data. What
    happened to the responses on their way to tokens is told to ``watch``, also when no run comes of it.

    Raises:
        BadRowsError: with ``on_bad_row="stop"``, after all rows were looked at.
        DataError: when no pair is left.
    """
    watch.phase("reading and tokenising")
    with tempfile.TemporaryDirectory(prefix="undertow-") as folder:
        spool, bad = TokenFile(Path(folder, "tokens.arrow")), BadRowLog(Path(folder, "bad.jsonl"))
        texts = TextLog(Path(folder, TEXTS), texts_by) if texts_by is not None else None
        notes, hashes = encoder.notes(), PairHashes()
        with contextlib.closing(bad), contextlib.closing(texts) if texts else contextlib.nullcontext():
            fingerprint = _sort_out(entries, encoder, shard, watch, spool, bad, texts, notes, hashes)
            for sentence in notes.sentences():
                watch.note(sentence)
            if bad.count and on_bad_row == "stop":
                raise BadRowsError(bad.first, bad.count)
            if not spool.pairs:
                raise DataError(_nothing_left(bad, shard))
            spool.close(hashes.repeats())
            if texts:
                texts.close()
            tokens = encoder.describe() | notes.record()
            yield Prepared(spool, bad, fingerprint, tokens, texts.path if texts else None)


def _sort_out(
    entries: Iterable[Pair | BadRow],
    encoder: PairEncoder,
    shard: Shard,
    watch: Watcher,
    spool: TokenFile,
    bad: BadRowLog,
    texts: TextLog | None,
    notes: EncodingNotes,
    hashes: PairHashes,
) -> str:
    """Every entry into the spool or the log of bad rows; returns the fingerprint of all of them.

    Hashed is every pair, whatever the shard; noted are those of the shard.
    """
    digest = hashlib.sha256()
    for entry in entries:
        known_by = entry.pair_id if isinstance(entry, Pair) else ascii(entry.reason)
        digest.update(f"{entry.row} {known_by}\n".encode())
        if isinstance(entry, Pair):
            hashes.add(entry, known_by)
        if not shard.holds(entry.row):
            continue
        tokens = encoder.encode(entry, notes) if isinstance(entry, Pair) else entry
        if isinstance(tokens, BadRow):
            bad.add(tokens)
        else:
            spool.add(tokens)
            if texts and isinstance(entry, Pair):
                texts.add(entry)
            watch.advance(pairs=1, tokens=tokens.total)
    return digest.hexdigest()


def _nothing_left(bad: BadRowLog, shard: Shard) -> str:
    if bad.count:
        first = bad.first[0]
        return (
            f"No pair is left to score: all {bad.count} rows were set aside, the first ({first.place}): {first.reason}"
        )
    where = f" in shard {shard}" if shard.count > 1 else ""
    return f"The data holds no pairs{where}."

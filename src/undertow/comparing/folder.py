"""The folder of a comparison: what a killed run leaves is whole, what another run left is never mixed in.

DIR/settings.json           written first: whose numbers these are
DIR/.parts/part-00000.parquet …, tally-00003.npz
                            until the end: what a stopped run goes on from
DIR/skipped.jsonl           where rows were skipped
DIR/texts.parquet           the pairs' texts, for the report
DIR/pairs.parquet           one row a pair, whole or absent
DIR/compare.json            written last: only with it the run is finished
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from undertow.comparing.gains import Tally
from undertow.comparing.pairs import SCHEMA
from undertow.errors import DataError
from undertow.files import output_errors, write_atomically
from undertow.runs.folder import RunFolder
from undertow.runs.identity import JSON
from undertow.runs.names import COMPARE, PAIRS, SUMMARIES
from undertow.runs.parts import read_part, rows_in
from undertow.runs.texts import TEXTS

__all__ = ["COMMAND", "PAIRS", "SUMMARY", "CompareFolder", "read_comparison"]

COMMAND, SUMMARY = COMPARE, SUMMARIES[COMPARE]
_PARTS = ".parts"
_FORMER_MEANS = {
    "before_correct": "likelihood_accuracy_before",
    "after_correct": "likelihood_accuracy_after",
    "correct_change": "likelihood_accuracy_change",
}
"""Means by the names that an earlier version gave them; it had no ``reward_accuracy``."""


class CompareFolder(RunFolder):
    """The folder of a comparison."""

    command, summary_name = COMMAND, SUMMARY
    own = (PAIRS, TEXTS, _PARTS)
    work = (PAIRS, f"{_PARTS}/part-*.parquet")
    inner = (_PARTS,)

    def begin(self, identity: Mapping[str, JSON], settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Take the folder for a run, see :meth:`RunFolder.begin`."""
        super().begin(identity, settings, overwrite=overwrite)
        with output_errors(self.folder):
            if self.finished:
                self._drop_parts()
            else:
                self._parts.mkdir(exist_ok=True)

    @property
    def _parts(self) -> Path:
        return self.folder / _PARTS

    def _part(self, index: int) -> Path:
        return self._parts / f"part-{index:05d}.parquet"

    def _tally(self, parts: int) -> Path:
        return self._parts / f"tally-{parts:05d}.npz"

    def write_part(self, index: int, table: pa.Table, tally: Tally) -> None:
        """Write a part, and what the tokens gained in this and all parts before it; earlier sums go."""
        with write_atomically(self._part(index)) as file:
            pq.write_table(table, file, compression="zstd")
        path = self._tally(index + 1)
        with write_atomically(path) as file:
            np.savez(file, allow_pickle=False, **tally.arrays())
        with output_errors(self._parts):
            for older in self._parts.glob("tally-*.npz"):
                if older != path:
                    older.unlink()

    def progress(self, vocabulary: int) -> tuple[int, Tally]:
        """How many parts stand, counted from the first without a gap, and the tally up to there.

        A sum that is behind its parts, or cannot be read, wins: what it lacks is computed again.
        """
        whole = next(index for index in itertools.count() if rows_in(self._part(index)) is None)
        for parts in range(whole, 0, -1):
            if (found := _load_tally(self._tally(parts), vocabulary)) is not None:
                return parts, found
        return 0, Tally(vocabulary)

    def join(self, parts: int) -> None:
        """All parts into ``pairs.parquet``, one after another. Equal parts give equal bytes."""
        with write_atomically(self.folder / PAIRS) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as out:
            for index in range(parts):
                out.write_table(read_part(self._part(index)))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The joined table, or some of its columns."""
        return pq.ParquetFile(self.folder / PAIRS).read(columns)

    def summary(self) -> dict[str, Any]:
        """What ``compare.json`` holds; one that an earlier version wrote has its means under the names of today."""
        return _renamed(super().summary())

    def commit(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """End the run: write ``compare.json``, drop the parts, and return what it holds."""
        found = super().commit(summary)
        self._drop_parts()
        return found

    def _drop_parts(self) -> None:
        if self._parts.exists():
            shutil.rmtree(self._parts)

    @property
    def finished(self) -> bool:
        """Whether the run was committed and its table still stands."""
        try:
            pairs = self.summary()["data"]["pairs"]
        except (DataError, KeyError, TypeError):
            return False
        return bool(rows_in(self.folder / PAIRS) == pairs)


def read_comparison(folder: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """The table and the summary of a finished comparison.

    Raises:
        DataError: none stands there.
    """
    found = CompareFolder(Path(folder))
    summary = found.summary()
    return read_part(found.folder / PAIRS), summary


def _renamed(summary: dict[str, Any]) -> dict[str, Any]:
    means = summary.get("means")
    if not isinstance(means, dict) or "before_correct" not in means:
        return summary
    unknown = {"value": None, "low": None, "high": None}
    return summary | {
        "means": {"reward_accuracy": unknown} | {_FORMER_MEANS.get(name, name): found for name, found in means.items()}
    }


def _load_tally(path: Path, vocabulary: int) -> Tally | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Tally(vocabulary, dict(arrays))
    except (OSError, ValueError, KeyError, EOFError):
        return None

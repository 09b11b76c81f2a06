"""The folder of scores: what a killed run leaves is whole, what another run left is never mixed in.

    DIR/settings.json                 written first: whose scores these are
    DIR/scores/part-00000.parquet …   each whole or absent, in input order
    DIR/update-00003.npy              with --pull, until the end: the sum over the pairs of the first 3 parts
    DIR/texts.parquet                 the pairs' texts, for the report
    DIR/skipped.jsonl                 where rows were skipped
    DIR/forecast, DIR/*forecast.*     where training was forecast too; gone where other scores take the folder
    DIR/audit.json                    written last: only with it the run is finished

The identity in ``settings.json`` is everything the numbers depend on. Keys that begin with ``shard`` may differ between
the shards of one run; all others may not.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from undertow.data.pairs import BadRow
from undertow.files import output_errors, write_atomically
from undertow.runs.folder import RunFolder, read_command
from undertow.runs.identity import JSON
from undertow.runs.names import FORECAST, HELD_OUT_FORECAST, PAIR_FORECAST, SUMMARIES, TEXTS_FORECAST
from undertow.runs.parts import read_part, rows_in
from undertow.runs.skipped import write_skipped
from undertow.runs.texts import TEXTS
from undertow.scoring.shards import COMMAND, SCORES, SUMMARY, missing_part, part_path, read_scores, with_pull

_UPDATES = "update-*.npy"
_OF_A_FORECAST = (PAIR_FORECAST, HELD_OUT_FORECAST, TEXTS_FORECAST)

__all__ = ["JSON", "ScoreStore", "read_scores"]


class ScoreStore(RunFolder):
    """The folder of an audit."""

    command, summary_name = COMMAND, SUMMARY
    own = (SUMMARIES[FORECAST], *_OF_A_FORECAST, f"{SCORES}/part-*.parquet", TEXTS, _UPDATES)
    work = (f"{SCORES}/part-*.parquet",)
    inner = (SCORES,)

    def begin(self, identity: Mapping[str, JSON], settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Take the folder for a run, see :meth:`RunFolder.begin`; ``identity["shard"]`` is ``"I/N"``."""
        super().begin(identity, settings, overwrite=overwrite)
        with output_errors(self.folder):
            (self.folder / SCORES).mkdir(exist_ok=True)
            if self.finished:
                self.drop_updates()

    def _clear(self) -> None:
        super()._clear()
        if read_command(self.folder / FORECAST) == FORECAST:  # a folder of that name may be somebody else's
            shutil.rmtree(self.folder / FORECAST)

    def _part(self, index: int) -> Path:
        return part_path(self.folder, index)

    def finished_parts(self) -> int:
        """How many parts stand, counted from the first without a gap. What comes after a gap is removed.

        A part that cannot be opened counts as absent, and will be written again.
        """
        count = next(index for index in itertools.count() if rows_in(self._part(index)) is None)
        kept = {self._part(index) for index in range(count)}
        with output_errors(self.folder):
            for path in (self.folder / SCORES).glob("part-*.parquet"):
                if path not in kept:
                    path.unlink()
        return count

    def write_part(self, index: int, table: pa.Table) -> None:
        """Write a part, whole or not at all. Equal tables give equal bytes."""
        with write_atomically(self._part(index)) as file:
            pq.write_table(table, file, compression="zstd")

    def read_part(self, index: int) -> pa.Table:
        """One part that stands."""
        return read_part(self._part(index))

    def write_update(self, parts: int, update: NDArray[np.floating]) -> None:
        """Write the sum over the pairs of the first ``parts`` parts, to go on from; earlier sums go."""
        path = self._update(parts)
        with write_atomically(path) as file:
            np.save(file, update, allow_pickle=False)
        self.drop_updates(keep=path)

    def read_update(self, parts: int) -> NDArray[np.floating] | None:
        """The sum over the first ``parts`` parts; None where there is none that can be read."""
        try:
            found: NDArray[np.floating] = np.load(self._update(parts), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found

    def updated_parts(self) -> int:
        """How many parts the latest sum is over; 0 where there is none."""
        names = (path.stem.removeprefix("update-") for path in self.folder.glob(_UPDATES))
        return max((int(name) for name in names if name.isdigit()), default=0)

    def drop_updates(self, keep: Path | None = None) -> None:
        """Remove the sums; they serve only to go on."""
        with output_errors(self.folder):
            for path in self.folder.glob(_UPDATES):
                if path != keep:
                    path.unlink()

    def _update(self, parts: int) -> Path:
        return self.folder / f"update-{parts:05d}.npy"

    def read_parts(self) -> pa.Table:
        """All parts that stand, as one table."""
        return with_pull(pa.concat_tables(read_part(self._part(i)) for i in range(self.finished_parts())))

    def write_skipped(self, bad: Iterable[BadRow]) -> int:
        """Write the rows that were set aside, and return their number."""
        return write_skipped(self.folder, bad)

    def commit(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """End the run: write ``audit.json`` with the sizes of all parts, and return what it holds."""
        parts = [rows_in(self._part(index)) for index in range(self.finished_parts())]
        found = super().commit({**summary, "parts": parts})
        self.drop_updates()
        return found

    @property
    def finished(self) -> bool:
        """Whether the run was committed and all its parts still stand."""
        return (self.folder / SUMMARY).exists() and missing_part(self.folder) is None

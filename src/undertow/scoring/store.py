"""The folder of scores: what a killed run leaves is whole, what another run left is never mixed in.

    DIR/settings.json                 written first: whose scores these are
    DIR/scores/part-00000.parquet …   each whole or absent, in input order
    DIR/update-00003.npy              with --pull, until the end: the sum over the pairs of the first 3 parts
    DIR/skipped.jsonl                 where rows were skipped
    DIR/audit.json                    written last: only with it the run is finished

The identity in ``settings.json`` is everything the numbers depend on. Keys that begin with ``shard`` may differ between
the shards of one run; all others may not.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from undertow.data.pairs import BadRow
from undertow.errors import OutputError
from undertow.files import lock, output_errors, remove_leftovers, write_atomically, write_json
from undertow.scoring.shards import (
    JSON,
    SCORES,
    SETTINGS,
    SUMMARY,
    differences,
    missing_part,
    part_path,
    read_identity,
    read_part,
    read_scores,
    read_summary,
    rows_in,
)
from undertow.scoring.skipped import SKIPPED, write_skipped
from undertow.version import __version__

REPORT = "report.html"
_LOCK = ".lock"

__all__ = ["JSON", "ScoreStore", "read_scores"]


class ScoreStore:
    """One run's folder, for the process that writes it. :meth:`begin` takes the folder, :meth:`close` gives it back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None

    def check_writable(self) -> None:
        """Refuse a folder that is not ours or cannot be written, before any work. Changes nothing.

        Raises:
            OutputError: it is such a folder.
        """
        with output_errors(self.folder):
            _check_ours(self.folder)
            above = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
            if not os.access(above, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"no permission to write in {above}")

    def begin(self, identity: Mapping[str, JSON], settings: Mapping[str, JSON], *, overwrite: bool = False) -> None:
        """Take the folder for a run: make it, or go on in it when it holds the same run.

        Args:
            identity: all that the scores depend on; ``identity["shard"]`` is ``"I/N"``.
            settings: what was asked for, kept for people to read.
            overwrite: clear what an earlier run left; files of other programs stay.

        Raises:
            OutputError: the folder holds another run, or something else, or is being written by another process.
        """
        self.close()
        with output_errors(self.folder):
            _check_ours(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder / _LOCK)
            try:
                self._take_over(json.loads(json.dumps(identity)), settings, overwrite)
            except BaseException:
                self.close()
                raise

    def _take_over(self, identity: dict[str, JSON], settings: Mapping[str, JSON], overwrite: bool) -> None:
        """With the lock held: tidy up, compare, and write ``settings.json`` where there is none yet."""
        _check_ours(self.folder)
        for folder in (self.folder, self.folder / SCORES):
            remove_leftovers(folder)
        if overwrite:
            self._clear()
        if overwrite or not (self.folder / SETTINGS).exists():
            written = {"undertow": __version__, "identity": identity, "settings": settings}
            write_json(self.folder / SETTINGS, written)
        self._check_identity(identity)
        (self.folder / SCORES).mkdir(exist_ok=True)
        if self.finished:
            self.drop_updates()
        else:
            (self.folder / SUMMARY).unlink(missing_ok=True)

    def _check_identity(self, here: dict[str, JSON]) -> None:
        there = read_identity(self.folder) or {}
        if here == there:
            return
        found = differences(there, here, "there", "here")
        raise OutputError(
            f"{self.folder} holds the scores of another run:\n{found}\n"
            "Scores of two runs are never mixed. Choose another --out, or start over in this one with --overwrite "
            "(or delete the folder)."
        )

    def _clear(self) -> None:
        """Remove our own files, the commit point first. ``settings.json`` is then replaced, never absent: a kill in
        between leaves an unfinished run of the old identity, and no folder that we would not know again."""
        for name in (SUMMARY, SKIPPED, REPORT):
            (self.folder / name).unlink(missing_ok=True)
        for part in (self.folder / SCORES).glob("part-*.parquet"):
            part.unlink()
        self.drop_updates()

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
        names = (path.stem.removeprefix("update-") for path in self.folder.glob("update-*.npy"))
        return max((int(name) for name in names if name.isdigit()), default=0)

    def drop_updates(self, keep: Path | None = None) -> None:
        """Remove the sums; they serve only to go on."""
        with output_errors(self.folder):
            for path in self.folder.glob("update-*.npy"):
                if path != keep:
                    path.unlink()

    def _update(self, parts: int) -> Path:
        return self.folder / f"update-{parts:05d}.npy"

    def read_parts(self) -> pa.Table:
        """All parts that stand, as one table."""
        return pa.concat_tables(read_part(self._part(index)) for index in range(self.finished_parts()))

    def write_skipped(self, bad: Iterable[BadRow]) -> int:
        """Write the rows that were set aside, and return their number."""
        return write_skipped(self.folder, bad)

    def commit(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """End the run: write ``audit.json`` with the sizes of all parts, and return what it holds."""
        parts = [rows_in(self._part(index)) for index in range(self.finished_parts())]
        write_json(self.folder / SUMMARY, {**summary, "parts": parts})
        self.drop_updates()
        return self.summary()

    @property
    def finished(self) -> bool:
        """Whether the run was committed and all its parts still stand."""
        return (self.folder / SUMMARY).exists() and missing_part(self.folder) is None

    def summary(self) -> dict[str, Any]:
        """What ``audit.json`` holds.

        Raises:
            DataError: the run is not finished.
        """
        return read_summary(self.folder)

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _check_ours(folder: Path) -> None:
    """Refuse a folder with files of something else. Hidden files do not count: they are the system's, or our own."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file. Name a folder with --out.")
    if (folder / SETTINGS).exists():
        if read_identity(folder) is None:
            raise OutputError(f"{folder / SETTINGS} was not written by Undertow. Name another folder with --out.")
        return
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise OutputError(
            f"{folder} is not empty and not a score folder (it holds {shown}). Name a new or empty folder with --out."
        )

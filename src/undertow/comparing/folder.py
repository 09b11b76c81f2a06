"""The folder of a comparison: what a killed run leaves is whole, what another run left is never mixed in.

DIR/settings.json           written first: whose numbers these are
DIR/.parts/part-00000.parquet …, tally-00003.npz
                            until the end: what a stopped run goes on from
DIR/skipped.jsonl           where rows were skipped
DIR/pairs.parquet           one row a pair, whole or absent
DIR/compare.json            written last: only with it the run is finished
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from undertow.comparing.gains import Tally
from undertow.comparing.rows import SCHEMA
from undertow.errors import DataError, OutputError
from undertow.files import lock, output_errors, remove_leftovers, write_atomically, write_json
from undertow.scoring.shards import JSON, SETTINGS, differences, read_identity, read_part, rows_in
from undertow.scoring.skipped import SKIPPED
from undertow.version import __version__

__all__ = ["COMMAND", "PAIRS", "SUMMARY", "CompareFolder", "read_comparison"]

PAIRS, SUMMARY = "pairs.parquet", "compare.json"
COMMAND = "compare"
_PARTS, _LOCK = ".parts", ".lock"


class CompareFolder:
    """One run's folder, for the process that writes it. :meth:`begin` takes it, :meth:`close` gives it back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None

    def check_writable(self) -> None:
        """Refuse a folder that is not ours or cannot be written, before any work. Changes nothing.

        Raises:
            OutputError: it is such a folder.
        """
        with output_errors(self.folder):
            self._check_ours()
            above = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
            if not os.access(above, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"no permission to write in {above}")

    def begin(self, identity: Mapping[str, JSON], settings: Mapping[str, JSON], *, overwrite: bool = False) -> None:
        """Take the folder for a run: make it, or go on in it when it holds the same run.

        Args:
            identity: all that the numbers depend on.
            settings: what was asked for, kept for people to read.
            overwrite: clear what an earlier comparison left; files of other programs stay.

        Raises:
            OutputError: the folder holds another run, or something else, or is being written by another process.
        """
        self.close()
        here = json.loads(json.dumps({"command": COMMAND, **identity}))
        with output_errors(self.folder):
            self._check_ours()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder / _LOCK)
            try:
                self._take_over(here, settings, overwrite)
            except BaseException:
                self.close()
                raise

    def _take_over(self, identity: dict[str, JSON], settings: Mapping[str, JSON], overwrite: bool) -> None:
        self._check_ours()
        remove_leftovers(self.folder)
        remove_leftovers(self._parts)
        if overwrite:
            for name in (SUMMARY, PAIRS, SKIPPED):
                (self.folder / name).unlink(missing_ok=True)
            self._drop_parts()
        if overwrite or not (self.folder / SETTINGS).exists():
            write_json(
                self.folder / SETTINGS,
                {"undertow": __version__, "identity": identity, "settings": settings},
            )
        there = read_identity(self.folder) or {}
        if there != identity:
            raise OutputError(
                f"{self.folder} holds another comparison:\n{differences(there, identity, 'there', 'here')}\n"
                "Two comparisons are never mixed. Choose another --out, or start over in this one with --overwrite "
                "(or delete the folder)."
            )
        if self.finished:
            self._drop_parts()
        else:
            (self.folder / SUMMARY).unlink(missing_ok=True)
            self._parts.mkdir(exist_ok=True)

    def _check_ours(self) -> None:
        """Refuse a folder with files of something else. Hidden files do not count: they are the system's, or ours."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file. Name a folder with --out.")
        if (self.folder / SETTINGS).exists():
            if (read_identity(self.folder) or {}).get("command") != COMMAND:
                raise OutputError(
                    f"{self.folder / SETTINGS} was not written by `undertow compare`. Name another folder with --out."
                )
            return
        others = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        if others:
            shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
            raise OutputError(
                f"{self.folder} is not empty and holds no comparison (it holds {shown}). "
                "Name a new or empty folder with --out."
            )

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

    def commit(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """End the run: write ``compare.json``, drop the parts, and return what it holds."""
        write_json(self.folder / SUMMARY, summary)
        self._drop_parts()
        return self.summary()

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

    def summary(self) -> dict[str, Any]:
        """What ``compare.json`` holds.

        Raises:
            DataError: the run is not finished.
        """
        path = self.folder / SUMMARY
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.folder} holds no finished comparison: give its `undertow compare` command again."
            ) from error
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def read_comparison(folder: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """The table and the summary of a finished comparison.

    Raises:
        DataError: none stands there.
    """
    found = CompareFolder(Path(folder))
    summary = found.summary()
    return read_part(found.folder / PAIRS), summary


def _load_tally(path: Path, vocabulary: int) -> Tally | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Tally(vocabulary, dict(arrays))
    except (OSError, ValueError, KeyError, EOFError):
        return None

"""A run's folder: made for one run, written by one process at a time, and never shared by two runs.

Audits, comparisons and training runs differ in what they write; they agree in what stands here. ``settings.json`` is
written first and says whose run it is: its identity is everything that the results depend on, by hashes, not by names.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

from undertow.errors import DataError, OutputError
from undertow.files import lock, output_errors, remove_leftovers, without_nonfinite, write_json
from undertow.runs.identity import JSON, differences
from undertow.runs.names import TRACKING
from undertow.version import __version__

SETTINGS, SKIPPED, REPORT = "settings.json", "skipped.jsonl", "report.html"
AUDIT_REPORT = "audit.html"
"""The audit's page in a folder whose ``report.html`` is that of the forecast that went on from it."""
_LOCK = ".lock"
NAME_A_RUN = (
    "name a folder that `undertow audit`, `undertow forecast`, `undertow train` or `undertow compare` wrote, "
    "or the `folder` of a DisplacementCallback."
)


class RunFolder:
    """One run's folder, for the process that writes it. :meth:`begin` takes it, :meth:`close` gives it back.

    A subclass names its ``command``, the ``summary_name`` of the file that ends a run, its ``own`` files besides (names
    or patterns), which of these are ``work`` that another run's command must not undo, and the folders in which killed
    writers may leave something.
    """

    command: ClassVar[str]
    summary_name: ClassVar[str]
    own: ClassVar[tuple[str, ...]] = ()
    work: ClassVar[tuple[str, ...]] = ()
    inner: ClassVar[tuple[str, ...]] = ()

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

    def begin(self, identity: Mapping[str, JSON], settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Take the folder for a run: make it, or go on in it when it holds the same run.

        Args:
            identity: all that the results depend on.
            settings: what was asked for, kept for people to read.
            overwrite: clear what an earlier run left; files of other programs stay.

        Raises:
            OutputError: the folder holds another run, or something else, or is being written by another process.
        """
        self.close()
        with output_errors(self.folder):
            self._check_ours()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder / _LOCK)
            try:
                self._take_over(_as_json(identity), settings, overwrite)
            except BaseException:
                self.close()
                raise

    def check_run(self, identity: Mapping[str, JSON], *, overwrite: bool = False) -> None:
        """Refuse the folder when it holds another run, as far as that can be told by now. Changes nothing.

        Args:
            identity: what is known already of all that the results depend on.
            overwrite: whether another run will be cleared.

        Raises:
            OutputError: it does.
        """
        there = read_identity(self.folder) if (self.folder / SETTINGS).exists() else None
        if there is not None and not overwrite:
            known = {name: value for name, value in there.items() if name in identity}
            self._refuse_another(self._differences(known, _as_json(identity)))

    def _take_over(self, identity: dict[str, JSON], settings: Mapping[str, Any], overwrite: bool) -> None:
        """With the lock held: tidy up, compare, and write ``settings.json`` where there is none yet."""
        self._check_ours()
        for folder in (self.folder, *(self.folder / name for name in self.inner)):
            remove_leftovers(folder)
        new = not (self.folder / SETTINGS).exists()
        if not new:
            found = self._differences(read_identity(self.folder) or {}, identity)
            if not overwrite:
                self._refuse_another(found)
            if found or overwrite:
                self._clear()
                new = True
        if new:
            written = {"undertow": __version__, "command": self.command, "identity": identity, "settings": settings}
            write_json(self.folder / SETTINGS, json.loads(json.dumps(written, default=str)))
        if not self.finished:
            (self.folder / self.summary_name).unlink(missing_ok=True)

    def _differences(self, there: Mapping[str, JSON], here: Mapping[str, JSON]) -> str:
        """What differs between the run in the folder and this one, for people; nothing where they are the same."""
        return differences(there, here, "there", "here")

    def _refuse_another(self, found: str) -> None:
        """Refuse a run that differs from the one in the folder, unless that has come to nothing yet: a command that
        failed at once, because of a mistyped value, does not stand in the way of the one that is right."""
        begun = any(next(self.folder.glob(pattern), None) for pattern in (self.summary_name, *self.work))
        if found and begun:
            raise OutputError(
                f"{self.folder} holds another run:\n{found}\n"
                "Two runs are never mixed. Choose another --out, or start over in this one with --overwrite "
                "(or delete the folder)."
            )

    def _clear(self) -> None:
        """Remove our own files, the commit point first. ``settings.json`` is then replaced, never absent: a kill in
        between leaves an unfinished run of the old identity, and no folder that we would not know again."""
        for pattern in (self.summary_name, SKIPPED, REPORT, AUDIT_REPORT, *self.own):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check_ours(self) -> None:
        """Refuse a folder with files of something else. Hidden files do not count: they are the system's, or ours."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file. Name a folder with --out.")
        if (self.folder / SETTINGS).exists():
            if read_command(self.folder) != self.command:
                raise OutputError(
                    f"{self.folder / SETTINGS} was not written by `undertow {self.command}`. "
                    "Name another folder with --out."
                )
            return
        others = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        if others:
            shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
            raise OutputError(
                f"{self.folder} is not empty and holds no run of `undertow {self.command}` (it holds {shown}). "
                "Name a new or empty folder with --out."
            )

    @property
    def finished(self) -> bool:
        """Whether the run was committed, and what it made still stands."""
        return (self.folder / self.summary_name).exists()

    def commit(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """End the run: write its summary, and return what that holds."""
        write_json(self.folder / self.summary_name, without_nonfinite(summary))
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """What the summary holds.

        Raises:
            DataError: the run is not finished.
        """
        return read_summary(self.folder, self.command, self.summary_name)

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def read_summary(folder: Path, command: str, name: str) -> dict[str, Any]:
    """What the summary of a finished run holds.

    Raises:
        DataError: it is not there: the run is not finished.
    """
    if not (folder / name).exists():
        raise DataError(
            f"{folder} is not finished (no {name}): give its `undertow {command}` command again, "
            "it goes on where it stopped."
        )
    summary = _load(folder / name)
    return summary if isinstance(summary, dict) else {}


def is_callback_folder(folder: Path) -> bool:
    """Whether a callback in another library's trainer wrote this folder: a history, and no run of ours."""
    return (folder / TRACKING).is_file() and not (folder / SETTINGS).exists()


def check_there(folder: Path) -> None:
    """Refuse a path where no folder is, for what shows runs.

    Raises:
        DataError: nothing is there, or a file.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {found}: {NAME_A_RUN}")


def read_command(folder: Path) -> str | None:
    """Which command's run stands in a folder, or None where ``settings.json`` is not ours."""
    found = _settings(folder)
    if "command" not in found and "score version" in (read_identity(folder) or {}):
        return "audit"  # of a version that had no other command to tell it from
    command = found.get("command")
    return command if isinstance(command, str) else None


def read_identity(folder: Path) -> dict[str, JSON] | None:
    """All that a run's results depend on, or None where ``settings.json`` is not ours."""
    identity = _settings(folder).get("identity")
    return identity if isinstance(identity, dict) else None


def read_arguments(folder: Path) -> dict[str, Any]:
    """What a run was asked to do, as ``settings.json`` tells; empty where that is not ours."""
    found = _settings(folder).get("settings")
    return found if isinstance(found, dict) else {}


def _as_json(identity: Mapping[str, JSON]) -> dict[str, JSON]:
    """An identity as it will be read back."""
    found: dict[str, JSON] = json.loads(json.dumps(identity, default=str))
    return found


def _settings(folder: Path) -> dict[str, Any]:
    found = _load(folder / SETTINGS) if (folder / SETTINGS).exists() else None
    return found if isinstance(found, dict) else {}


def _load(path: Path) -> Any:
    """A JSON file's value, or None where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError:
        return None

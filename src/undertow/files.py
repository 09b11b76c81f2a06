"""Writing files whole or not at all, one writer at a time, with errors that say what to do.

A file is written under a temporary name in the folder where it will stand, brought to disk, and renamed: a process
that is killed at any moment leaves the old file, or none. Locks are the kernel's: they end with the process, however it
ends.

On Windows a file that is open cannot be renamed, so there the lock is given up just before the rename. A second writer
that comes in between makes one of the two fail; the file is whole all the same.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from filelock import lock_descriptor

from undertow.errors import OutputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BUFFER = 1 << 20
# Not inherited by a process that is started meanwhile; on Windows, bytes as they are.
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
_SUFFIX = ".tmp"
_WINDOWS = os.name == "nt"


def _codes(*names: str) -> frozenset[int]:
    """Error numbers by name; those that a system does not know are left out."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


FULL = _codes("ENOSPC", "EDQUOT")
"""Errors of a disk without room."""

FORBIDDEN = _codes("EACCES", "EPERM", "EROFS")
"""Errors of a place that may not be written to."""

# Some network file systems have no locks at all: there, nothing keeps two writers apart.
_NO_LOCKS = _codes("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EBADF")


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that stands at ``path`` when the context ends well, and leaves no trace when it does not.

    Folders above are created; a symbolic link is followed. An error of the operating system while writing is an
    :class:`OutputError`; any other exception of the body passes through.

    Raises:
        OutputError: ``path`` cannot be written, or another process is writing it.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    with output_errors(path):
        _check_target(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        file = io.BufferedWriter(_open_alone(temporary, Path(path)), _BUFFER)
    try:
        yield file
        with output_errors(path):
            file.flush()
            os.fsync(file.fileno())
            if _WINDOWS:
                file.close()
            temporary.replace(target)
    except BaseException:
        if _WINDOWS:  # nor can it be removed
            with contextlib.suppress(OSError, OutputError, ValueError):
                file.close()
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        # Closed, and so unlocked, only after the rename: until then nobody else may take the temporary file over. On
        # the way out of an error the flush inside close() fails once more, and says nothing new.
        with contextlib.suppress(OSError, OutputError, ValueError):
            file.close()
    with output_errors(path):
        _sync_folder(target.parent)


def write_json(path: str | Path, value: object) -> None:
    """Write a value as indented JSON, atomically. NaN and infinity are no JSON and are refused with a ValueError."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with write_atomically(path) as file:
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def without_nonfinite(value: object) -> object:
    """A value for JSON: NaN and infinities, which JSON lacks, as null; tuples as lists, keys as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): without_nonfinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nonfinite(inner) for inner in value]
    return value


@contextlib.contextmanager
def output_errors(path: str | Path) -> Iterator[None]:
    """Turn an error of the operating system into an :class:`OutputError` about ``path``, with the way out."""
    try:
        yield
    except OSError as error:
        raise OutputError(_explain(path, error)) from error


def lock(path: Path) -> IO[bytes]:
    """Hold ``path`` as a lock file until the returned file is closed or the process ends.

    Raises:
        OutputError: another process holds it.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        if not _try_lock(file.fileno()):
            file.close()
            raise OutputError(
                f"{path.parent}: another process is writing there. Wait until it has ended, or choose another --out."
            )
    return file


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder that nobody else writes to now."""
    with output_errors(folder):
        for path in sorted(folder.glob(f".*{_SUFFIX}")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _temporary(target: Path) -> Path:
    """One name for each target: the next writer takes over what a killed one left, and nothing piles up."""
    return target.with_name(f".{target.name}{_SUFFIX}")


class _OutputFile(io.FileIO):
    """A file whose write errors name the target: an error of reading at the same time stays what it is."""

    def __init__(self, descriptor: int, shown: Path) -> None:
        super().__init__(descriptor, "wb")
        self._shown = shown

    def write(self, data: Buffer, /) -> int:
        with output_errors(self._shown):
            return super().write(data)


def _open_alone(temporary: Path, shown: Path) -> _OutputFile:
    """The temporary file, empty and locked. Its permissions are those of any new file, not a private file's."""
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        try:
            if not _try_lock(descriptor):
                raise OutputError(
                    f"{shown}: another process is writing it. Wait until it has ended, or write elsewhere."
                )
            if _is_same_file(descriptor, temporary):
                os.ftruncate(descriptor, 0)
                return _OutputFile(descriptor, shown)
        except BaseException:
            os.close(descriptor)
            raise
        # The last writer finished between our open and our lock: what we hold is its result by now. Try again.
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _check_target(target: Path) -> None:
    """Refuse to replace what is no regular file: a rename would put a file in the place of a device."""
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise OutputError(f"{target} is a folder. Name a file to write to.")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{target} is not a regular file. Name a file to write to.")


def _sync_folder(folder: Path) -> None:
    """Bring a rename to disk: without this it may be undone by a power cut, though the file's bytes are safe."""
    if _WINDOWS:  # which opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Not every file system can sync a folder; those that cannot need none.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _explain(path: str | Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in FULL:
        way_out = "Free some space there or write to another disk; what was written before is whole."
    elif error.errno in FORBIDDEN:
        way_out = "Choose a place that you may write to, or change its permissions."
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        way_out = "A file stands where a folder is needed: choose another path."
    elif error.errno == errno.EFBIG:
        way_out = "The file is larger than this account or file system allows (see ulimit -f)."
    else:
        way_out = "Check the path and the disk, or write elsewhere."
    return f"{path} cannot be written: {reason}. {way_out}"

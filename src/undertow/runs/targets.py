"""What a command writes is none of what it reads: checked before anything is opened for writing.

Two paths are the same where they lead to the same file: by symbolic or hard links, by ``..``, or by capitals where the
disk makes no difference between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from undertow.data.sources.hub import is_repository, is_saved
from undertow.data.sources.kinds import kind_of
from undertow.errors import OptionError
from undertow.models.sources import ModelSource
from undertow.runs.folder import AUDIT_REPORT, REPORT, SETTINGS

__all__ = ["Input", "Target", "check_targets", "data_input", "file_input", "model_inputs", "run_input", "score_inputs"]


STANDARD_INPUT = "/dev/stdin"
"""Where there is such a path, it leads to the file that standard input was taken from, as by a shell's ``<``."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a command writes.

    ``option`` is how messages call it. A ``run`` is a folder that the command takes for itself, a ``folder`` one into
    which it puts files beside others.
    """

    option: str
    path: Path
    kind: Literal["file", "folder", "run"] = "file"

    def __str__(self) -> str:
        return f"{self.option} {self.path}"


def _nothing(_: Target) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Input:
    """What a command reads: a file, or a folder with the ``files`` in it that are read.

    ``takes`` says of a target inside the folder whether it would be read as a part of it from then on.
    """

    name: str
    path: Path
    files: tuple[Path, ...] = ()
    takes: Callable[[Target], bool] = _nothing


def check_targets(targets: Sequence[Target], inputs: Iterable[Input]) -> None:
    """Refuse targets that are, hold, or would become a part of what is read, or that are one and the same.

    Raises:
        OptionError: there is one; the message names it, and what it would have damaged.
    """
    read = list(inputs)
    for number, target in enumerate(targets):
        for other in targets[:number]:
            _check_apart(target, other)
        for one in read:
            _check_against(target, one)


def data_input(data: str | Path, split: str | None = None, name: str | None = None) -> Iterator[Input]:
    """What the data argument reads, as far as it lies on this disk."""
    path = Path(STANDARD_INPUT) if str(data) == "-" else Path(data).expanduser()
    shown = "standard input" if str(data) == "-" else f"the data {data}"
    if path.is_file():
        yield Input(shown, path)
    elif path.is_dir():
        deep = is_saved(path) or is_repository(path) or split is not None or name is not None

        def takes(target: Target) -> bool:
            if target.kind != "file":
                return deep
            reached = deep or _same(target.path.parent, path)
            return reached and kind_of(target.path) is not None and not target.path.name.startswith(".")

        yield Input(shown, path, tuple(_files(path, deep=deep)), takes)


def score_inputs(folders: str | Path | Iterable[str | Path]) -> Iterator[Input]:
    """What ``--scores`` reads: runs' folders, or folders that hold these."""
    for folder in map(Path, [folders] if isinstance(folders, str | Path) else folders):
        if (folder / SETTINGS).exists():
            yield _whole(f"the scores {folder}", folder)
        elif folder.is_dir():
            for settings in sorted(folder.glob(f"*/{SETTINGS}")):
                yield _whole(f"the scores {settings.parent}", settings.parent)

            def takes(target: Target, folder: Path = folder) -> bool:
                return target.kind == "run" and _same(target.path.parent, folder)

            yield Input(f"the scores {folder}", folder, takes=takes)


def model_inputs(*sources: ModelSource | None) -> Iterator[Input]:
    """What models are read from, as far as they lie on this disk."""
    for source in sources:
        if source is None:
            continue
        places = [Path(source.location) / source.gguf if source.gguf else Path(source.location), source.adapter]
        for path in (path for path in places if path is not None):
            if path.is_file():
                yield Input(f"the model {source.name}", path)
            elif path.is_dir():

                def takes(target: Target, path: Path = path) -> bool:
                    return target.kind == "file" and _same(target.path.parent, path)

                yield Input(f"the model {source.name}", path, tuple(_files(path, deep=False)), takes)


def run_input(folder: Path) -> Input:
    """What a page is made from: a run's folder, its pages apart."""
    pages = (folder / REPORT, folder / AUDIT_REPORT)
    files = (path for path in _files(folder, deep=True) if path not in pages)
    return Input(f"the run {folder}", folder, tuple(files) if folder.is_dir() else ())


def file_input(option: str, path: str | Path | None) -> Iterator[Input]:
    """A file of options, where one was given."""
    if path is not None:
        yield Input(f"the file of {option}", Path(path))


def _whole(name: str, folder: Path) -> Input:
    """A folder into which nothing is written at all."""
    return Input(name, folder, tuple(_files(folder, deep=True)), lambda _: True)


def _files(folder: Path, *, deep: bool) -> Iterator[Path]:
    return (path for path in (folder.rglob("*") if deep else folder.iterdir()) if path.is_file())


def _check_apart(target: Target, other: Target) -> None:
    if _same(target.path, other.path) and not target.kind == other.kind == "folder":
        raise OptionError(f"{target}: the same as {other.option}. Choose another place for one of them.")
    for outer, inner in ((target, other), (other, target)):
        if outer.kind == "run" and _inside(inner.path, outer.path):
            raise OptionError(f"{inner}: it is inside the folder of {outer}. Choose a place outside it.")


def _check_against(target: Target, one: Input) -> None:
    way_out = f"Choose another {'file' if target.kind == 'file' else 'folder'}."
    if _same(target.path, one.path):
        raise OptionError(f"{target} is the input itself: {one.name}. {way_out}")
    known = _identity(target.path)
    if known is not None and any(known == _identity(file) for file in one.files):
        raise OptionError(f"{target} is the input itself: a file of {one.name}. {way_out}")
    if target.kind == "run" and any(_inside(path, target.path) for path in (one.path, *one.files)):
        raise OptionError(f"{target}: {one.name} is inside it, and is still to be read. {way_out}")
    if _inside(target.path, one.path) and one.takes(target):
        raise OptionError(f"{target} is inside {one.name} and would be read as a part of it. Choose a place outside.")


def _same(one: Path, other: Path) -> bool:
    known = _identity(one), _identity(other)
    if None not in known:
        return known[0] == known[1]
    # What does not exist yet is compared by name: `a.csv` and `A.csv` are one file on many disks.
    return known == (None, None) and _real(one).casefold() == _real(other).casefold()


def _inside(path: Path, folder: Path) -> bool:
    inner, outer = Path(_real(path)), Path(_real(folder))
    return any(_same(above, outer) for above in inner.parents) if outer.exists() else outer in inner.parents


def _identity(path: Path) -> tuple[int, int] | None:
    """The file that a path leads to, also over ``..`` of folders that do not exist; None where there is none."""
    try:
        found = Path(_real(path)).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _real(path: Path) -> str:
    return os.path.realpath(path.expanduser() if str(path).startswith("~") else path)

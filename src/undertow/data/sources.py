"""Where rows come from: files, folders, standard input, folders saved by ``datasets``, the Hub. All are streamed."""

from __future__ import annotations

import difflib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from undertow.data.readers import READERS, kind_of
from undertow.errors import DataError

Kind = Literal["jsonl", "json", "csv", "parquet", "arrow", "datasets"]
ENDINGS = ".jsonl, .json, .csv (each also .gz or .zst), .parquet, .arrow"
STANDARD_INPUT = "<standard input>"


@dataclass(frozen=True, slots=True)
class RawRow:
    """An input row before it is understood: ``value``, or the ``error`` that kept it from being read.

    ``raw`` is a JSON line to the byte, with its line break; None for other kinds.
    """

    row: int
    file: str
    line: int
    value: dict[str, Any] | None
    error: str | None = None
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Rows that can be read as often as needed. ``name`` is how messages call it, ``kind`` that of its first file."""

    name: str
    kind: Kind
    files: tuple[Path, ...]
    _read: Callable[[], Iterator[RawRow]]

    def rows(self) -> Iterator[RawRow]:
        """All rows in order; their numbers run on over all files."""
        return self._read()


def open_source(data: str | Path, *, split: str | None = None, name: str | None = None) -> Source:
    """What the data argument means (contract, "The data argument").

    Raises:
        DataError: there is no such file, folder or data set, or it holds no data.
    """
    if str(data) == "-":
        return _standard_input()
    path = Path(data).expanduser()
    if path.is_dir():
        return _folder(path, split, name)
    if path.exists():
        if kind_of(path) is None:
            raise DataError(f"{path}: unknown kind of file. Expected one of {ENDINGS}.")
        return _files(str(data), [path])
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(data)) and kind_of(path) is None:
        return _repository(str(data), split, name)
    raise DataError(_not_there(path))


def from_rows(rows: Iterable[dict[str, Any]], name: str = "<rows>") -> Source:
    """Rows that are in memory already: a list of dictionaries, or a ``datasets.Dataset``."""

    def read() -> Iterator[RawRow]:
        for number, value in enumerate(rows):
            yield RawRow(number, name, number + 1, dict(value))

    return Source(name, "datasets", (), read)


def _files(name: str, paths: list[Path], shown: str | None = None) -> Source:
    def read() -> Iterator[RawRow]:
        number = 0
        for path in paths:
            for line, value, error, raw in READERS[kind_of(path) or ""](path):
                yield RawRow(number, shown or str(path), line, value, error, raw)
                number += 1

    return Source(name, kind_of(paths[0]), tuple(paths), read)  # type: ignore[arg-type]


def _standard_input() -> Source:
    """Copied to a temporary file first, since it is read more than once; the file goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="undertow-stdin-")
    path = Path(folder.name, "rows.jsonl")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    source = _files(STANDARD_INPUT, [path], shown=STANDARD_INPUT)
    _KEPT.append(folder)
    return source


_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # removed at exit


def _folder(path: Path, split: str | None, name: str | None) -> Source:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved(path, split)
    if split or name or _has_configurations(path / "README.md"):
        return _repository(str(path), split, name)
    paths = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".") and kind_of(p))
    if not paths:
        raise DataError(f"{path}: the folder holds no data files. Expected some of {ENDINGS}.")
    return _files(str(path), paths)


def _has_configurations(card: Path) -> bool:
    """Whether a dataset card says how its files are to be read."""
    return card.is_file() and bool(re.match(r"---\n(.*\n)*?configs:", card.read_text("utf-8", errors="replace")))


def _saved(path: Path, split: str | None) -> Source:
    """A folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets raises many kinds for a damaged folder
        raise DataError(f"{path}: a folder saved by datasets that cannot be read: {error}") from error
    return _dataset(str(path), _choose_split(str(path), loaded, split))


def _repository(name: str, split: str | None, configuration: str | None) -> Source:
    """A data set on the Hub, or a folder laid out like one; streamed."""
    import datasets

    try:
        loaded = datasets.load_dataset(name, configuration, streaming=True)
    except Exception as error:  # datasets and the Hub client raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{name}: no file or folder, and no data set that can be loaded: {reason} Is the name right, and can the "
            "Hub be reached? A local file works offline."
        ) from error
    return _dataset(name, _choose_split(name, loaded, split))


def _choose_split(name: str, loaded: Any, split: str | None) -> Any:
    if not isinstance(loaded, dict):
        if split:
            raise DataError(f"{name}: has no splits, so --split {split} cannot be chosen.")
        return loaded
    splits = ", ".join(loaded)
    if split is None:
        if len(loaded) > 1:
            raise DataError(f"{name}: has several splits ({splits}); choose one with --split.")
        return next(iter(loaded.values()))
    if split not in loaded:
        raise DataError(f"{name}: has no split {split!r}; it has {splits}.")
    return loaded[split]


def _dataset(name: str, dataset: Any) -> Source:
    def read() -> Iterator[RawRow]:
        for number, value in enumerate(dataset):
            yield RawRow(number, name, number + 1, value)

    return Source(name, "datasets", (Path(name),), read)


def _not_there(path: Path) -> str:
    near = path.parent if path.parent.is_dir() else Path()
    close = difflib.get_close_matches(path.name, [p.name for p in near.iterdir()], n=1)
    hint = f" Did you mean {near / close[0]}?" if close else ""
    return f"{path}: there is no such file or folder.{hint}"

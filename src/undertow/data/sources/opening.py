"""Where rows come from: files, folders, standard input, the Hub, or objects in memory. All are streamed."""

from __future__ import annotations

import contextlib
import difflib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from undertow.data.pairs import Message, Pair
from undertow.data.rows import RawRow, shown
from undertow.data.sources.csvfiles import read_csv
from undertow.data.sources.hub import dataset_rows, is_hub_id, is_repository, is_saved, open_repository, open_saved
from undertow.data.sources.jsonfiles import json_kind, read_json_list, read_jsonl
from undertow.data.sources.kinds import PACKED, Kind, kind_of
from undertow.data.sources.tables import read_arrow, read_parquet
from undertow.errors import DataError, OptionError

__all__ = ["DataFile", "RawRow", "Source", "check_there", "from_rows", "open_source"]

_READERS: dict[Kind, Callable[[Path, str, int], Iterator[RawRow]]] = {
    "jsonl": read_jsonl,
    "json": read_json_list,
    "csv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
_READABLE = "Undertow reads .jsonl, .ndjson, .json and .csv, each also .gz or .zst, and .parquet and .arrow"


DEMO, DEMO_NAME = "demo", "the demo's pairs"
"""As the data argument: the shipped pairs, unless a file or folder of that name is there; and how people call them."""
DEMO_SHORT = "demo-short"
"""Thirty of them with short responses, which a forecast is quick with."""
SHIPPED = {DEMO: ("pairs.jsonl", DEMO_NAME), DEMO_SHORT: ("short.jsonl", "the demo's short pairs")}


def demo_pairs() -> Path:
    """The shipped preference pairs: JSONL with ``prompt``, ``chosen``, ``rejected``, ``category``."""
    return Path(str(files("undertow") / "demo" / "pairs.jsonl"))


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a source: where it is, how messages and its rows call it, and what it is."""

    path: Path
    name: str
    kind: Kind


class Source:
    """Rows that can be read any number of times.

    ``name`` is how messages call it, ``kind`` what it is (that of its first file), ``files`` the files it consists of,
    ``parts`` what each of these is, where they are read one after another; ``holds_pairs`` says that its rows were made
    of :class:`Pair` objects.
    """

    name: str
    kind: Kind
    files: tuple[Path, ...] = ()
    parts: tuple[DataFile, ...] = ()
    holds_pairs: bool = False

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, numbered over all files; rows that cannot be read come with their error."""
        raise NotImplementedError


class _Files(Source):
    def __init__(self, name: str, files: list[DataFile]) -> None:
        self.name, self.kind = name, files[0].kind
        self.files = tuple(file.path for file in files)
        self.parts = tuple(files)

    def rows(self) -> Iterator[RawRow]:
        start = 0
        for file in self.parts:
            for raw in _READERS[file.kind](file.path, file.name, start):
                yield raw
                start = raw.row + 1


class _Spooled(_Files):
    """JSON lines from a stream that can be read only once, kept in a temporary file as long as this object lives."""

    def __init__(self, name: str, stream: Any) -> None:
        # Not a context: the file has to outlive this function. It is removed with the last reference to it.
        self._spool = tempfile.NamedTemporaryFile(prefix="undertow-", suffix=".jsonl")  # noqa: SIM115
        shutil.copyfileobj(stream, self._spool)
        self._spool.flush()
        super().__init__(name, [DataFile(Path(self._spool.name), name, "jsonl")])


class _Dataset(Source):
    kind = "datasets"

    def __init__(self, name: str, dataset: Any, files: Iterable[Path] = ()) -> None:
        self.name, self._dataset, self.files = name, dataset, tuple(files)

    def rows(self) -> Iterator[RawRow]:
        return dataset_rows(self._dataset, self.name)


class _Memory(Source):
    kind = "memory"

    def __init__(self, name: str, items: list[Any]) -> None:
        self.name, self._items = name, items
        self.holds_pairs = bool(items) and isinstance(items[0], Pair)

    def rows(self) -> Iterator[RawRow]:
        for row, item in enumerate(self._items):
            if isinstance(item, Pair):
                yield RawRow(row, item.file or self.name, item.line or row + 1, _pair_as_row(item))
            elif isinstance(item, Mapping):
                yield RawRow(row, self.name, row + 1, dict(item))
            else:
                error = f"the row is {shown(item)}, expected an object with named fields, or a Pair"
                yield RawRow(row, self.name, row + 1, None, error)


def open_source(data: str | Path, *, split: str | None = None, name: str | None = None) -> Source:
    """The rows of a file, a folder, ``-`` (JSON lines on standard input), or a Hub id.

    Args:
        data: what to read.
        split: which split, where there are several.
        name: which configuration, where there are several.

    Raises:
        DataError: it is not there, or not of a kind that can be read.
        OptionError: a split or a configuration of something that has none.
    """
    path = Path(data).expanduser()
    if str(data) in SHIPPED and not path.exists():
        file, called = SHIPPED[str(data)]
        return _open_file(Path(str(files("undertow") / "demo" / file)), called)
    with _readable(str(data)):
        if path.is_dir():
            return _open_folder(path, str(data), split, name)
        if path.exists() or str(data) == "-":
            _refuse_choice(str(data), split, name)
            return _open_file(path, str(data))
    if isinstance(data, str) and _may_be_on_hub(data, path):
        return _Dataset(data + (f" ({split})" if split else ""), open_repository(data, name, split))
    raise DataError(_not_found(path))


def check_there(data: str | Path) -> None:
    """Refuse a path where nothing is and that cannot be a Hub id, without opening anything.

    Raises:
        DataError: it is such a path; the message names what is near.
    """
    path = Path(data).expanduser()
    with _readable(str(data)):
        there = path.exists() or str(data) in ("-", *SHIPPED)
    if not there and not _may_be_on_hub(data, path):
        raise DataError(_not_found(path))


def _may_be_on_hub(data: str | Path, path: Path) -> bool:
    return isinstance(data, str) and is_hub_id(data) and kind_of(path) is None


def from_rows(items: Iterable[Any]) -> Source:
    """The rows of a ``datasets`` data set, or of any iterable of dicts or pairs."""
    if hasattr(items, "with_format") and hasattr(items, "features"):
        return _Dataset("the data set", items)
    if isinstance(items, Mapping):
        raise DataError(f"A mapping ({', '.join(map(str, list(items)[:8]))}) is no list of rows; give one split of it.")
    return _Memory("the given rows", list(items))


def _open_file(path: Path, name: str) -> Source:
    if name == "-":
        return _Spooled("standard input", sys.stdin.buffer)
    if not path.is_file():  # a pipe, such as a shell's <(…)
        with path.open("rb") as stream:
            return _Spooled(name, stream)
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{name} is of no kind that can be read by its name. {_READABLE}.{_unpack_hint(path)}")
    return _Files(name, [_file(path, name, kind)])


def _open_folder(path: Path, name: str, split: str | None, config: str | None) -> Source:
    shown_split = f" ({split})" if split else ""
    if is_saved(path):
        if config is not None:
            raise OptionError(f"--name {config}: {name} is a saved data set, which has no configurations.")
        files = sorted(path.rglob("*.arrow"))
        return _Dataset(name + shown_split, open_saved(path, split), files)
    if is_repository(path) or split is not None or config is not None:
        return _Dataset(
            name + shown_split, open_repository(str(path.resolve()), config, split), _data_files(path, True)
        )
    found = [(file, kind) for file in _data_files(path) if (kind := kind_of(file)) is not None]
    if not found:
        raise DataError(_nothing_inside(path))
    return _Files(name, [_file(file, str(file), kind) for file, kind in found])


def _file(path: Path, name: str, kind: Kind) -> DataFile:
    return DataFile(path, name, json_kind(path, name) if kind == "json" else kind)


def _data_files(folder: Path, deep: bool = False) -> list[Path]:
    """The data files of a folder by name; hidden ones and those of other kinds are not data."""
    inside = folder.rglob("*") if deep else folder.iterdir()
    return sorted(
        file for file in inside if file.is_file() and not file.name.startswith(".") and kind_of(file) is not None
    )


def _unpack_hint(path: Path) -> str:
    name = path.name.lower()
    for ending, command in PACKED.items():
        if name.endswith((f".parquet{ending}", f".arrow{ending}")):
            return f" Unpack it first: {command} {path}"
    return ""


def _refuse_choice(data: str, split: str | None, name: str | None) -> None:
    for option, value in (("--split", split), ("--name", name)):
        if value is not None:
            raise OptionError(f"{option} {value}: {data} is one file and has none to choose from; leave {option} away.")


def _nothing_inside(folder: Path) -> str:
    below = sorted(inner.name for inner in folder.iterdir() if inner.is_dir() and _data_files(inner))
    if below:
        return (
            f"{folder} holds no data files itself, but its folder{'s' if len(below) > 1 else ''} {', '.join(below)} "
            f"do{'es' if len(below) == 1 else ''}: give {folder / below[0]}, or name a --split."
        )
    return f"{folder} holds no data files. {_READABLE}."


def _not_found(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"{path} does not exist, nor does the folder {parent}."
    names = [file.name for file in parent.iterdir() if not file.name.startswith(".")]
    close = difflib.get_close_matches(path.name, names, n=3)
    hint = f" Did you mean {' or '.join(str(parent / name) for name in close)}?" if close else ""
    return f"{path} does not exist.{hint} A Hub data set is named owner/name."


def _pair_as_row(pair: Pair) -> dict[str, Any]:
    sides = {"chosen": (pair.chosen, pair.chosen_extra), "rejected": (pair.rejected, pair.rejected_extra)}
    tools = json.loads(pair.tools) if pair.tools else None
    if isinstance(pair.prompt, str) and not (pair.chosen_extra or pair.rejected_extra):
        return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected, "tools": tools}
    said = {name: [Message("assistant", *response).record()] for name, response in sides.items()}
    prompt = pair.prompt if isinstance(pair.prompt, str) else [message.record() for message in pair.prompt]
    return {"prompt": prompt, **said, "tools": tools}


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}.") from error

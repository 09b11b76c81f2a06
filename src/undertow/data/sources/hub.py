"""What the `datasets` library knows: data sets on the Hub, repositories of data files, and folders it has saved."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from undertow.data.rows import RawRow
from undertow.data.sources.tables import cells, check_columns, first_line
from undertow.errors import DataError

_BATCH = 64
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, ``owner/name``."""
    return _HUB_ID.fullmatch(name) is not None


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_repository(folder: Path) -> bool:
    """Whether a folder says itself, in its README, how its files are to be read."""
    with contextlib.suppress(OSError):
        front = _FRONT_MATTER.match((folder / "README.md").read_text("utf-8", errors="replace"))
        return front is not None and re.search(r"^configs:", front[1], re.MULTILINE) is not None
    return False


def open_saved(folder: Path, split: str | None) -> Any:
    """The data set in a folder written by ``save_to_disk``, memory-mapped."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{folder} cannot be read as a saved data set: {first_line(error)}.") from error
    return choose_split(found, split, str(folder))


def open_repository(where: str, name: str | None, split: str | None) -> Any:
    """A data set of a Hub id or a local repository, streamed.

    Raises:
        DataError: it is not there, cannot be reached, or has several configurations or splits and none was named.
    """
    import datasets

    try:
        found = datasets.load_dataset(where, name=name, streaming=True)
    except ConnectionError as error:
        raise DataError(
            f"{where} is no local file or folder, and the Hub cannot be reached for it ({first_line(error)}). Check "
            "the path, or for a data set on the Hub the network, and that HF_HUB_OFFLINE is not set."
        ) from error
    except Exception as error:  # builders raise whatever their file formats raise
        raise DataError(_not_loaded(where, error)) from error
    return choose_split(found, split, where)


def choose_split(found: Any, split: str | None, where: str) -> Any:
    """The split that was named, or the only one there is."""
    if not isinstance(found, Mapping):
        if split is not None and str(found.split) != split:
            what = f"is the split {found.split}, not {split}" if found.split else f"has no splits, so no {split}"
            raise DataError(f"{where} {what}; leave --split away.")
        return found
    names = ", ".join(map(str, found))
    if split is None and len(found) > 1:
        raise DataError(f"{where} has {len(found)} splits: {names}. Choose one with --split.")
    if split is not None and split not in found:
        raise DataError(f"{where} has no split {split}; it has {names}.")
    return found[split if split is not None else next(iter(found))]


def dataset_rows(dataset: Any, name: str) -> Iterator[RawRow]:
    """The rows of a ``datasets.Dataset`` or ``IterableDataset``; media columns are not decoded."""
    row = 0
    batches = dataset.with_format("arrow").iter(batch_size=_BATCH)
    while True:
        try:
            table = next(batches, None)
        except Exception as failure:  # as above: whatever the builder of its file format raises
            raise DataError(
                f"{name} cannot be read after row {row - 1}: {first_line(failure)}. Undertow tells which rows are "
                "broken when it is given the data files themselves."
            ) from failure
        if table is None:
            return
        if row == 0:
            check_columns(table.schema, name)
        for value, error in cells(table):
            yield RawRow(row, name, row + 1, value, error)
            row += 1


def _not_loaded(where: str, error: Exception) -> str:
    message = str(error)
    listed = re.search(r"(?:available configs|Available): \[([^\]]*)\]", message)
    if listed:
        return f"{where} has several configurations: {listed[1]}. Choose one of them with --name."
    return f"{where} cannot be loaded as a data set: {first_line(error)}."

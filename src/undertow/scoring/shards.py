"""Reading score folders: one run, or all shards of one, as one table; unfinished and mixed runs are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from undertow.errors import DataError, OptionError
from undertow.runs import folder as runs
from undertow.runs.folder import SETTINGS, read_command, read_identity
from undertow.runs.identity import JSON, differences
from undertow.runs.names import AUDIT, FORECAST, PAIR_FORECAST, SUMMARIES
from undertow.runs.parts import read_part, rows_in
from undertow.scoring.columns import COLUMNS, PULL, PULL_PARTS, PUSH

COMMAND, SUMMARY, SCORES = AUDIT, SUMMARIES[AUDIT], "scores"


def read_scores(folders: str | Path | Sequence[str | Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Read the scores of a finished run, or of all shards of one, as one table in the order of ``row``.

    Where the run was forecast too, the forecast's columns come after them.

    Args:
        folders: a run's folder, or the folders of all shards, or a folder whose sub-folders are these.
        columns: the columns wanted; all where None.

    Raises:
        DataError: not a score folder, an unfinished run, shards of different runs, a shard missing or there twice.
        OptionError: a column that the scores do not have; the message lists those they have.
    """
    runs = _find_runs([folders] if isinstance(folders, str | Path) else folders)
    _check_shards([(folder, _identity(folder)) for folder in runs])
    parts = [part_path(folder, i) for folder in runs for i in range(len(read_summary(folder)["parts"]))]
    if not parts:
        raise DataError(f"{', '.join(map(str, runs))}: no pair was scored there.")
    table = _in_row_order(with_pull(pa.concat_tables(read_part(path) for path in parts)))
    if len(runs) == 1:
        table = with_forecast(table, runs[0])
    unknown = [name for name in columns or () if name not in table.column_names]
    if unknown:
        raise OptionError(
            f"The scores have no column {unknown[0]!r}{where_from(unknown[0])}. They have: "
            f"{', '.join(table.column_names)}."
        )
    return table.select(list(columns)) if columns is not None else table


def with_pull(table: pa.Table) -> pa.Table:
    """Scores with the column ``pull``, which earlier versions wrote as its two parts only."""
    if PULL in table.column_names or not set(PULL_PARTS) <= set(table.column_names):
        return table
    own, others = (table[name] for name in PULL_PARTS)
    at = table.schema.get_field_index(PULL_PARTS[0])
    return table.add_column(at, PULL, pc.add(own, others))


def with_forecast(table: pa.Table, folder: Path) -> pa.Table:
    """The scores with the columns of a forecast that stands finished beside them.

    Raises:
        DataError: it is of other pairs.
    """
    path = folder / PAIR_FORECAST
    if not ((folder / SUMMARIES[FORECAST]).exists() and path.exists()):
        return table
    found = read_part(path)
    if any(not found[name].equals(table[name]) for name in ("row", "pair_id")):
        raise DataError(
            f"{path} is of other pairs than the scores beside it: give the `undertow forecast` command of {folder} "
            "again, with --overwrite."
        )
    for name in found.column_names:
        if name not in table.column_names:
            table = table.append_column(found.schema.field(name), found[name])
    return table


def where_from(name: str) -> str:
    """How a column that is not there is to be had, to go on a sentence; nothing where there is no such column."""
    option = next((column.option for column in COLUMNS if column.name == name), None)
    if option == "forecast" or name.startswith(f"{PUSH}:"):
        texts = " --texts …" if name.startswith(f"{PUSH}:") else ""
        return f": it is a forecast's, and `undertow forecast{texts}` into their folder adds it"
    return f": it comes with `undertow audit --{option}`" if option else ""


def _find_runs(folders: Sequence[str | Path]) -> list[Path]:
    runs: list[Path] = []
    for folder in map(Path, folders):
        below = sorted(path.parent for path in folder.glob(f"*/{SETTINGS}")) if folder.is_dir() else []
        if (folder / SETTINGS).exists():
            runs.append(folder)
        elif below:
            runs += below
        else:
            raise DataError(_not_scores(folder))
    if not runs:
        raise DataError("No score folder was given: name the folder that `undertow audit … --out` wrote.")
    return runs


def _not_scores(folder: Path) -> str:
    found = "does not exist" if not folder.exists() else "holds no scores (no settings.json)"
    if (folder.parent / SETTINGS).exists():
        return f"{folder} is inside a score folder: name {folder.parent} itself."
    return f"{folder} {found}: name the folder that `undertow audit … --out` wrote."


def _identity(folder: Path) -> dict[str, JSON]:
    """A finished run's identity."""
    identity = read_identity(folder)
    if identity is None or read_command(folder) != COMMAND:
        raise DataError(f"{folder / SETTINGS} was not written by `undertow audit`: name a folder that it wrote.")
    missing = missing_part(folder)
    if missing is not None:
        raise DataError(
            f"{missing} is missing or damaged: give the `undertow audit` command of {folder} again, "
            "it scores what is missing."
        )
    return identity


def _check_shards(runs: Sequence[tuple[Path, dict[str, JSON]]]) -> None:
    """Refuse folders that are not all the shards of one run, each once."""
    (first, identity), *others = runs
    for other, its_identity in others:
        found = differences(_common(identity), _common(its_identity), f"in {first}", f"in {other}")
        if found:
            raise DataError(f"{first} and {other} are not shards of one run:\n{found}")
    shards: dict[str, Path] = {}
    for folder, its_identity in runs:
        shard = str(its_identity.get("shard", "1/1"))
        if shard in shards:
            raise DataError(f"Shard {shard} is there twice: {shards[shard]} and {folder}. Name one of them.")
        shards[shard] = folder
    counts = sorted({shard.partition("/")[2] for shard in shards})
    if len(counts) > 1:
        raise DataError(f"Shards of different cuts were given ({', '.join(shards)}): name the folders of one cut only.")
    missing = [shard for i in range(int(counts[0])) if (shard := f"{i + 1}/{counts[0]}") not in shards]
    if missing:
        what = f"Shard {missing[0]} is" if len(missing) == 1 else f"Shards {', '.join(missing)} are"
        raise DataError(f"{what} missing: name the folders of all {counts[0]} shards, or the folder that holds them.")


def _common(identity: dict[str, JSON]) -> dict[str, JSON]:
    return {key: value for key, value in identity.items() if not key.startswith("shard")}


def _in_row_order(table: pa.Table) -> pa.Table:
    rows = table["row"].to_numpy()
    order = np.argsort(rows, kind="stable")
    doubled = np.flatnonzero(np.diff(rows[order]) == 0)
    if doubled.size:
        raise DataError(f"Row {rows[order[doubled[0]]]} is scored twice: these folders overlap.")
    return table if np.array_equal(order, np.arange(len(order))) else table.take(order)


def part_path(folder: Path, index: int) -> Path:
    """Where a part of the scores stands."""
    return folder / SCORES / f"part-{index:05d}.parquet"


def read_summary(folder: Path) -> dict[str, Any]:
    """What ``audit.json`` holds.

    Raises:
        DataError: it is not there: the run is not finished.
    """
    return runs.read_summary(folder, COMMAND, SUMMARY)


def missing_part(folder: Path) -> Path | None:
    """The first thing that a committed run lacks: its summary, or a part with as many rows as were committed."""
    sizes = read_summary(folder).get("parts")
    if not isinstance(sizes, list):
        return folder / SUMMARY
    parts = ((part_path(folder, index), rows) for index, rows in enumerate(sizes))
    return next((path for path, rows in parts if rows_in(path) != rows), None)

"""The pairs that a page holds with their texts: all of a few, else the worst and a spread of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from undertow.filtering.what_if import PREDICTORS
from undertow.reporting.audit.reading import Audited
from undertow.reporting.page.shell import embedded
from undertow.runs.texts import TEXTS
from undertow.wording.visible import LONGEST, shown

__all__ = ["MOST", "listed", "listing", "texts_of_rows"]

MOST = 2_000
LIMITS = (LONGEST, 2_000, 1_000, 500, 250)
"""Characters of a text: the first of these that keeps all texts within ``BUDGET`` bytes."""
BUDGET = 9_000_000
PARTS = ("prompt", "chosen", "rejected")
NUMBERS = ("dlogp_chosen", "dlogp_rejected", "ln_ches", "edit_distance", "chosen_tokens", "rejected_tokens")
_DIGITS = 5

Beginning = tuple[str, int]
"""The first characters of a text, and how many it has."""


def listed(audited: Audited) -> NDArray[np.intp]:
    """Which pairs the page lists, the worst first: all, else the worst half of those and the others evenly spread."""
    order = audited.worst_first()
    if len(order) <= MOST:
        return order
    worst, rest = order[: MOST // 2], order[MOST // 2 :]
    spread = np.linspace(0, len(rest) - 1, MOST - MOST // 2).round().astype(np.intp)
    return np.concatenate([worst, rest[spread]])


def listing(audited: Audited) -> dict[str, Any]:
    """What the table of pairs is made of: names of columns, and rows in their order."""
    chosen = listed(audited)
    numbers = [name for name in NUMBERS if name in audited.table.column_names]
    part = audited.table.take(pa.array(chosen))
    rows = part["row"].to_pylist()
    columns: list[list[Any]] = [rows]
    if audited.exact:
        columns.append(part["case"].to_pylist())
    columns += [_rounded(part[name]) for name in numbers]
    columns += [[group.labels[group.index[n]] for n in chosen] for group in audited.groups.values()]
    limit, texts = _within_budget(texts_of_rows(audited.runs, rows))
    columns += [[texts[row][at] if row in texts else None for row in rows] for at in range(len(PARTS))]
    return {
        "case": audited.exact,
        "numbers": numbers,
        "by": list(audited.groups),
        "rows": [list(row) for row in zip(*columns, strict=True)],
        "total": audited.pairs,
        "sort": audited.by if audited.by in numbers else None,
        "down": PREDICTORS[audited.by] == "highest",
        "texts": bool(texts),
        "limit": limit,
    }


def texts_of_rows(folders: Sequence[Path], rows: Sequence[int]) -> dict[int, tuple[Beginning, ...]]:
    """The beginnings of prompt, chosen and rejected of some rows. Read a piece at a time: a text can be very long."""
    wanted = pa.array(sorted(rows), pa.int64())
    return dict(found for folder in folders for found in _found(folder / TEXTS, wanted))


def _found(path: Path, wanted: pa.Array) -> Iterator[tuple[int, tuple[Beginning, ...]]]:
    if not path.exists():
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256, columns=["row", *PARTS]):
            some = batch.filter(pc.is_in(batch["row"], wanted))
            for entry in some.to_pylist():
                yield entry["row"], tuple((entry[part][:LONGEST], len(entry[part])) for part in PARTS)


def _within_budget(texts: dict[int, tuple[Beginning, ...]]) -> tuple[int, dict[int, list[str]]]:
    for limit in LIMITS:
        found = {
            row: [shown(text, limit, characters=count) for text, count in beginnings]
            for row, beginnings in texts.items()
        }
        if sum(len(embedded(text).encode()) for of_row in found.values() for text in of_row) <= BUDGET:
            break
    return limit, found


def _rounded(values: pa.ChunkedArray) -> list[float | int | None]:
    if pa.types.is_integer(values.type):
        found: list[float | int | None] = values.to_pylist()
        return found
    return [None if value is None else float(f"{value:.{_DIGITS}g}") for value in values.to_pylist()]

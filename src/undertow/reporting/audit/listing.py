"""The pairs that a page holds with their texts: all of a few, else the worst and a spread of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undertow.reporting.audit.reading import AuditRun
from undertow.reporting.page.shell import embedded
from undertow.runs.texts import PAIR_TEXTS, Beginning, read_beginnings
from undertow.scoring.columns import PREDICTORS, shown_in
from undertow.wording.names import HEADINGS
from undertow.wording.visible import LONGEST, shown

__all__ = ["MOST", "listing", "rows_shown"]

MOST = 2_000
LIMITS = (LONGEST, 2_000, 1_000, 500, 250)
"""Characters of a text: the first of these that keeps all texts within ``BUDGET`` bytes."""
BUDGET = 9_000_000
_DIGITS = 5


def rows_shown(run: AuditRun) -> NDArray[np.intp]:
    """Which pairs the page lists, the worst first: all, else the worst half of those and the others evenly spread."""
    order = run.worst_first()
    if len(order) <= MOST:
        return order
    worst, rest = order[: MOST // 2], order[MOST // 2 :]
    spread = np.linspace(0, len(rest) - 1, MOST - MOST // 2).round().astype(np.intp)
    return np.concatenate([worst, rest[spread]])


def listing(run: AuditRun) -> dict[str, Any]:
    """What the table of pairs is made of: names of columns, and rows in their order."""
    chosen = rows_shown(run)
    numbers = [name for name in shown_in("page") if name in run.table.column_names]
    part = run.table.take(pa.array(chosen))
    rows = part["row"].to_pylist()
    columns: list[list[Any]] = [rows]
    if run.exact:
        columns.append(part["case"].to_pylist())
    columns += [_rounded(part[name]) for name in numbers]
    columns += [[group.labels[group.index[n]] for n in chosen] for group in run.groups.values()]
    limit, texts = _within_budget(read_beginnings(run.runs, rows, LONGEST))
    columns += [[texts[row][name] if row in texts else None for row in rows] for name in PAIR_TEXTS]
    return {
        "case": run.exact,
        "numbers": numbers,
        "headings": {name: HEADINGS[name] for name in numbers},
        "by": list(run.groups),
        "rows": [list(row) for row in zip(*columns, strict=True)],
        "total": run.pairs,
        "sort": run.by if run.by in numbers else None,
        "down": PREDICTORS[run.by] == "highest",
        "texts": bool(texts),
        "limit": limit,
    }


def _within_budget(texts: Mapping[int, Mapping[str, Beginning]]) -> tuple[int, dict[int, dict[str, str]]]:
    """The texts cut so that all of them fit, and at how many characters."""
    for limit in LIMITS:
        found = {
            row: {name: shown(one.text, limit, characters=one.characters) for name, one in beginnings.items()}
            for row, beginnings in texts.items()
        }
        if sum(len(embedded(text).encode()) for of_row in found.values() for text in of_row.values()) <= BUDGET:
            break
    return limit, found


def _rounded(values: pa.ChunkedArray) -> list[float | int | None]:
    if pa.types.is_integer(values.type):
        found: list[float | int | None] = values.to_pylist()
        return found
    return [None if value is None else float(f"{value:.{_DIGITS}g}") for value in values.to_pylist()]

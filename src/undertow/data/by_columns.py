"""Columns of the data besides the pair's own, by which pairs are looked at in groups: a category, a source, a grade."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from undertow.data.rows import RawRow
from undertow.errors import OptionError

__all__ = ["check_columns", "merged", "values_of"]

LOOKED_AT = 100
"""Rows in which a column must turn up."""


def check_columns(rows: Iterable[RawRow], wanted: Sequence[str]) -> None:
    """Refuse a column that none of the first rows has.

    Raises:
        OptionError: with the columns that there are.
    """
    there: dict[str, None] = {}
    for raw in islice(rows, LOOKED_AT):
        there.update(dict.fromkeys(map(str, raw.value or {})))
    for name in wanted:
        if there and name not in there:
            raise OptionError(
                f"--by {name}: the data have no such column. They have {', '.join(there)} "
                f"(as far as their first {LOOKED_AT} rows tell)."
            )


def values_of(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """The values of some columns as text: a string as it stands, anything else as JSON; empty where there is none."""
    return tuple(_text(row.get(name)) for name in names)


def merged(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    """The values of a pair that was made of two rows: both, where they differ."""
    return tuple(a if a == b else f"{a} / {b}" for a, b in zip(one, other, strict=True))


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return value.encode("utf-8", "backslashreplace").decode("utf-8")

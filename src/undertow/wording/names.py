"""Columns of the scores and cases of pairs, as people call them; the columns from their declarations."""

from __future__ import annotations

from undertow.data.sources.opening import DEMO, DEMO_NAME
from undertow.scoring.columns import COLUMNS

__all__ = [
    "AXES",
    "CASE_LABELS",
    "CASE_TAGS",
    "HEADINGS",
    "LABELS",
    "MEASURE_LABELS",
    "WHAT",
    "column_table",
    "data_name",
]

LABELS = {column.name: column.label or column.name for column in COLUMNS}
AXES = {column.name: f"{column.name} ({column.unit})" if column.unit else column.name for column in COLUMNS}
WHAT = {column.name: column.meaning.replace("`", "") for column in COLUMNS}
HEADINGS = {column.name: (column.heading or column.name, f"{WHAT[column.name]} ({column.name})") for column in COLUMNS}
"""What stands above a column of the page's table, and what is said where the reader points at it."""
CASE_LABELS = {
    2: "both down",
    4: "chosen down, rejected up",
    1: "chosen up, rejected down",
    3: "both up",
    0: "no gradient",
    -1: "unknown",
}
"""By code, the cases in which the chosen response falls first."""
CASE_TAGS = {
    2: "both ↓",
    4: "chosen ↓ rejected ↑",
    1: "chosen ↑ rejected ↓",
    3: "both ↑",
    0: "no gradient",
    -1: "unknown",
}
"""The same for a narrow cell."""
MEASURE_LABELS = {
    "own": "a step on the pair alone",
    "free": "the same, hidden embeddings free",
    "pull": "the gradient of all pairs",
}
_TYPES = {"double": "float64"}


def data_name(data: object) -> str:
    """The data argument of a run, for people."""
    return DEMO_NAME if data == DEMO else str(data)


def column_table() -> str:
    """All columns as a Markdown table, as ``docs/audit.md`` holds it."""
    lines = ["| column | type | level | meaning |", "|---|---|---|---|"]
    for column in COLUMNS:
        levels = {"": column.level, "pull": f"{column.level}, with `--pull`"}
        level = levels.get(column.option, f"`undertow {column.option}`")
        unit = f" In {column.unit}." if column.unit and column.unit not in column.meaning.lower() else ""
        kind = _TYPES.get(str(column.type), column.type)
        lines.append(f"| `{column.name}` | {kind} | {level} | {column.meaning}{unit} |")
    return "\n".join(lines)

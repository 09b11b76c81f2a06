"""Cells that hold JSON as text, as CSV files and exports of tables do: read as what they say."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from undertow.data.layouts.values import MisfitError, Row, is_turn, is_turns
from undertow.data.layouts.vocabulary import CANDIDATES, HISTORY, SCORES, TOOLS

# Columns that no layout has as text: a list in their text is meant as one.
_LISTS = frozenset({*CANDIDATES, *SCORES, *HISTORY, *TOOLS})
_OPENING = ("[", "{")
_LIKE_TURNS = re.compile(r"\A\s*\[\s*\{.{0,200}?['\"](?:role|from)['\"]\s*:", re.DOTALL)


def opened(row: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The row with its cells of JSON text as lists of messages, or other lists, and the names of those columns.

    Raises:
        MisfitError: a cell looks like a list of messages and is no JSON.
    """
    found = {
        name: value
        for name, text in row.items()
        if isinstance(text, str) and text[:64].lstrip()[:1] in _OPENING and (value := _value(name, text)) is not None
    }
    return ({**row, **found}, tuple(found)) if found else (row, ())


def _value(name: str, text: str) -> Any:
    turns = "role" in text or "from" in text
    if not turns and name not in _LISTS:
        return None
    value = _parsed(text)
    if is_turns(value) or (is_turn(value) and _is_whole_turn(value)) or (name == "input" and _has_messages(value)):
        return value
    if name in _LISTS and isinstance(value, list):
        return value
    if value is None and _LIKE_TURNS.match(text):
        raise MisfitError(f"`{name}` looks like a list of messages, but is no JSON that can be read")
    return None


def _parsed(text: str) -> Any:
    """JSON, or what Python writes for the same (single quotes, None), as pandas puts it into CSV files."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if "'" not in text:
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _is_whole_turn(value: Row) -> bool:
    return {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()


def _has_messages(value: object) -> bool:
    return isinstance(value, dict) and is_turns(value.get("messages"))

"""A row as it comes from a source, before anyone asks what layout it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRow:
    """One input row: its value, or the reason why there is none.

    ``row`` is the 0-based position in the whole input, over all files; ``line`` the 1-based line in a text file, the
    1-based row in a table. ``raw`` holds the bytes of a JSON line or of a CSV record, its newline included if it had
    one (a byte order mark belongs to the file, not to the row); it is None for all other kinds of source.
    """

    row: int
    file: str
    line: int
    value: dict[str, Any] | None
    error: str | None = None
    raw: bytes | None = None


def shown(value: object) -> str:
    """What a value is, for messages: its type and a short look at it, without control characters."""
    match value:
        case None:
            return "null"
        case bool():
            return f"a truth value ({str(value).lower()})"
        case int() | float():
            return f"a number ({_short(value)})"
        case str():
            return f"a string ({_short(value)})" if value else "an empty string"
        case list() | tuple():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return f"an object with {', '.join(f'`{_plain(key)}`' for key in list(value)[:6]) or 'no keys'}"
    return f"a {type(value).__name__} ({_short(value)})"


def _short(value: object, longest: int = 40) -> str:
    text = repr(value[: longest + 1] if isinstance(value, str) else value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _plain(key: object) -> str:
    return repr(str(key)[:40])[1:-1]

"""JSON lines, and a JSON list read element by element, be it the whole file or the rows that a viewer exports.

The list is split with the standard library's own scanner: it keeps lone surrogates and NaN as they are, and lets one
look for keys that stand twice, where the C parsers for streams change or refuse them.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from undertow.data.rows import RawRow, shown
from undertow.data.sources.textblocks import BrokenStreamError, blocks, lines
from undertow.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")
# An error this near to the end of what was read may only mean that more must be read.
_NEAR_END = 64
_FIRST_LINE = 1 << 24
# What a dataset viewer's answer has beside its rows: `{"features": …, "rows": [{"row_idx": …, "row": {…}}], …}`.
_VIEWER_KEYS = ("features", "num_rows_total", "num_rows_per_page", "partial", "dataset", "config", "split")


class _Reader(json.JSONDecoder):
    """A decoder that remembers the first key that stood twice in one object since ``twice`` was last reset."""

    def __init__(self) -> None:
        self.twice: str | None = None
        super().__init__(object_pairs_hook=self._object, parse_int=_integer)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs) and self.twice is None:
            seen: set[str] = set()
            self.twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return value


def read_jsonl(path: Path, name: str, start: int) -> Iterator[RawRow]:
    """Rows of a file of JSON lines; blank lines are not rows. ``start`` is the number of the first row."""
    row, line, reader = start, 0, _Reader()
    try:
        for line, raw in enumerate(lines(blocks(path, name)), start=1):
            if not raw.strip():
                continue
            value, error = _object_of(raw, reader)
            if row == start and raw.lstrip().startswith(b"["):
                _refuse_list(raw, name)
            yield RawRow(row, name, line, value, error, raw)
            row += 1
    except BrokenStreamError as error:
        yield RawRow(row, name, line + 1, None, str(error))


def read_json_list(path: Path, name: str, start: int) -> Iterator[RawRow]:
    """Rows of a file that is one JSON list of objects, streamed. What cannot be parsed ends it, with an error row.

    Of what a dataset viewer exports, a row is what stands under `row`.
    """
    text = _Text(blocks(path, name))
    row = start
    try:
        first = text.skip_space()
        if not first:
            return
        inside = first == "{"
        if inside and not _go_to_rows(text):
            raise _SyntaxError("not JSON: expected a list of rows")
        text.take("[")
        for line, value, error in _elements(text, last=not inside):
            if inside and value is not None:
                value, error = _viewed(value)
            yield RawRow(row, name, line, value, error)
            row += 1
    except (BrokenStreamError, _SyntaxError) as error:
        yield RawRow(row, name, text.line, None, f"{error}; the rest of the file cannot be read")


def json_kind(path: Path, name: str) -> Literal["json", "jsonl"]:
    """Whether a ``.json`` file is a list (or a viewer's export, with one inside) or JSON lines.

    Raises:
        DataError: it is neither.
    """
    try:
        first, alone = _first_line(path, name)
    except BrokenStreamError:  # the reader of the whole file will say where
        return "json"
    if not first or first.startswith(b"["):
        return "json"
    if first.startswith(b"{") and _is_export(path, name):
        return "json"
    value, _ = _object_of(first, _Reader())
    if first.startswith(b"{") and (value is not None or first.endswith(b"}") or len(first) >= _FIRST_LINE):
        inner = _inner_list(value) if value and alone else None
        if inner is None:
            return "jsonl"
        raise DataError(_not_a_list(name, "one object", inner))
    if first.startswith(b"{"):
        raise DataError(_not_a_list(name, "one object"))
    raise DataError(_not_a_list(name, "neither a list nor an object"))


def _object_of(raw: bytes, reader: _Reader) -> tuple[dict[str, Any] | None, str | None]:
    reader.twice = None
    try:
        value = reader.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, f"invalid UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1})"
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    except RecursionError:
        return None, "not JSON that can be read: nested too deeply"
    return _checked(value, reader)


def _checked(value: Any, reader: _Reader) -> tuple[dict[str, Any] | None, str | None]:
    if reader.twice is not None:
        return None, f"the key `{reader.twice!s:.40}` stands twice in one object"
    if not isinstance(value, dict):
        return None, f"the row is {shown(value)}, expected an object"
    return value, None


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than the interpreter wants to convert
        return float(digits)


class _SyntaxError(Exception):
    """The list is no JSON from here on."""


class _Text:
    """A window that moves over a text file. Bytes that are no UTF-8 become lone surrogates, for the rows to report."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.at, self.line, self.ended = "", 0, 1, False

    def grow(self) -> None:
        """Read about as much again as is held, so that a long element costs linear time."""
        wanted = 2 * (len(self.text) - self.at) + 1
        held = [self.text[self.at :]]
        size = len(held[0])
        while size < wanted and not self.ended:
            part = next(self._parts, None)
            self.ended = part is None
            held.append(self._decode.decode(part or b"", final=self.ended))
            size += len(held[-1])
        self.text, self.at = "".join(held), 0

    def move(self, end: int) -> None:
        """Take the text up to ``end`` as read."""
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def skip_space(self) -> str:
        """Go to the next character that is no white space, and return it; an empty string at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.move(match.end() if match else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self.grow()

    def take(self, expected: str) -> None:
        """Go past one expected character."""
        came = self.skip_space()
        if not came:
            raise _SyntaxError("not JSON: the list is never closed, the file seems to be cut off")
        if came != expected:
            raise _SyntaxError(f"not JSON: expected {expected!r}, not {came!r}")
        self.move(self.at + 1)


def _is_export(path: Path, name: str) -> bool:
    """Whether a file is an object with a list `rows`, each element of which has its row under `row`."""
    text = _Text(blocks(path, name))
    try:
        if text.skip_space() != "{" or not _go_to_rows(text):
            return False
        text.take("[")
        if text.skip_space() != "{":
            return False
        value, _ = _element(text, _Reader())
    except (BrokenStreamError, _SyntaxError):
        return False
    return value is not None and isinstance(value.get("row"), dict) and "row_idx" in value


def _go_to_rows(text: _Text) -> bool:
    """Go into an object, up to its list `rows`; False where it has keys before that no viewer writes."""
    text.take("{")
    while text.skip_space() == '"':
        key = _next_value(text, _Reader())[0]
        text.take(":")
        if key == "rows":
            return text.skip_space() == "["
        if key not in _VIEWER_KEYS:
            return False
        text.skip_space()
        _next_value(text, _Reader())
        if text.skip_space() != ",":
            return False
        text.take(",")
    return False


def _viewed(value: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """The row in an element of a viewer's export."""
    row = value.get("row")
    if not isinstance(row, dict):
        return None, f"`row` is {shown(row)}, expected an object, as in the other rows that the viewer exported"
    if cut := value.get("truncated_cells"):
        return (
            None,
            f"the viewer cut the cells {', '.join(f'`{cell!s:.40}`' for cell in cut)}; download the data itself",
        )
    return row, None


def _elements(text: _Text, *, last: bool = True) -> Iterator[tuple[int, dict[str, Any] | None, str | None]]:
    """The elements of a list; ``last``: nothing may follow it."""
    reader = _Reader()
    if text.skip_space() == "]":
        text.take("]")
    else:
        while True:
            if not text.skip_space():
                text.take("]")
            line = text.line
            yield (line, *_element(text, reader))
            if text.skip_space() == "]":
                text.take("]")
                break
            text.take(",")
    if last and text.skip_space():
        raise _SyntaxError("not JSON: there is more after the end of the list")


def _element(text: _Text, reader: _Reader) -> tuple[dict[str, Any] | None, str | None]:
    value, came = _next_value(text, reader)
    if not came.isascii() and _ESCAPED_BYTES.search(came):
        return None, "invalid UTF-8"
    return _checked(value, reader)


def _next_value(text: _Text, reader: _Reader) -> tuple[Any, str]:
    """The value that begins here, and its text; the window then stands behind it."""
    while True:
        reader.twice = None
        try:
            value, end = reader.raw_decode(text.text, text.at)
        except json.JSONDecodeError as error:
            unfinished = error.pos >= len(text.text.rstrip()) - _NEAR_END or error.msg.startswith("Unterminated string")
            if not unfinished or text.ended:
                raise _SyntaxError(_syntax_reason(error, text)) from error
        except RecursionError as error:
            raise _SyntaxError("not JSON that can be read: nested too deeply") from error
        else:
            # A number at the very end of the window may go on in the next block.
            if end < len(text.text) or text.ended:
                break
        text.grow()
    came = text.text[text.at : end]
    text.move(end)
    return value, came


def _syntax_reason(error: json.JSONDecodeError, text: _Text) -> str:
    if error.pos >= len(text.text.rstrip()):
        return "not JSON: the list is never closed, the file seems to be cut off"
    return (
        f"not JSON: {error.msg.removesuffix(' at')} in line {text.line + text.text.count(chr(10), text.at, error.pos)}"
    )


def _refuse_list(raw: bytes, name: str) -> None:
    """A first line that opens a list of objects: the whole file is one list under a wrong name."""
    opening = raw.strip()[1:].lstrip()
    if not opening or opening.startswith(b"{"):
        raise DataError(f"{name} is one JSON list, not JSON lines; give it a name that ends in .json.")


def _first_line(path: Path, name: str) -> tuple[bytes, bool]:
    """The first line that is not blank, and whether it is the only one."""
    found = b""
    for line in lines(blocks(path, name)):
        if found and line.strip():
            return found, False
        found = found or line.strip()
        if len(found) >= _FIRST_LINE:
            return found, False
    return found, True


def _inner_list(value: dict[str, Any]) -> str | None:
    """The key of a list of objects inside one object that is the whole file: where its rows are, most likely."""
    for key, inner in value.items():
        # Message lists are lists of objects as well: they make a row, not a table.
        if isinstance(inner, list) and inner and isinstance(inner[0], dict) and not {"role", "from"} & set(inner[0]):
            return key
    return None


def _not_a_list(name: str, came: str, key: str = "KEY") -> str:
    return (
        f"The top level of {name} is {came}; expected a list of rows ([{{…}}, {{…}}]) or JSON lines. If it holds such "
        f"a list, take it out: jq -c '.{key}[]' {name} > rows.jsonl"
    )

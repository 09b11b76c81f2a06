"""Texts that matter besides the pairs: a response to a prompt, and the group it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.data.layouts.values import RowError, turns
from undertow.data.pairs import BadRow, Pair, Prompt
from undertow.data.rows import RawRow, shown
from undertow.data.sources.opening import open_source
from undertow.errors import SHOWN_BAD_ROWS, BadRowsError, DataError

if TYPE_CHECKING:
    from undertow.data.tokens.encoder import PairEncoder, TokenPair

__all__ = ["NO_GROUP", "Text", "encode_texts", "read_texts"]

NO_GROUP = "texts"
"""The group of texts that name none."""
_COLUMNS = "prompt (text or turns), response, and if you like group, and end (false: no end-of-turn token follows)"


@dataclass(frozen=True, slots=True)
class Text:
    """A response whose log-probability counts.

    ``end``: whether the end-of-turn token is a part of it, as of a whole answer; False for its first word alone.
    """

    row: int
    prompt: Prompt
    response: str
    group: str = NO_GROUP
    end: bool = True
    file: str = ""
    line: int = 0

    def beside(self, other: str) -> Pair:
        """The text as the chosen response of a pair, beside another one."""
        return Pair(self.row, self.prompt, self.response, other, self.file, self.line)


def read_texts(path: str | Path) -> list[Text]:
    """The texts of a file (JSON lines, JSON, CSV, Parquet), in order.

    Raises:
        BadRowsError: a row is not of that form; all of them are listed.
        DataError: the file cannot be read, or has no rows.
    """
    found: list[Text] = []
    bad: list[BadRow] = []
    for raw in open_source(path).rows():
        try:
            found.append(_text(raw))
        except RowError as error:
            bad.append(BadRow(raw.row, raw.file, raw.line, str(error)))
    if bad:
        raise BadRowsError(bad[:SHOWN_BAD_ROWS], len(bad))
    if not found:
        raise DataError(f"--texts {path}: it has no rows; expected rows with {_COLUMNS}.")
    return found


def encode_texts(texts: list[Text], whole: PairEncoder, open_end: PairEncoder) -> Iterator[TokenPair | BadRow]:
    """Each text as tokens: a pair of which only the prompt and the chosen response count.

    Args:
        texts: what to encode.
        whole: ends a response with the end-of-turn token.
        open_end: does not.
    """
    for text in texts:
        # The other response is there because a pair has two; it only must not be the same.
        other = "b" if text.response.strip().startswith("a") else "a"
        yield (whole if text.end else open_end).encode(text.beside(other))


def _text(raw: RawRow) -> Text:
    if raw.value is None:
        raise RowError(raw.error or "the row cannot be read")
    row: dict[str, Any] = raw.value
    prompt, response, group, end = row.get("prompt"), row.get("response"), row.get("group"), row.get("end", True)
    if not isinstance(response, str) or not response:
        raise RowError(f"`response` is {shown(response)}, expected text; a row of --texts has {_COLUMNS}")
    if group is not None and not isinstance(group, str):
        raise RowError(f"`group` is {shown(group)}, expected the name of a group")
    if isinstance(end, str) and end.lower() in ("true", "false", ""):  # CSV knows only text
        end = end.lower() != "false"
    if not isinstance(end, bool):
        raise RowError(f"`end` is {shown(end)}, expected true or false")
    said = prompt if isinstance(prompt, str) else turns(prompt, "`prompt`")
    return Text(raw.row, said, response, group or NO_GROUP, end, raw.file, raw.line)

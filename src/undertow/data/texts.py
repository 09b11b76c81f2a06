"""Texts that matter besides the pairs: a response to a prompt, and the group it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.data.pairs import BadRow, Message, Pair
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
    prompt: str | tuple[Message, ...]
    response: str
    group: str = NO_GROUP
    end: bool = True
    file: str = ""
    line: int = 0


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
        except ValueError as error:
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
        pair = Pair(text.row, text.prompt, text.response, other, text.file, text.line)
        yield (whole if text.end else open_end).encode(pair)


def _text(raw: RawRow) -> Text:
    if raw.value is None:
        raise ValueError(raw.error or "the row cannot be read")
    row: dict[str, Any] = raw.value
    prompt, response, group, end = row.get("prompt"), row.get("response"), row.get("group"), row.get("end", True)
    if not isinstance(response, str) or not response:
        raise ValueError(f"`response` is {shown(response)}, expected text; a row of --texts has {_COLUMNS}")
    if group is not None and not isinstance(group, str):
        raise ValueError(f"`group` is {shown(group)}, expected the name of a group")
    if isinstance(end, str) and end.lower() in ("true", "false", ""):  # CSV knows only text
        end = end.lower() != "false"
    if not isinstance(end, bool):
        raise ValueError(f"`end` is {shown(end)}, expected true or false")
    return Text(raw.row, _prompt(prompt), response, group or NO_GROUP, end, raw.file, raw.line)


def _prompt(prompt: object) -> str | tuple[Message, ...]:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(_is_turn(turn) for turn in prompt):
        return tuple(Message(turn["role"], turn["content"]) for turn in prompt)
    raise ValueError(f"`prompt` is {shown(prompt)}, expected text or a list of turns with role and content")


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)

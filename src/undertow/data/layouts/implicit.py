"""Layouts without a prompt of its own: it is what both texts, or both conversations, begin with."""

from __future__ import annotations

from undertow.data.layouts.assembly import answers, completed
from undertow.data.layouts.layout import Columns, Kind, Layout, Part, Preference
from undertow.data.layouts.shared_prefix import is_hh, marked_end, split_hh, split_texts
from undertow.data.layouts.values import MisfitError, Row, RowError, checked_text
from undertow.data.layouts.vocabulary import CHOSEN, REJECTED
from undertow.data.pairs import Message
from undertow.data.rows import shown

_WHOLE = Kind("a string or a list of messages", lambda value: isinstance(value, str | list | tuple))
_PROMPTS = ("prompt", "query", "question", "instruction")


def _both(row: Row) -> tuple[object, object]:
    found = ((row[name] for name in names if name in row) for names in (CHOSEN, REJECTED))
    one, other = (next(values, None) for values in found)
    return one, other


def has_plain_texts(row: Row) -> bool:
    """Whether a row has two strings that could be whole texts, and none of the usual columns of a prompt."""
    return all(isinstance(value, str) for value in _both(row)) and not any(name in row for name in _PROMPTS)


def _is_implicit(row: Row) -> bool:
    one, other = _both(row)
    if any(name in row for name in _PROMPTS):
        return False
    if isinstance(one, str) and isinstance(other, str):
        return marked_end(one, other) > 0
    return isinstance(one, list | tuple) and isinstance(other, list | tuple)


def _implicit(row: Row, at: Columns, *, anywhere: bool = False) -> Preference:
    if "prompt" in row:
        raise MisfitError("there is a `prompt` column, which this layout does not have")
    whole, other = row[at["chosen"]], row[at["rejected"]]
    better, worse = f"`{at['chosen']}`", f"`{at['rejected']}`"
    if isinstance(whole, list | tuple):
        return completed(answers(whole, other, better, worse, None), row, at)
    whole, other = checked_text(whole, better), _text(other, worse)
    _refuse_identical(whole, other)
    prompt, chosen, rejected = split_texts(whole, other, anywhere=anywhere)
    return completed(Preference(prompt, Message("assistant", chosen), Message("assistant", rejected)), row, at)


IMPLICIT = Layout(
    "implicit",
    (Part("chosen", CHOSEN, _WHOLE), Part("rejected", REJECTED, _WHOLE)),
    _implicit,
    when=_is_implicit,
    read_named=lambda row, at: _implicit(row, at, anywhere=True),
)


def _hh(row: Row, at: Columns) -> Preference:
    whole, other = (checked_text(row[at[side]], f"`{at[side]}`") for side in ("chosen", "rejected"))
    _refuse_identical(whole, other)
    prompt, chosen = split_hh(whole, at["chosen"])
    history, rejected = split_hh(other, at["rejected"])
    if prompt != history:
        raise RowError("`chosen` and `rejected` differ before the last assistant turn")
    return completed(Preference(prompt, Message("assistant", chosen), Message("assistant", rejected)), row, at)


_TEXT = Kind("a string", lambda value: isinstance(value, str))
HH = Layout(
    "hh",
    (Part("chosen", ("chosen",), _TEXT), Part("rejected", ("rejected",), _TEXT)),
    _hh,
    when=lambda row: "prompt" not in row and is_hh(row.get("chosen")) and is_hh(row.get("rejected")),
)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise MisfitError(f"{where} is {shown(value)}, expected a string")
    return checked_text(value, where)


def _refuse_identical(chosen: str, rejected: str) -> None:
    if chosen == rejected:
        raise RowError("`chosen` and `rejected` are identical")

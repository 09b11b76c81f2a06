"""Layouts with a column for the better and one for the worse response, and a prompt or a conversation before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undertow.data.layouts.assembly import answers, completed, read_pair
from undertow.data.layouts.layout import (
    ANSWER,
    ANY,
    LIST,
    TEXT,
    TEXT_OR_LIST,
    TURN,
    Columns,
    Kind,
    Layout,
    Part,
    Preference,
)
from undertow.data.layouts.shared_prefix import split_turns
from undertow.data.layouts.values import MisfitError, Row, RowError, answer, asked, is_open, is_turns, reply, turns
from undertow.data.layouts.vocabulary import CHOSEN, CONVERSATIONS, PROMPTS, REJECTED
from undertow.data.rows import shown

TURNS = Kind("a list of messages", is_turns)


def _parts(prompt: tuple[str, ...], kind: Kind, chosen: tuple[str, ...], rejected: tuple[str, ...], said: Kind) -> Any:
    return Part("prompt", prompt, kind), Part("chosen", chosen, said), Part("rejected", rejected, said)


def _both_said(kind: Kind, *, prompt: tuple[str, ...] = ("prompt",), asked: Kind) -> Any:
    return _parts(prompt, asked, ("chosen",), ("rejected",), kind)


STANDARD = Layout("standard", _both_said(TEXT, asked=TEXT), read_pair)
CONVERSATIONAL = Layout("conversational", _both_said(LIST, asked=LIST), read_pair)
ULTRAFEEDBACK = Layout("ultrafeedback", _both_said(LIST, asked=TEXT), read_pair)
SHAREGPT = Layout("sharegpt", _both_said(TURN, prompt=("conversations",), asked=LIST), read_pair)
ALPACA_RANKING = Layout(
    "alpaca-ranking",
    _both_said(TEXT, prompt=("instruction",), asked=TEXT),
    read_pair,
    when=lambda row: isinstance(row.get("input", 0), str | None),
)
ARGILLA = Layout(
    "argilla",
    _parts(
        ("instruction", "question"),
        TEXT,
        ("chosen_response", "chosen"),
        ("rejected_response", "rejected"),
        TEXT,
    ),
    read_pair,
)
QUESTION_ANSWERS = Layout("question-answers", _parts(PROMPTS, TEXT, CHOSEN, REJECTED, ANSWER), read_pair)
MESSAGES = Layout(
    "messages",
    _parts(CONVERSATIONS, TURNS, CHOSEN, REJECTED, ANSWER),
    read_pair,
    when=lambda row: any(is_open(row.get(name)) for name in CONVERSATIONS),
)


def _swift(row: Row, at: Columns) -> Preference:
    where, other = f"`{at['prompt']}`", f"`{at['rejected']}`"
    whole, rejected = turns(row[at["prompt"]], where), row[at["rejected"]]
    if is_turns(rejected) and len(rejected) > 1:
        return completed(split_turns(whole, turns(rejected, other), where, other), row, at)
    prompt = asked(whole[:-1], f"what comes before the last message of {where}")
    pair = Preference(prompt, reply(whole[-1:], f"the end of {where}"), answer(rejected, other))
    return completed(pair, row, at)


MS_SWIFT = Layout(
    "ms-swift",
    (
        Part("prompt", ("messages", "conversations"), TURNS),
        Part("rejected", ("rejected_response", "rejected_messages", "rejected"), ANSWER),
    ),
    _swift,
    when=lambda row: not any(name in row for name in CHOSEN),
)


def _has_messages(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("messages"), list | tuple)


def _openai(row: Row, at: Columns) -> Preference:
    column = at["input"]
    asks = f"`{column}.messages`"
    prompt = asked(turns(row[column]["messages"], asks), asks)
    pair = answers(row[at["chosen"]], row[at["rejected"]], f"`{at['chosen']}`", f"`{at['rejected']}`", prompt)
    inner = {name: value for name, value in row[column].items() if name == "tools"}
    outer = {name: where for name, where in at.items() if name != "input"}
    return completed(pair, {**row, **inner}, {**outer, **{name: name for name in inner}})


OPENAI = Layout(
    "openai",
    (
        Part("input", ("input",), Kind("an object with `messages`", _has_messages)),
        Part("chosen", ("preferred_output",), ANSWER),
        Part("rejected", ("non_preferred_output",), ANSWER),
    ),
    _openai,
)


def _no_prompt(row: Row, at: Columns) -> Preference:
    chosen, rejected = (answer(row[at[side]], f"`{at[side]}`") for side in ("chosen", "rejected"))
    return completed(Preference("", chosen, rejected), row, at)


NO_PROMPT = Layout(
    "no-prompt", (Part("chosen", CHOSEN, ANSWER), Part("rejected", REJECTED, ANSWER)), _no_prompt, by_itself=False
)
"""For ``--empty-prompt``."""


def named_columns(columns: Mapping[str, str]) -> Layout:
    """The layout of data whose user says which column is what."""
    kinds = {"prompt": TEXT_OR_LIST, "chosen": ANSWER, "rejected": ANSWER}
    parts = tuple(Part(part, (column,), kinds.get(part, ANY), part in kinds) for part, column in columns.items())

    def find(_: tuple[Part, ...], row: Row) -> dict[str, str]:
        for part, column in columns.items():
            if column not in row:
                raise MisfitError(f"there is no column `{column}` (given as {part}), only {shown(dict(row))}")
        return dict(columns)

    return Layout("columns", parts, read_pair, find=find)


def refuse_identical(pair: Preference) -> None:
    """Two responses that say the same, reasoning included, prefer nothing."""
    if pair.chosen == pair.rejected:
        raise RowError("the chosen and the rejected response are identical")

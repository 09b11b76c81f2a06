"""How the parts of a row make a pair: the one reader that most layouts share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from undertow.data.layouts.layout import Columns, Preference
from undertow.data.layouts.shared_prefix import split_turns
from undertow.data.layouts.values import (
    MisfitError,
    Row,
    RowError,
    answer,
    asked,
    checked_list,
    checked_text,
    optional_text,
    refuse_images,
    reply,
    tools_of,
    turn,
    turns,
    with_system,
)
from undertow.data.pairs import Message, Prompt
from undertow.data.rows import shown

_EXCHANGE = ("user", "assistant")


def read_pair(row: Row, at: Columns) -> Preference:
    """A prompt, and a better and a worse response, each in any form that its column's kind allows."""
    prompt = question(row, at)
    pair = answers(row[at["chosen"]], row[at["rejected"]], f"`{at['chosen']}`", f"`{at['rejected']}`", prompt)
    return completed(pair, row, at)


def question(row: Row, at: Columns) -> Prompt:
    """The prompt as its column has it, a string or a conversation that ends where a response is due."""
    column = at["prompt"]
    value, where = row[column], f"`{column}`"
    return asked(turns(value, where), where) if isinstance(value, list | tuple) else checked_text(value, where)


def answers(chosen: Any, rejected: Any, better: str, worse: str, prompt: Prompt | None) -> Preference:
    """Two responses, given as such or at the end of whole conversations.

    Whole conversations begin with the prompt, or hold it where the prompt is a string, which then must be among what
    their user says; with ``prompt=None`` it is what both share.
    """
    if prompt is None:
        chosen, rejected = checked_list(chosen, better), checked_list(rejected, worse)
    elif not (isinstance(chosen, list | tuple) and isinstance(rejected, list | tuple)):
        return Preference(prompt, answer(chosen, better), answer(rejected, worse))
    ours, theirs = turns(chosen, better), turns(rejected, worse)
    if isinstance(prompt, tuple):
        given = len(prompt)
        if len(ours) > given and ours[:given] == prompt == theirs[:given]:
            ours, theirs = ours[given:], theirs[given:]
    elif prompt is None or len(ours) > 1 or len(theirs) > 1:
        shared = split_turns(ours, theirs, better, worse)
        if prompt is not None:
            _check_asked(prompt, shared.prompt, better, worse)
        return shared
    return Preference(prompt, reply(ours, better), reply(theirs, worse))


def completed(pair: Preference, row: Row, at: Columns) -> Preference:
    """The pair with what stands in columns of its own: input, history, system message, tools."""
    return replace(pair, prompt=whole_prompt(pair.prompt, row, at), tools=tools(row, at))


def whole_prompt(prompt: Prompt, row: Row, at: Columns) -> Prompt:
    """A prompt with the row's input, history and system message."""
    if isinstance(prompt, str) and (more := optional_text(row, at.get("input"))):
        prompt = f"{prompt}\n\n{more}"
    if earlier := _history(row, at.get("history")):
        said = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        system, said = (said[:1], said[1:]) if said[0].role == "system" else ((), said)
        prompt = (*system, *earlier, *said)
    column = at.get("system")
    prompt = with_system(prompt, optional_text(row, column), f"`{column}`")
    refuse_images(prompt)
    return prompt


def tools(row: Row, at: Columns) -> str:
    """The row's tools, as canonical JSON."""
    column = at.get("tools")
    return tools_of(row[column], f"`{column}`") if column else ""


def _history(row: Row, column: str | None) -> tuple[Message, ...]:
    """Earlier turns: pairs of what the user and what the assistant said, or turns."""
    if column is None or row[column] is None or row[column] == "":
        return ()
    said: list[Message] = []
    for index, exchange in enumerate(checked_list(row[column], f"`{column}`", 0)):
        where = f"`{column}[{index}]`"
        if isinstance(exchange, dict):
            said.append(turn(exchange, where))
        elif isinstance(exchange, list | tuple) and len(exchange) == 2:
            said += [Message(role, checked_text(text, where)) for role, text in zip(_EXCHANGE, exchange, strict=True)]
        else:
            expected = "[what the user said, what the assistant said] or a message"
            raise MisfitError(f"{where} is {shown(exchange)}, expected {expected}")
    return tuple(said)


def _check_asked(given: str, prompt: Prompt, better: str, worse: str) -> None:
    asks = [message.content.strip() for message in prompt if isinstance(message, Message) and message.role == "user"]
    if not any(given.strip() in said or said in given for said in asks):
        raise RowError(f"`prompt` ({shown(given)}) is none of the user's turns in {better} and {worse}")

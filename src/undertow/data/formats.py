"""Layouts of a row: one small function each, from a dictionary to prompt, chosen and rejected.

A function raises :class:`RowError` with the reason when a row does not fit; that row is set aside, the others go on.
``unpaired`` rows hold one response each and are put together in ``data/unpaired.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from undertow.data.fields import (
    RowError,
    conversation,
    one_answer,
    optional_text,
    responses_differ,
    shorten,
    text,
)
from undertow.data.pairs import Message, Prompt

Parts = tuple[Prompt, str, str]
Row = Mapping[str, Any]


def standard(row: Row) -> Parts:
    """``prompt``, ``chosen``, ``rejected``: strings. The prompt is kept to the letter."""
    return _with_system(row, text(row, "prompt")), text(row, "chosen"), text(row, "rejected")


def conversational(row: Row) -> Parts:
    """The same three as lists of messages: the prompt ends before the answer, a response is one assistant message."""
    prompt = conversation(row, "prompt")
    if prompt[-1].role == "assistant":
        raise RowError("`prompt` ends with an assistant message; the answer belongs into `chosen` and `rejected`")
    chosen, rejected = (one_answer(conversation(row, side), side) for side in ("chosen", "rejected"))
    return _system_messages(row) + prompt, chosen, rejected


def implicit(row: Row) -> Parts:
    """``chosen`` and ``rejected`` only; the prompt is their shared beginning."""
    if isinstance(row.get("chosen"), str):
        chosen, rejected = text(row, "chosen"), text(row, "rejected")
        responses_differ(chosen, rejected)
        prompt = _shared_words(chosen, rejected)
        if not prompt.strip():
            raise RowError("`chosen` and `rejected` have no shared beginning that could be the prompt")
        return prompt, _rest(chosen, prompt, "chosen"), _rest(rejected, prompt, "rejected")
    return _shared_messages(row)


def ultrafeedback(row: Row) -> Parts:
    """``prompt`` string, ``chosen`` and ``rejected`` whole conversations that begin with it."""
    prompt = text(row, "prompt")
    shared, chosen, rejected = _shared_messages(row)
    assert isinstance(shared, tuple)
    asked = [message.content for message in shared if message.role == "user"]
    if prompt.strip() not in (content.strip() for content in asked):
        raise RowError("`prompt` is none of the user messages that `chosen` and `rejected` share")
    return shared, chosen, rejected


def hh(row: Row) -> Parts:
    """Strings of ``\\n\\nHuman: … \\n\\nAssistant: …`` turns; only the last assistant turn is the response."""
    sides = {side: _hh_turns(text(row, side), side) for side in ("chosen", "rejected")}
    (before, chosen), (other, rejected) = sides.values()
    if before != other:
        raise RowError("`chosen` and `rejected` differ before their last Assistant turn, so they share no prompt")
    return before, chosen, rejected


def alpacafarm(row: Row) -> Parts:
    """``instruction``, ``input``, ``output_1``, ``output_2``, ``preference`` (1 or 2)."""
    preference = row.get("preference")
    if isinstance(preference, bool) or preference not in (1, 2):
        raise RowError(f"`preference` must be 1 or 2, found {shorten(preference)}")
    outputs = text(row, "output_1"), text(row, "output_2")
    prompt = _with_system(row, _instruction(row))
    return (prompt, *outputs) if preference == 1 else (prompt, *reversed(outputs))  # type: ignore[return-value]


def sharegpt(row: Row) -> Parts:
    """``conversations`` (``from``/``value``), ``chosen`` and ``rejected`` one such turn each."""
    prompt = conversation(row, "conversations")
    if prompt[-1].role == "assistant":
        raise RowError("`conversations` ends with an assistant turn; the answer belongs into `chosen` and `rejected`")
    chosen, rejected = (one_answer(conversation(row, side), side) for side in ("chosen", "rejected"))
    return _system_messages(row) + prompt, chosen, rejected


def alpaca_ranking(row: Row) -> Parts:
    """``instruction``, ``input``, ``chosen``, ``rejected``, optional ``system`` and ``history`` of turn pairs."""
    history = row.get("history") or []
    if not isinstance(history, list) or any(not isinstance(turn, list) or len(turn) != 2 for turn in history):
        raise RowError(f"`history` must be a list of [user, assistant] pairs, found {shorten(history)}")
    turns = [
        Message(role, text({"history": content}, "history"))
        for turn in history
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    prompt = _instruction(row)
    before = (*_system_messages(row), *turns)
    whole: Prompt = (*before, Message("user", prompt)) if before else prompt
    return whole, text(row, "chosen"), text(row, "rejected")


def argilla(row: Row) -> Parts:
    """``instruction`` or ``question``, ``chosen_response`` or ``chosen``, ``rejected_response`` or ``rejected``."""
    prompt = text(row, _first(row, "instruction", "question"))
    chosen, rejected = (text(row, _first(row, f"{side}_response", side)) for side in ("chosen", "rejected"))
    return _with_system(row, prompt), chosen, rejected


def pool(row: Row) -> Parts:
    """``prompt``, ``responses``, ``scores``: the highest score is chosen, the lowest rejected; of equals the first."""
    responses, scores = row.get("responses"), row.get("scores")
    if not isinstance(responses, list) or len(responses) < 2:
        raise RowError(f"`responses` must be a list of at least two, found {shorten(responses)}")
    if scores is None:
        raise RowError(
            "`scores` is missing: without scores no response is the chosen one (undertow pick chooses a pair)"
        )
    if not isinstance(scores, list) or len(scores) != len(responses) or not all(_is_number(s) for s in scores):
        raise RowError(f"`scores` must be a list of {len(responses)} numbers, found {shorten(scores)}")
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if best == worst:
        raise RowError("`scores` are all equal, so no response is the chosen one")
    chosen, rejected = (text({"responses": responses[index]}, "responses") for index in (best, worst))
    return _with_system(row, text(row, "prompt")), chosen, rejected


Layout = Callable[[Row], Parts]
LAYOUTS: dict[str, Layout] = {
    "standard": standard,
    "conversational": conversational,
    "implicit": implicit,
    "ultrafeedback": ultrafeedback,
    "hh": hh,
    "alpacafarm": alpacafarm,
    "sharegpt": sharegpt,
    "alpaca-ranking": alpaca_ranking,
    "argilla": argilla,
    "pool": pool,
}
FORMATS = (*LAYOUTS, "columns", "unpaired")


def recognise(row: Row) -> str | None:
    """The layout a row has by its columns and their types, or None. What is more particular is tried first."""
    has = {name for name, value in row.items() if value is not None}
    chosen = row.get("chosen")
    if {"conversations", "chosen", "rejected"} <= has:
        return "sharegpt"
    if {"instruction", "output_1", "output_2"} <= has:
        return "alpacafarm"
    if {"prompt", "responses"} <= has:
        return "pool"
    if {"prompt", "completion", "label"} <= has:
        return "unpaired"
    if {"prompt", "chosen", "rejected"} <= has:
        if isinstance(row["prompt"], list):
            return "conversational"
        return "ultrafeedback" if isinstance(chosen, list) else "standard"
    if has & {"instruction", "question"} and has >= {"chosen", "rejected"}:
        return "alpaca-ranking" if "instruction" in has and {"input", "history"} & row.keys() else "argilla"
    if has & {"instruction", "question"} and has >= {"chosen_response", "rejected_response"}:
        return "argilla"
    if {"chosen", "rejected"} <= has:
        return "hh" if isinstance(chosen, str) and _TURN.search(chosen) else "implicit"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _first(row: Row, *names: str) -> str:
    return next((name for name in names if row.get(name) is not None), names[0])


def _instruction(row: Row) -> str:
    more = optional_text(row, "input")
    return text(row, "instruction") + (f"\n\n{more}" if more.strip() else "")


def _system_messages(row: Row) -> tuple[Message, ...]:
    system = optional_text(row, "system") or optional_text(row, "system_prompt")
    return (Message("system", system),) if system.strip() else ()


def _with_system(row: Row, prompt: str) -> Prompt:
    system = _system_messages(row)
    return (*system, Message("user", prompt)) if system else prompt


def _shared_words(chosen: str, rejected: str) -> str:
    """The shared beginning, cut back to where a word ends; the space before a response belongs to the response."""
    count = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    shared = chosen[:count] if count is not None else min(chosen, rejected, key=len)
    whole = len(shared) < min(len(chosen), len(rejected)) and shared[-1:].isspace() and shared[-1:] != " "
    return shared if whole else re.sub(r"\s?\S*\Z", "", shared)


def _rest(whole: str, prompt: str, side: str) -> str:
    rest = whole[len(prompt) :]
    if not rest.strip():
        raise RowError(f"`{side}` holds nothing after the beginning that both responses share")
    return rest


def _shared_messages(row: Row) -> Parts:
    chosen, rejected = conversation(row, "chosen"), conversation(row, "rejected")
    if chosen == rejected:
        raise RowError("`chosen` and `rejected` are identical")
    count = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    count = count or min(len(chosen), len(rejected)) - 1
    if not count or chosen[:count] != rejected[:count]:
        raise RowError("`chosen` and `rejected` share no first message that could be the prompt")
    return chosen[:count], one_answer(chosen[count:], "chosen"), one_answer(rejected[count:], "rejected")


_TURN = re.compile(r"\n\n(Human|Assistant):")


def _hh_turns(whole: str, side: str) -> tuple[tuple[Message, ...], str]:
    before, *rest = _TURN.split(whole)
    if before.strip() or not rest:
        raise RowError(f"`{side}` does not begin with a Human or Assistant turn")
    turns = [
        Message("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(rest[::2], rest[1::2], strict=True)
    ]
    if turns[-1].role != "assistant":
        raise RowError(f"`{side}` does not end with an Assistant turn")
    if not turns[-1].content:
        raise RowError(f"`{side}` ends with an empty Assistant turn")
    if len(turns) < 2:
        raise RowError(f"`{side}` has no turn before the response")
    return tuple(turns[:-1]), turns[-1].content

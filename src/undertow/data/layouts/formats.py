"""The layouts of a row: how each is turned into prompt, chosen and rejected, and how it is told from the others.

Every reader takes a row and returns the three parts, or raises a :class:`RowError` whose message is the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from undertow.data.layouts.fields import (
    MisfitError,
    Row,
    RowError,
    asked,
    checked_text,
    items,
    messages,
    optional_text,
    present,
    prompt_of,
    reply,
    text,
    turn,
    turns,
    with_system,
)
from undertow.data.layouts.recognition import recognise
from undertow.data.layouts.shared_prefix import split_hh, split_messages, split_texts
from undertow.data.pairs import Message, Prompt
from undertow.data.rows import shown

__all__ = ["FORMATS", "Candidates", "Labelled", "Parts", "convert", "read_candidates", "read_labelled", "recognise"]

Parts = tuple[Prompt, str, str]
FORMATS = (
    "standard",
    "conversational",
    "implicit",
    "ultrafeedback",
    "hh",
    "alpacafarm",
    "sharegpt",
    "alpaca-ranking",
    "argilla",
    "columns",
    "pool",
    "unpaired",
)


@dataclass(frozen=True, slots=True)
class Candidates:
    """A prompt with several responses, and a score for each where the data have them."""

    prompt: Prompt
    responses: tuple[str, ...]
    scores: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt with one response, and whether it is a good one."""

    prompt: Prompt
    completion: str
    label: bool


def convert(row: Row, format: str, columns: Mapping[str, str] | None = None) -> Parts:
    """Prompt, chosen and rejected of a row in any layout but ``unpaired``.

    Raises:
        RowError: the row cannot be used.
    """
    if format == "columns":
        parts = _columns(row, columns or {})
    else:
        parts = _READERS[format](row)
    if parts[1] == parts[2]:
        raise RowError("the chosen and the rejected response are identical")
    return parts


def read_candidates(row: Row) -> Candidates:
    """A row of the layout ``pool`` with all its responses."""
    prompt = with_system(row, prompt_of(row))
    responses = tuple(
        checked_text(response, f"`responses[{index}]`") for index, response in enumerate(items(row, "responses", 2))
    )
    if row.get("scores") is None:
        return Candidates(prompt, responses, None)
    scores = tuple(_score(score, index) for index, score in enumerate(items(row, "scores")))
    if len(scores) != len(responses):
        raise RowError(f"`scores` has {len(scores)} elements, `responses` {len(responses)}: expected one for each")
    return Candidates(prompt, responses, scores)


def read_labelled(row: Row) -> Labelled:
    """A row of the layout ``unpaired``."""
    prompt = with_system(row, prompt_of(row))
    if isinstance(present(row, "completion"), list | tuple):
        completion = reply(messages(row, "completion"), "completion")
    else:
        completion = text(row, "completion")
    label = present(row, "label")
    if not isinstance(label, bool):
        raise MisfitError(f"`label` is {shown(label)}, expected true or false")
    return Labelled(prompt, completion, label)


def _standard(row: Row) -> Parts:
    return with_system(row, text(row, "prompt")), text(row, "chosen"), text(row, "rejected")


def _conversational(row: Row) -> Parts:
    prompt = asked(messages(row, "prompt"), "`prompt`")
    chosen, rejected = (reply(messages(row, field), field) for field in ("chosen", "rejected"))
    return with_system(row, prompt), chosen, rejected


def _implicit(row: Row) -> Parts:
    if "prompt" in row:
        raise MisfitError("there is a `prompt` column, which this layout does not have")
    if isinstance(present(row, "chosen"), list | tuple):
        prompt, chosen, rejected = split_messages(messages(row, "chosen"), messages(row, "rejected"))
        return with_system(row, prompt), chosen, rejected
    whole, other = text(row, "chosen"), text(row, "rejected")
    _refuse_identical(whole, other)
    start, chosen, rejected = split_texts(whole, other)
    return with_system(row, start), chosen, rejected


def _ultrafeedback(row: Row) -> Parts:
    question = text(row, "prompt")
    prompt, chosen, rejected = split_messages(messages(row, "chosen"), messages(row, "rejected"))
    asks = [message.content.strip() for message in prompt if message.role == "user"]
    if not any(question.strip() in said or said in question for said in asks):
        raise RowError(f"`prompt` ({shown(question)}) is none of the user's turns in `chosen` and `rejected`")
    return with_system(row, prompt), chosen, rejected


def _hh(row: Row) -> Parts:
    whole, other = text(row, "chosen"), text(row, "rejected")
    _refuse_identical(whole, other)
    prompt, chosen = split_hh(whole, "chosen")
    history, rejected = split_hh(other, "rejected")
    if prompt != history:
        raise RowError("`chosen` and `rejected` differ before the last assistant turn")
    return with_system(row, prompt), chosen, rejected


def _alpacafarm(row: Row) -> Parts:
    prompt = _instruction(row, "instruction", "\n\n")
    outputs = text(row, "output_1"), text(row, "output_2")
    preference = present(row, "preference")
    if isinstance(preference, bool) or preference not in (1, 2):
        raise MisfitError(f"`preference` is {shown(preference)}, expected 1 or 2")
    chosen = int(preference) - 1
    return with_system(row, prompt), outputs[chosen], outputs[1 - chosen]


def _sharegpt(row: Row) -> Parts:
    prompt = asked(turns(row, "conversations"), "`conversations`")
    chosen, rejected = (reply((turn(present(row, field), f"`{field}`"),), field) for field in ("chosen", "rejected"))
    return with_system(row, prompt), chosen, rejected


def _alpaca_ranking(row: Row) -> Parts:
    # LLaMA-Factory joins instruction and input by one line break.
    prompt: Prompt = _instruction(row, "instruction", "\n")
    history: list[Message] = []
    exchanges = items(row, "history", 0) if row.get("history") is not None else ()
    for index, exchange in enumerate(exchanges):
        where = f"`history[{index}]`"
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise MisfitError(f"{where} is {shown(exchange)}, expected [what the user said, what the assistant said]")
        for role, said in zip(("user", "assistant"), exchange, strict=True):
            history.append(Message(role, checked_text(said, where)))
    if history:
        prompt = (*history, Message("user", str(prompt)))
    return with_system(row, prompt), text(row, "chosen"), text(row, "rejected")


def _argilla(row: Row) -> Parts:
    question = next((name for name in ("instruction", "question") if name in row), "instruction")
    chosen, rejected = (
        text(row, f"{name}_response" if f"{name}_response" in row else name) for name in ("chosen", "rejected")
    )
    return with_system(row, text(row, question)), chosen, rejected


def _pool(row: Row) -> Parts:
    pool = read_candidates(row)
    if pool.scores is None:
        raise RowError("`scores` is missing: without them there is no telling which response is the better one")
    best, worst = max(pool.scores), min(pool.scores)
    if best == worst:
        raise RowError(f"all {len(pool.scores)} `scores` are {best:g}: there is no better and no worse response")
    return pool.prompt, pool.responses[pool.scores.index(best)], pool.responses[pool.scores.index(worst)]


def _columns(row: Row, columns: Mapping[str, str]) -> Parts:
    for part, column in columns.items():
        if column not in row:
            raise MisfitError(f"there is no column `{column}` (given as {part}), only {shown(dict(row))}")
    named = {part: row[column] for part, column in columns.items()}
    try:
        return _READERS[_by_types(named)](named)
    except RowError as error:
        reason = str(error)
        for part, column in columns.items():
            if part != column and f"`{part}" in reason:
                raise type(error)(f"{reason} (`{part}` is your column `{column}`)") from None
        raise


def _by_types(row: Row) -> str:
    if not isinstance(row["chosen"], list | tuple):
        return "standard"
    return "ultrafeedback" if isinstance(row["prompt"], str) else "conversational"


_READERS: dict[str, Callable[[Row], Parts]] = {
    "standard": _standard,
    "conversational": _conversational,
    "implicit": _implicit,
    "ultrafeedback": _ultrafeedback,
    "hh": _hh,
    "alpacafarm": _alpacafarm,
    "sharegpt": _sharegpt,
    "alpaca-ranking": _alpaca_ranking,
    "argilla": _argilla,
    "pool": _pool,
}


def _instruction(row: Row, field: str, between: str) -> str:
    instruction, more = text(row, field), optional_text(row, "input")
    return instruction if more is None else f"{instruction}{between}{more}"


def _refuse_identical(chosen: str, rejected: str) -> None:
    if chosen == rejected:
        raise RowError("`chosen` and `rejected` are identical")


def _score(value: object, index: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MisfitError(f"`scores[{index}]` is {shown(value)}, expected a number")
    try:
        score = float(value)
    except OverflowError:  # an integer of hundreds of digits
        score = math.inf
    if not math.isfinite(score):
        raise RowError(f"`scores[{index}]` is {shown(value)}, expected a finite number")
    return score

"""Layouts with a list of responses to one prompt: with a score for each, or ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from undertow.data.layouts.assembly import completed, question
from undertow.data.layouts.layout import LIST, TEXT_OR_LIST, Columns, Layout, Part, Preference
from undertow.data.layouts.values import MisfitError, Row, RowError, answer, checked_list, is_turn
from undertow.data.layouts.vocabulary import CANDIDATES, CONVERSATIONS, PROMPTS, RANKED, SCORE_OF, SCORES, TEXT_OF
from undertow.data.pairs import Message
from undertow.data.rows import shown

_PROMPT = Part("prompt", (*PROMPTS, *CONVERSATIONS), TEXT_OR_LIST)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Several responses to one prompt, and a score for each where the data have them: higher is better."""

    responses: tuple[Message, ...]
    scores: tuple[float, ...] | None


def read_candidates(row: Row, at: Columns) -> Candidates:
    """All responses of a row, and their scores: in a column of their own, or in each response's object."""
    column = at["responses"]
    listed = checked_list(row[column], f"`{column}`", 2)
    responses = tuple(_response(value, f"`{column}[{index}]`") for index, value in enumerate(listed))
    scores = at.get("scores")
    if scores is not None and row[scores] is not None:
        values, names = checked_list(row[scores], f"`{scores}`"), f"{scores}[{{}}]"
        if len(values) != len(responses):
            raise RowError(f"`{scores}` has {len(values)} elements, `{column}` {len(responses)}: expected one for each")
        return Candidates(responses, _scores(values, names))
    if name := _shared_key(listed, SCORE_OF):
        return Candidates(responses, _scores([value[name] for value in listed], f"{column}[{{}}].{name}"))
    if _shared_key(listed, ("rank",)):
        ranks = _scores([value["rank"] for value in listed], f"{column}[{{}}].rank")
        return Candidates(responses, tuple(-rank for rank in ranks))
    return Candidates(responses, None)


def _pool(row: Row, at: Columns) -> Preference:
    pool = read_candidates(row, at)
    if pool.scores is None:
        raise RowError("`scores` is missing: without them there is no telling which response is the better one")
    best, worst = max(pool.scores), min(pool.scores)
    if best == worst:
        raise RowError(f"all {len(pool.scores)} `scores` are {best:g}: there is no better and no worse response")
    chosen, rejected = (pool.responses[pool.scores.index(score)] for score in (best, worst))
    return completed(Preference(question(row, at), chosen, rejected), row, at)


def _ranked(row: Row, at: Columns) -> Preference:
    pool = read_candidates(row, at)
    if pool.scores is not None:
        return _pool(row, at)
    return completed(Preference(question(row, at), pool.responses[0], pool.responses[-1]), row, at)


POOL = Layout(
    "pool",
    (_PROMPT, Part("responses", CANDIDATES, LIST), Part("scores", SCORES, LIST, needed=False)),
    _pool,
    when=lambda row: "answers" not in row or _known_scores(row),
)
RANKED_LIST = Layout("ranked", (_PROMPT, Part("responses", RANKED, LIST)), _ranked)


def _known_scores(row: Row) -> bool:
    return any(name in row for name in SCORES)


def _response(value: object, where: str) -> Message:
    if isinstance(value, Mapping) and not is_turn(value):
        name = next((name for name in TEXT_OF if value.get(name) is not None), None)
        if name is None:
            raise MisfitError(f"{where} is {shown(value)}, expected a string, or an object with one of {_or(TEXT_OF)}")
        return answer(value[name], f"{where[:-1]}.{name}`")
    return answer(value, where)


def _shared_key(listed: Sequence[object], names: tuple[str, ...]) -> str | None:
    """The first of some keys that every element has with a value."""
    of_all = [value if isinstance(value, Mapping) else {} for value in listed]
    return next((name for name in names if all(value.get(name) is not None for value in of_all)), None)


def _scores(values: Sequence[object], name: str) -> tuple[float, ...]:
    return tuple(_score(value, f"`{name.format(index)}`") for index, value in enumerate(values))


def _score(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MisfitError(f"{where} is {shown(value)}, expected a number")
    try:
        score = float(value)
    except OverflowError:  # an integer of hundreds of digits
        score = math.inf
    if not math.isfinite(score):
        raise RowError(f"{where} is {shown(value)}, expected a finite number")
    return score


def _or(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)

"""Layouts with two responses side by side, and a column that tells which of them is the better one."""

from __future__ import annotations

from undertow.data.layouts.assembly import answers, completed, question
from undertow.data.layouts.layout import ANSWER, ANY, TEXT, TEXT_OR_LIST, Columns, Layout, Part, Preference, find_parts
from undertow.data.layouts.values import MisfitError, Row, RowError, is_turns
from undertow.data.layouts.vocabulary import CONVERSATIONS, PROMPTS, SIDES, TIES, WINNERS
from undertow.data.rows import shown

# Their sign says it: below 0 the first is better, above 0 the second (HelpSteer 2 and 3).
_SIGNED = ("overall_preference", "preference_strength")
# 1 says that the first is better, 0 the second (SHP).
_FIRST_IS_TRUE = ("label", "labels")
_FIRST, _SECOND = ("a", "model_a", "left", "first"), ("b", "model_b", "right", "second")


def better_side(value: object, winner: str, sides: tuple[str, str]) -> int:
    """0 where the first of two columns has the better response, 1 where the second has.

    A number is the one that ends the column's name. With columns that end in letters it says something only where the
    winner's column is one whose meaning is published: elsewhere 1 may mean the first or the second.

    Raises:
        RowError: it is a tie, or says nothing that is known.
    """
    ends = _ends(sides)
    if value is None or isinstance(value, bool):
        raise MisfitError(f"`{winner}` is {shown(value)}, expected {_expected(winner, sides)}")
    said = str(value).strip().lower()
    number = _number(said)
    if said in TIES or (winner in _SIGNED and number == 0):
        raise RowError(f"`{winner}` is {shown(value)}: a tie, there is no better and no worse response")
    if winner in _SIGNED and number is not None:
        return int(number > 0)
    if number is not None and ends[0].isdigit():
        said = f"{number:g}"
    elif number in (0, 1) and winner in _FIRST_IS_TRUE:
        return 1 - int(number)
    for side, names in enumerate((_FIRST, _SECOND)):
        known = {sides[side].lower(), ends[side].lower()} | (set(names) if number is None else set())
        if said in known:
            return side
    raise MisfitError(f"`{winner}` is {shown(value)}, expected {_expected(winner, sides)}")


def _read(row: Row, at: Columns) -> Preference:
    sides = at["first"], at["second"]
    side = better_side(row[at["winner"]], at["winner"], sides)
    better, worse = sides[side], sides[1 - side]
    prompt = question(row, at) if "prompt" in at else None
    return completed(answers(row[better], row[worse], f"`{better}`", f"`{worse}`", prompt), row, at)


def _find(parts: tuple[Part, ...], row: Row) -> dict[str, str]:
    """Both responses are found together: `response_1` is the second beside `response_0`, the first beside another."""
    for one, other in SIDES:
        if one in row and other in row:
            sides = {"first": one, "second": other}
            hidden = {name: value for name, value in row.items() if name not in sides.values()}
            return {**sides, **find_parts(parts, hidden)}
    return find_parts(tuple(part for part in parts if part.name not in ("first", "second")), row)


_SIDE = tuple(
    Part(name, tuple(dict.fromkeys(sides)), ANSWER)
    for name, sides in zip(("first", "second"), zip(*SIDES, strict=True), strict=True)
)
_WINNER = Part("winner", WINNERS, ANY)

ALPACAFARM = Layout(
    "alpacafarm",
    (
        Part("prompt", ("instruction",), TEXT),
        Part("first", ("output_1",), TEXT),
        Part("second", ("output_2",), TEXT),
        Part("winner", ("preference",), ANY),
    ),
    _read,
)
TWO_RESPONSES = Layout(
    "two-responses",
    (Part("prompt", (*PROMPTS, "post", *CONVERSATIONS), TEXT_OR_LIST), *_SIDE, _WINNER),
    _read,
    find=_find,
)


def _whole(row: Row) -> bool:
    return any(is_turns(row.get(one)) and is_turns(row.get(other)) for one, other in SIDES)


ARENA = Layout("arena", (*_SIDE, _WINNER), _read, when=_whole, find=_find)


def _ends(sides: tuple[str, str]) -> tuple[str, str]:
    return sides[0][-1], sides[1][-1]


def _number(said: str) -> float | None:
    try:
        return float(said)
    except ValueError:
        return None


def _expected(winner: str, sides: tuple[str, str]) -> str:
    one, other = _ends(sides)
    if winner in _SIGNED:
        return "a number, below 0 where the first response is better, above 0 where the second is"
    if winner in _FIRST_IS_TRUE and not one.isdigit():
        return f"{one} or {other}, or 1 where `{sides[0]}` is better and 0 where `{sides[1]}` is"
    return f"{one} or {other}" if one.isdigit() else f"{one} or {other} (a number could mean either)"

"""Guards: what a run does by itself when a tracked value goes where it should not.

    displaced>0.5 for 2 -> stop
    displaced>0.5 for 2 after 3 looks -> stop
    displaced>forecast+0.1 -> warn
    watch/refusal<-0.1 and margin_change>0 -> sft=0.05

A guard is a condition (comparisons of tracked values with numbers, or with what a forecast says of them at the same
step, joined by ``and``), how many looks in a row it has to hold
(``for N``, 1 by default), how many looks pass before it begins to count (``after M looks``, none by default), and an
action. Here is the language and the counting; acting is the trainer's.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeAlias, cast, get_args

from undertow.errors import OptionError

__all__ = ["Action", "Condition", "Firing", "Guard", "GuardState", "Guards"]

Kind: TypeAlias = Literal["warn", "stop", "rollback", "sft", "drop"]

KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT_DROP = 0.05
FORETOLD = "forecast/"
"""Before the name of a tracked value: what a forecast says of it at the same step."""
EXAMPLE = "displaced>0.5 for 2 after 3 looks -> stop"

_EXPECTED: Mapping[Kind, str] = {
    "sft": "a weight above 0, as in sft=0.1",
    "drop": "a share of the pairs above 0% and below 100%, as in drop=5%",
}
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NAME = re.compile(r"(?!(?:and|for|after)(?:\s|$))[\w./:=]+")
_OPERATOR = re.compile(r"[<>]=?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.%])", re.ASCII)
_PERCENT = re.compile(r"(\d+\.?\d*|\.\d+)\s*%", re.ASCII)
_COUNT = re.compile(r"\d{1,9}(?![\w.%])", re.ASCII)
_AND, _FOR, _AFTER = (re.compile(rf"{word}(?=\s|$)") for word in ("and", "for", "after"))
_LOOKS, _ARROW, _EQUALS = (re.compile(word) for word in (r"looks?(?![\w.])", "->", "="))
_FORECAST, _SIGN = re.compile(r"forecast(?![\w./:=])"), re.compile(r"\+|-(?!>)")
_ACTION = re.compile(rf"(?:{'|'.join(KINDS)})(?!\w)")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a tracked value with a number, or where ``forecast`` with so much more than its forecast.

    Raises:
        OptionError: on creation, for an operator that does not exist or a threshold that is no finite number.
    """

    name: str
    operator: str
    threshold: float
    forecast: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise OptionError(f"--guard: {self.name!r} is no name of a tracked value.")
        if self.operator not in _OPERATORS:
            raise OptionError(f"--guard: no operator {self.operator!r}; expected one of {', '.join(_OPERATORS)}.")
        if not math.isfinite(self.threshold):
            raise OptionError(f"--guard: {self.name} is compared with {self.threshold}; expected a finite number.")

    @property
    def names(self) -> tuple[str, ...]:
        """The tracked values that it looks at."""
        return (self.name, f"{FORETOLD}{self.name}") if self.forecast else (self.name,)

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether the comparison is true; of NaN none is."""
        value, *foretold = (values[name] for name in self.names)
        return _OPERATORS[self.operator](value, self.threshold + sum(foretold))

    def __str__(self) -> str:
        if not self.forecast:
            return f"{self.name}{self.operator}{_digits(self.threshold)}"
        more = f"{'+' if self.threshold > 0 else ''}{_digits(self.threshold)}" if self.threshold else ""
        return f"{self.name}{self.operator}forecast{more}"


@dataclass(frozen=True, slots=True)
class Action:
    """What is done when a guard fires.

    Attributes:
        kind: ``warn``: say so. ``stop``: end the run, with everything saved. ``rollback``: go back to the last
            checkpoint. ``sft``: add the negative log-likelihood of the chosen responses to the loss. ``drop``: take the
            pairs out that displace most.
        value: for ``sft`` the weight, above 0; for ``drop`` the share of the pairs, above 0 and below 1; else None.

    Raises:
        OptionError: on creation, for an action that does not exist or a value out of its range.
    """

    kind: Kind
    value: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"--guard: no action {self.kind!r}; expected one of {', '.join(KINDS)}.")
        if not _fits(self.kind, self.value):
            expected = _EXPECTED.get(self.kind, "no value")
            raise OptionError(f"--guard: {self.kind} with {self.value!r}; expected {expected}.")

    def __str__(self) -> str:
        if self.value is None:
            return self.kind
        if self.kind == "drop":
            return f"drop={(Decimal(repr(float(self.value))) * 100).normalize():f}%"
        return f"{self.kind}={_digits(self.value)}"


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard. ``str()`` gives it back as text, always in the same form.

    Attributes:
        conditions: all of them have to hold.
        action: what is done then.
        count: how many looks in a row they have to hold, at least 1.
        after: how many of the run's first looks are not counted. The look before the first step is not one of them:
            nothing has moved at it, and no guard counts it.

    Raises:
        OptionError: on creation, without a condition, with a count below 1 or an ``after`` below 0.
    """

    conditions: tuple[Condition, ...]
    action: Action
    count: int = 1
    after: int = 0

    def __post_init__(self) -> None:
        if not self.conditions:
            raise OptionError(f"--guard: no condition; expected at least one, as in '{EXAMPLE}'.")
        if self.count < 1:
            raise OptionError(f"--guard: for {self.count}; expected a number of looks, 1 or more.")
        if self.after < 0:
            raise OptionError(f"--guard: after {self.after} looks; expected a number of looks, 0 or more.")

    @classmethod
    def parse(cls, text: str) -> Guard:
        """Read ``NAME OP NUMBER [and …] [for N] [after M looks] -> ACTION``; a number may also be ``forecast`` or
        ``forecast + NUMBER``.

        Names are letters, digits and ``_ . / : =``; spaces are free except around ``and``, ``for`` and ``after``.

        Raises:
            OptionError: the text is something else; the message says where, and what was expected there.

        >>> str(Guard.parse("displaced >= .5 for 1 after 3 looks -> drop"))
        'displaced>=0.5 after 3 looks -> drop=5%'
        """
        reader = _Reader(text)
        conditions = [_condition(reader)]
        while reader.take(_AND):
            conditions.append(_condition(reader))
        count, after, expected = 1, 0, "'and', 'for', 'after' or -> and an action"
        if reader.take(_FOR):
            count, expected = _looks(reader), "'after' or -> and an action"
        if reader.take(_AFTER):
            after = _looks(reader)
            reader.need(_LOOKS, "the word looks, as in 'after 3 looks'")
            expected = "-> and an action"
        reader.need(_ARROW, expected)
        action = _action(reader)
        if not reader.ended():
            raise reader.error("nothing more")
        return cls(tuple(conditions), action, count, after)

    def __str__(self) -> str:
        lasting = f" for {self.count}" if self.count > 1 else ""
        later = f" after {self.after} look{'s' if self.after > 1 else ''}" if self.after else ""
        return f"{' and '.join(map(str, self.conditions))}{lasting}{later} -> {self.action}"

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether all conditions hold now."""
        return all(condition.holds(values) for condition in self.conditions)

    def check(self, tracked: Collection[str]) -> None:
        """Look whether all names are tracked.

        Raises:
            OptionError: one is not; the message lists those that are.
        """
        for name in (name for condition in self.conditions for name in condition.names):
            if name not in tracked and name.startswith(FORETOLD):
                raise OptionError(
                    f"--guard {str(self)!r}: there is no forecast of {name.removeprefix(FORETOLD)}; give --scores with "
                    "the folder that `undertow forecast` wrote for this run (a share needs its look)."
                )
            if name not in tracked:
                alike = difflib.get_close_matches(name, tracked, n=1)
                hint = f" Did you mean {alike[0]}?" if alike else ""
                known = ", ".join(sorted(tracked)) or "nothing"
                raise OptionError(f"--guard {str(self)!r}: {name} is not tracked.{hint} Tracked are: {known}.")


@dataclass(frozen=True, slots=True)
class Firing:
    """A guard that fired: at which step, on which values, and what is to be done."""

    step: int
    guard: str
    values: Mapping[str, float]
    action: Action

    def record(self) -> dict[str, Any]:
        """For a line of JSON, which has no infinity: such a value is None there."""
        return {
            "step": self.step,
            "guard": self.guard,
            "action": self.action.kind,
            "action_value": self.action.value,
            "values": {name: value if math.isfinite(value) else None for name, value in self.values.items()},
        }


@dataclass(slots=True)
class GuardState:
    """A guard and how far it has counted.

    Attributes:
        guard: the guard.
        hits: how many looks in a row it has held since it last fired.
        step: the step of its last look; a run that goes on from a checkpoint may take that look again.
        stopped: it has stopped the run, which happens once.
        looks: how many looks it has had, those before it began to count among them.
    """

    guard: Guard
    hits: int = 0
    step: int | None = None
    stopped: bool = False
    looks: int = 0

    def observe(self, step: int, values: Mapping[str, float]) -> Firing | None:
        """Take one look; what to do, when the guard has held long enough. It then starts counting anew.

        The same step twice in a row counts once.

        Raises:
            OptionError: the guard names a value that is not tracked.
        """
        self.guard.check(values)
        if step == self.step:
            return None
        self.step = step
        self.looks += 1
        counts = self.looks > self.guard.after
        self.hits = self.hits + 1 if counts and self.guard.holds(values) else 0
        if self.stopped or self.hits < self.guard.count:
            return None
        self.hits = 0
        self.stopped = self.guard.action.kind == "stop"
        seen = {name: float(values[name]) for condition in self.guard.conditions for name in condition.names}
        return Firing(step, str(self.guard), seen, self.guard.action)

    def rewind(self) -> None:
        """The run has gone back to an earlier step: the hits that were counted belong to work that is undone."""
        self.hits, self.step = 0, None

    def to_json(self) -> dict[str, Any]:
        """A value for JSON, to go on from."""
        return {
            "guard": str(self.guard),
            "hits": self.hits,
            "step": self.step,
            "stopped": self.stopped,
            "looks": self.looks,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GuardState:
        """The state that :meth:`to_json` told; a ``KeyError`` where that is incomplete."""
        return cls(Guard.parse(value["guard"]), *(value[name] for name in ("hits", "step", "stopped", "looks")))


@dataclass(slots=True)
class Guards:
    """Several guards, each counting for itself."""

    states: list[GuardState]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Guards:
        """Guards from what was typed, in that order; none are none. Raises like :meth:`Guard.parse`."""
        return cls([GuardState(Guard.parse(text)) for text in texts])

    @property
    def names(self) -> list[str]:
        """What they watch."""
        return [name for state in self.states for condition in state.guard.conditions for name in condition.names]

    def check(self, tracked: Collection[str]) -> None:
        """Look whether all names of all guards are tracked; an :class:`OptionError` where not."""
        for state in self.states:
            state.guard.check(tracked)

    def observe(self, step: int, values: Mapping[str, float]) -> list[Firing]:
        """Take one look; the guards that fire, in their order. After an error no guard has counted it."""
        self.check(values)
        firings = [state.observe(step, values) for state in self.states]
        return [firing for firing in firings if firing is not None]

    def rewind(self) -> None:
        """The run has gone back to an earlier step; all guards count anew."""
        for state in self.states:
            state.rewind()

    def to_json(self) -> list[dict[str, Any]]:
        """A value for JSON, to go on from."""
        return [state.to_json() for state in self.states]

    @classmethod
    def from_json(cls, value: Sequence[Mapping[str, Any]]) -> Guards:
        """The state that :meth:`to_json` told."""
        return cls([GuardState.from_json(one) for one in value])


class _Reader:
    """A place in a guard's text, moved on by what is found there; spaces between are passed over."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self._skip()

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What stands here, if it is this."""
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
            self._skip()
        return found

    def need(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        """What stands here, which has to be this."""
        found = self.take(pattern)
        if found is None:
            raise self.error(expected)
        return found

    def ended(self) -> bool:
        """Nothing is left."""
        return self.at == len(self.text)

    def error(self, expected: str, at: int | None = None) -> OptionError:
        """What to raise when something else stands here, or at an earlier place."""
        at = self.at if at is None else at
        got = repr(self.text[at:]) if self.text[at:] else "the end"
        return OptionError(
            f"--guard {self.text!r}: at character {at + 1} expected {expected}, got {got}. "
            f"A whole guard is for example '{EXAMPLE}'."
        )

    def _skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1


def _condition(reader: _Reader) -> Condition:
    name = reader.need(_NAME, "the name of a tracked value (letters, digits, _ . / : =)")[0]
    symbol = reader.need(_OPERATOR, f"one of {' '.join(_OPERATORS)}")[0]
    if not reader.take(_FORECAST):
        return Condition(name, symbol, _number(reader, "a finite number, or the word forecast"))
    sign = reader.take(_SIGN)
    more = _number(reader, "a finite number") if sign else 0.0
    return Condition(name, symbol, -more if sign and sign[0] == "-" else more, forecast=True)


def _looks(reader: _Reader) -> int:
    at, expected = reader.at, "a whole number of looks, 1 or more"
    count = int(reader.need(_COUNT, expected)[0])
    if count < 1:
        raise reader.error(expected, at)
    return count


def _action(reader: _Reader) -> Action:
    found = reader.need(_ACTION, "an action: warn, stop, rollback, sft=NUMBER, drop or drop=PERCENT")
    kind, at = cast(Kind, found[0]), reader.at
    if kind == "sft":
        reader.need(_EQUALS, "= and a weight, as in sft=0.1")
        at, value = reader.at, _number(reader, _EXPECTED[kind])
    elif kind == "drop" and reader.take(_EQUALS):
        at = reader.at
        # 12.3% is the share 0.123 as typed, without the rounding of a binary division.
        value = float(Decimal(reader.need(_PERCENT, _EXPECTED[kind])[1]) / 100)
    else:
        return Action(kind, DEFAULT_DROP if kind == "drop" else None)
    if not _fits(kind, value):
        raise reader.error(_EXPECTED[kind], at)
    return Action(kind, value)


def _number(reader: _Reader, expected: str) -> float:
    at = reader.at
    value = float(reader.need(_NUMBER, expected)[0])
    if not math.isfinite(value):
        raise reader.error(expected, at)
    return value


def _fits(kind: Kind, value: float | None) -> bool:
    if kind in ("sft", "drop"):
        return value is not None and 0 < value < (1 if kind == "drop" else math.inf)
    return value is None


def _digits(value: float) -> str:
    return repr(float(value)).removesuffix(".0")

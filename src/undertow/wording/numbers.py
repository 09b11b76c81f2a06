"""Numbers as people read them in a sentence, on a card and in a cell, on a page and on a terminal: one way each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from undertow.wording.visible import visible

__all__ = [
    "MISSING",
    "counted",
    "duration",
    "interval",
    "nats",
    "nats_of",
    "number",
    "of_all",
    "percent",
    "rose",
    "shown_as",
    "signed",
    "signed_nats",
    "times",
    "token",
    "typed",
]

MISSING = "–"
MINUS = "−"
Interval = Mapping[str, float | None]


def number(value: object, *, digits: int = 3) -> str:
    """A value with so many significant digits; whole numbers in full, what is missing or no number as a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if not isinstance(value, float) or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")  # 9.999 is 10.0, not 10.00
    size = abs(rounded)
    if size >= 1e6 or size < 1e-4:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    before_point = math.floor(math.log10(size)) + 1
    return f"{rounded:,.{max(digits - before_point, 0)}f}".replace("-", MINUS)


def typed(value: object, *, digits: int = 4) -> str:
    """A value for the terminal: as :func:`number` writes it, in characters that an option takes again.

    >>> typed(-1234.56), typed(0.0000123), typed(12)
    ('-1235', '1.230e-05', '12')
    """
    return number(value, digits=digits).replace(MINUS, "-").replace(",", "")


def nats(value: float | None, *, digits: int = 3) -> str:
    """The size of an amount of log-probability, with its unit; the sign is said in words beside it."""
    return f"{number(abs(value), digits=digits)} nats" if value is not None else MISSING


def signed(value: float | None, *, digits: int = 3) -> str:
    """A change, its sign always there."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = number(float(value), digits=digits)
    return text if text.startswith(MINUS) or value == 0 else f"+{text}"


def nats_of(value: float | None) -> str:
    """The size of an amount of log-probability as a sentence says it: one decimal, below one nat two digits.

    >>> nats_of(-14.62), nats_of(0.0321)
    ('14.6', '0.032')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    return f"{size:,.1f}" if size >= 1 else number(size, digits=2)


def signed_nats(value: float | None) -> str:
    """The same with its sign.

    >>> signed_nats(-3.14), signed_nats(27.66), signed_nats(0.0)
    ('−3.1', '+27.7', '0')
    """
    size = nats_of(value)
    return size if size in (MISSING, "0") else f"{'+' if value and value > 0 else MINUS}{size}"


def duration(seconds: float) -> str:
    """A length of time in its largest fitting unit, two digits.

    >>> duration(12.3), duration(252), duration(9000)
    ('12 s', '4.2 min', '2.5 h')
    """
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds)} s"


def _two_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else number(float(value), digits=2)


def percent(share: float | None) -> str:
    """A share in whole percent; only none and all are written as 0% and 100%."""
    if share is None or not math.isfinite(share):
        return MISSING
    if 0 < share <= 0.005:
        return "less than 1%"
    if 0.995 <= share < 1:
        return "more than 99%"
    return f"{share:.0%}"


def interval(found: Interval, show: str = "number") -> str:
    """The 95% interval of an estimate, as ``low to high``; a dash where there is none."""
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return MISSING
    written = shown_as(show)
    return f"{written(low)} to {written(high)}"


def shown_as(how: str) -> Callable[[float | None], str]:
    """A way of writing by its name: ``number``, ``percent`` or ``signed``."""
    ways: dict[str, Callable[[float | None], str]] = {"number": number, "percent": percent, "signed": signed}
    return ways[how]


def rose(value: float, *, up: str = "rose", down: str = "fell", still: str = "did not move") -> str:
    """What a log-probability did, with the size: ``fell by 8.12 nats``."""
    if value == 0 or not math.isfinite(value):
        return still
    return f"{up if value > 0 else down} by {nats(value)}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def of_all(count: int, pairs: int, noun: str) -> str:
    """A count with all there are: ``31 of 60 pairs (52%)``; none and all in words."""
    if pairs and not count:
        return f"none of {counted(pairs, noun)}"
    if pairs and count == pairs and pairs > 1:
        return f"all {counted(pairs, noun)}"
    return f"{count:,} of {counted(pairs, noun)} ({percent(count / pairs)})" if pairs else f"no {noun}"


def times(count: int) -> str:
    """How often."""
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def token(text: str) -> str:
    """A token in quotation marks, its spaces and line ends to be seen.

    >>> token(" the")
    '“␣the”'
    """
    return f"“{visible(text).translate(_SPACES)}”"


_SPACES = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})

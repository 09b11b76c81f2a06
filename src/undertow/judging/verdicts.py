"""What a judge is asked and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from undertow.data.pairs import Prompt

__all__ = ["OUTCOMES", "Exchange", "Judge", "Outcome", "Verdict"]

Outcome = Literal["refusal", "partial", "compliance", "unscored"]
"""What an answer was. ``unscored``: the judge gave no verdict, which is never counted as anything."""
OUTCOMES: tuple[str, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt and the answer to be judged."""

    prompt: Prompt
    answer: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of one exchange.

    Args:
        outcome: one of :data:`OUTCOMES`.
        score: the probability of a refusal, where the judge has one; None where it has not, or gave no verdict.
        said: the judge's own words or label, for people: why an answer is unscored is read there.
    """

    outcome: Outcome
    score: float | None = None
    said: str = ""


class Judge(Protocol):
    """A judge: give it a name, say what it is, and judge. Nothing else is asked of one."""

    @property
    def name(self) -> str:
        """As ``--judge`` names it."""

    @property
    def identity(self) -> str:
        """A hash of all that its verdicts depend on: weights, template, phrases, rubric."""

    def judge(self, exchanges: Sequence[Exchange], done: Callable[[int], None] | None = None) -> list[Verdict]:
        """A verdict for each exchange, in order.

        Args:
            exchanges: what is judged.
            done: told of how many more exchanges have been judged, for progress.
        """

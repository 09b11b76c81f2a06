"""What a run found, in words: pure functions of its numbers, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from undertow.wording.losses import written
from undertow.wording.names import LABELS
from undertow.wording.numbers import counted, of_all, percent

__all__ = ["Verdict", "audit_verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A headline in three parts, the middle one the number, and the sentences after it.

    ``tone``: ``bad`` where something falls, ``good`` where nothing does, empty where the scores do not say.
    """

    before: str
    number: str
    after: str
    sentences: tuple[str, ...]
    tone: str = ""

    @property
    def headline(self) -> str:
        """The three parts as one sentence."""
        return f"{self.before}{self.number}{self.after}."


def audit_verdict(
    pairs: int, *, by: str, loss: str, falling: Mapping[str, int], other_losses: Mapping[str, float] | None = None
) -> Verdict:
    """The verdict of an audit: what the loss will do, or, without exact products, what can be said.

    Args:
        pairs: how many were scored.
        by: the best score there is to rank the pairs by.
        loss: the audit's, as an expression.
        falling: how many chosen responses fall, to first order: by a step on the pair alone (``own``), with the hidden
            embeddings free (``free``), under the gradient of all pairs (``pull``, where it is known). Empty where the
            scores do not say.
        other_losses: the share of pairs whose chosen response falls under other losses, by name; None where that was
            not computed.
    """
    if not falling:
        return _ranking(pairs, by)
    own, pull = falling["own"], falling.get("pull")
    under = f"Under {written(loss)}, "
    if not own and pull:
        head = (f"{under}training on these pairs will pull ", f"{of_all(pull, pairs, 'chosen response')}", " down")
    elif not own:
        # "None will fall" would be read as a forecast of a run, which a step on one pair is not.
        verb = "is" if pairs == 1 else "are"
        head = (
            under,
            counted(pairs, "pair"),
            f" {verb} ranked: no step on a pair by itself lowers its chosen response",
        )
    else:
        whose = "its own chosen response" if own == 1 else "their own chosen response"
        head = (under, of_all(own, pairs, "pair"), f" will pull {whose} down")
    sentences = [*_further(pairs, falling)]
    if other_losses and pairs:
        sentences.append(_compared(own / pairs, other_losses))
    return Verdict(*head, sentences=tuple(sentences), tone="bad" if own or pull else "")


def _further(pairs: int, falling: Mapping[str, int]) -> Iterator[str]:
    own, free, pull = falling["own"], falling["free"], falling.get("pull")
    if own:
        yield (
            "This is the first-order effect of one training step on the pair alone. "
            f"If the hidden embeddings move too, it is {of_all(free, pairs, 'pair')}."
        )
    else:
        fall = of_all(free, pairs, "chosen response")
        yield (
            "One training step on its own pair alone lowers none of them, to first order"
            if pull
            else "This is the first-order effect of one training step on the pair alone"
        ) + f"; if the hidden embeddings move too, {fall} would fall."
    if pull is not None and own:
        yield f"Under the gradient of all pairs together {of_all(pull, pairs, 'chosen response')} will fall."
    elif pull == 0:
        yield "Under the gradient of all pairs together no chosen response falls either."
    elif pull is None:
        yield "The effect of the pairs on each other is not included: audit with --pull to measure it."


def _compared(ours: float, others: Mapping[str, float]) -> str:
    least, most = min(others, key=lambda name: others[name]), max(others, key=lambda name: others[name])
    fewest, greatest = percent(others[least]), percent(others[most])
    if others[least] == others[most] == ours:
        return f"{len(others)} other losses, at their usual parameters, give the same share for such a step."
    more, fewer = (sum(sign * (share - ours) > 0 for share in others.values()) for sign in (1, -1))
    if not more:
        return (
            f"No other loss would pull down more with such a step; {fewer} of {len(others)} would pull down fewer, "
            f"{least} fewest ({fewest})."
        )
    if not fewer:
        return (
            f"No other loss would pull down fewer with such a step; {more} of {len(others)} would pull down more, "
            f"{most} most ({greatest})."
        )
    return (
        f"Of {len(others)} other losses, at their usual parameters, {fewer} would pull down fewer, {least} fewest "
        f"({fewest}), and {more} more, {most} most ({greatest})."
    )


def _ranking(pairs: int, by: str) -> Verdict:
    return Verdict(
        "",
        counted(pairs, "pair"),
        f" ranked by {LABELS[by]}",
        ("The most displacing come first. To learn how many will displace, audit with --level unembedding.",),
    )

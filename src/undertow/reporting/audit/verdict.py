"""What an audit found, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from undertow.filtering.by_loss import LossEffect
from undertow.reporting.audit.reading import Audited
from undertow.wording.losses import written
from undertow.wording.numbers import counted, percent

__all__ = ["Verdict", "of_pairs", "verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A headline in three parts, the middle one the number, and sentences that go on.

    ``tone``: ``bad`` where something falls, ``good`` where nothing does, empty where the scores do not say.
    """

    before: str
    number: str
    after: str
    sentences: tuple[str, ...]
    tone: str = ""


def verdict(audited: Audited) -> Verdict:
    """The headline of an audit: what the loss will do, or, without exact products, what can be said."""
    if not audited.exact:
        return _ranked(audited)
    found = {name: int(mask.sum()) for name, mask in audited.falls.items()}
    own, pull, pairs = found["own"], found.get("pull"), audited.pairs
    under = f"Under {written(audited.loss)}, "
    if not own and pull:
        head = (f"{under}training on these pairs will pull ", f"{of_pairs(pull, pairs, 'chosen response')}", " down")
    elif not own:
        head = (under, f"none of {counted(pairs, 'pair')}", " will pull its own chosen response down")
    else:
        whose = "its own chosen response" if own == 1 else "their own chosen response"
        head = (under, of_pairs(own, pairs, "pair"), f" will pull {whose} down")
    return Verdict(*head, sentences=tuple(_further(audited, found)), tone="bad" if own or pull else "good")


def of_pairs(count: int, pairs: int, noun: str) -> str:
    """``31 of 60 pairs (52%)``; none and all in words."""
    if pairs and not count:
        return f"none of {counted(pairs, noun)}"
    if pairs and count == pairs and pairs > 1:
        return f"all {counted(pairs, noun)}"
    return f"{count:,} of {counted(pairs, noun)} ({percent(count / pairs)})" if pairs else f"no {noun}"


def _further(audited: Audited, found: dict[str, int]) -> Iterator[str]:
    own, free, pull, pairs = found["own"], found["free"], found.get("pull"), audited.pairs
    if own:
        yield (
            "That is the first-order effect of one training step on the pair alone. "
            f"With the hidden embeddings free to move too, it is {of_pairs(free, pairs, 'pair')}."
        )
    else:
        falling = of_pairs(free, pairs, "chosen response")
        yield (
            "By one training step on its own pair alone none would fall, to first order"
            if pull
            else "That is the first-order effect of one training step on the pair alone"
        ) + f"; with the hidden embeddings free to move too, {falling} would."
    if pull is not None and own:
        yield f"Under the gradient of all pairs together {of_pairs(pull, pairs, 'chosen response')} will fall."
    elif pull == 0:
        yield "Nor does any chosen response fall under the gradient of all pairs together."
    elif pull is None:
        yield "What the pairs do to each other is not in this: audit with --pull to measure it."
    others = [effect for effect in audited.losses[0] if not effect.audited]
    if others:
        yield _compared(audited.losses[0][0], others)


def _compared(ours: LossEffect, others: Sequence[LossEffect]) -> str:
    least, most = min(others, key=lambda one: one.share), max(others, key=lambda one: one.share)
    if least.share == most.share == ours.share:
        return f"Such a step gives the same share under each of {len(others)} other losses, at their usual parameters."
    worse, better = (sum(sign * (one.share - ours.share) > 0 for one in others) for sign in (1, -1))
    if not worse:
        return (
            f"By such a step no other loss would pull down more; {better} of {len(others)} would pull down fewer, "
            f"{least.name} fewest ({percent(least.share)})."
        )
    if not better:
        return (
            f"By such a step no other loss would pull down fewer; {worse} of {len(others)} would pull down more, "
            f"{most.name} most ({percent(most.share)})."
        )
    return (
        f"Of {len(others)} other losses, at their usual parameters, {better} would pull down fewer, {least.name} "
        f"fewest ({percent(least.share)}), and {worse} more, {most.name} most ({percent(most.share)})."
    )


def _ranked(audited: Audited) -> Verdict:
    if audited.level == "text":
        by, needs = "token edit distance", "a model"
    else:
        by, needs = "length-normalised CHES", "the exact products"
    return Verdict(
        "",
        counted(audited.pairs, "pair"),
        f" ranked by {by}",
        (
            f"The most displacing come first; how many will displace takes {needs}: "
            "audit with --level unembedding to learn it.",
        ),
    )

"""Pairs out of single labelled responses: the i-th good with the i-th bad of the same prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from undertow.data.by_columns import merged
from undertow.data.layouts.formats import Labelled
from undertow.data.pairs import BadRow, Pair, Prompt
from undertow.data.rows import RawRow


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: int
    file: str
    line: int
    completion: str
    by: tuple[str, ...]


class Matcher:
    """Holds the rows that still wait for their counterpart, and only those."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[Prompt, bool], deque[_Waiting]] = {}

    def add(self, raw: RawRow, labelled: Labelled, by: tuple[str, ...] = ()) -> Iterator[Pair | BadRow]:
        """What a row completes: a pair, two bad rows where both responses are the same, or nothing yet."""
        ours = _Waiting(raw.row, raw.file, raw.line, labelled.completion, by)
        theirs = self._take(labelled.prompt, not labelled.label)
        if theirs is None:
            self._waiting.setdefault((labelled.prompt, labelled.label), deque()).append(ours)
        elif theirs.completion == ours.completion:
            for one, other in ((theirs, ours), (ours, theirs)):
                yield _bad(one, f"identical to the completion with the opposite label (row {other.row})")
        else:
            good, bad = (ours, theirs) if labelled.label else (theirs, ours)
            yield Pair(
                row=ours.row,
                prompt=labelled.prompt,
                chosen=good.completion,
                rejected=bad.completion,
                file=ours.file,
                line=ours.line,
                rows=(theirs.row, ours.row),
                by=merged(good.by, bad.by),
            )

    def leftovers(self) -> Iterator[BadRow]:
        """The rows that no other matched, in their order."""
        left = [(one, label) for (_, label), queue in self._waiting.items() for one in queue]
        for one, label in sorted(left, key=lambda entry: entry[0].row):
            came = "true" if label else "false"
            yield _bad(one, f"no completion with the opposite label for this prompt (here `label` is {came})")

    def _take(self, prompt: Prompt, label: bool) -> _Waiting | None:
        queue = self._waiting.get((prompt, label))
        if queue is None:
            return None
        first = queue.popleft()
        if not queue:
            del self._waiting[prompt, label]
        return first


def _bad(one: _Waiting, reason: str) -> BadRow:
    return BadRow(one.row, one.file, one.line, reason)

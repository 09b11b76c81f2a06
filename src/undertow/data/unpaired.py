"""``unpaired`` rows to pairs: within a prompt, the i-th good response with the i-th bad one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from undertow.data.fields import RowError, conversation, one_answer, responses_differ, shorten, text
from undertow.data.pairs import BadRow, Message, Pair, Prompt
from undertow.data.sources import RawRow


class _Half(NamedTuple):
    raw: RawRow
    completion: str


class Pairing:
    """Holds responses that wait for their other half, and nothing else."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[Prompt, bool], deque[_Half]] = {}

    def add(self, raw: RawRow) -> Pair | None:
        """The pair this row completes, or None while it waits. The pair stands where its later row stands."""
        assert raw.value is not None
        prompt, completion, label = _parts(raw)
        others = self._waiting.get((prompt, not label))
        if not others:
            # Values are not kept: a waiting half costs its text, not its row.
            self._waiting.setdefault((prompt, label), deque()).append(_Half(_light(raw), completion))
            return None
        other = others.popleft()
        if not others:
            del self._waiting[prompt, not label]
        chosen, rejected = (completion, other.completion) if label else (other.completion, completion)
        responses_differ(chosen, rejected)
        return Pair(raw.row, prompt, chosen, rejected, raw.file, raw.line, rows=(other.raw.row, raw.row))

    def left(self) -> Iterator[BadRow]:
        """Responses that found no other half, in row order."""
        halves = sorted((half.raw for waiting in self._waiting.values() for half in waiting), key=lambda raw: raw.row)
        for raw in halves:
            yield BadRow(raw.row, raw.file, raw.line, "no completion with the opposite label for this prompt")


def _parts(raw: RawRow) -> tuple[Prompt, str, bool]:
    row = raw.value or {}
    label = row.get("label")
    if not isinstance(label, bool):
        raise RowError(f"`label` must be true or false, found {shorten(label)}")
    if isinstance(row.get("prompt"), list):
        prompt: str | tuple[Message, ...] = conversation(row, "prompt")
        return prompt, one_answer(conversation(row, "completion"), "completion"), label
    return text(row, "prompt"), text(row, "completion"), label


def _light(raw: RawRow) -> RawRow:
    return RawRow(raw.row, raw.file, raw.line, None)

"""Single labelled responses, and pairs out of them: the i-th good with the i-th bad of the same prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from undertow.data.by_columns import merged
from undertow.data.layouts.assembly import question, tools, whole_prompt
from undertow.data.layouts.layout import ANSWER, ANY, TEXT_OR_LIST, Columns, Labelled, Layout, Part, find_parts
from undertow.data.layouts.values import MisfitError, Row, answer, asked, is_turns, reply, turns
from undertow.data.layouts.vocabulary import COMPLETIONS, CONVERSATIONS, LABELS, PROMPTS, truth
from undertow.data.pairs import BadRow, Message, Pair, Prompt
from undertow.data.rows import RawRow, shown


def _labelled(row: Row, at: Columns) -> Labelled:
    if at["completion"] != at["prompt"]:
        prompt = question(row, at)
        completion = answer(row[at["completion"]], f"`{at['completion']}`")
    else:
        where = f"`{at['prompt']}`"
        whole = turns(row[at["prompt"]], where)
        prompt = asked(whole[:-1], f"what comes before the last message of {where}")
        completion = reply(whole[-1:], f"the end of {where}")
    return Labelled(whole_prompt(prompt, row, at), completion, _label(row, at), tools(row, at))


def _find(parts: tuple[Part, ...], row: Row) -> dict[str, str]:
    """A conversation without a column for its response ends with it: both parts then stand in one column."""
    whole = next((name for name in CONVERSATIONS if is_turns(row.get(name))), None)
    if whole is None or any(name in row for name in COMPLETIONS):
        return find_parts(parts, row)
    rest = find_parts(parts, {name: value for name, value in row.items() if name != whole})
    return {**rest, "prompt": whole, "completion": whole}


def _label(row: Row, at: Columns) -> bool:
    said = truth(row[at["label"]])
    if said is None:
        expected = "true or false (or 1, 0, yes, no, desirable, undesirable)"
        raise MisfitError(f"`{at['label']}` is {shown(row[at['label']])}, expected {expected}")
    return said


UNPAIRED = Layout(
    "unpaired",
    (
        Part("prompt", (*PROMPTS, *CONVERSATIONS), TEXT_OR_LIST),
        Part("completion", COMPLETIONS, ANSWER),
        Part("label", LABELS, ANY),
    ),
    _labelled,
    when=lambda row: any(truth(row.get(name)) is not None for name in LABELS),
    find=_find,
)


_Asked = tuple[Prompt, str]  # with the tools


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: int
    file: str
    line: int
    completion: Message
    by: tuple[str, ...]


class Matcher:
    """Holds the rows that still wait for their counterpart, and only those."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[_Asked, bool], deque[_Waiting]] = {}

    def add(self, raw: RawRow, labelled: Labelled, by: tuple[str, ...] = ()) -> Iterator[Pair | BadRow]:
        """What a row completes: a pair, two bad rows where both responses are the same, or nothing yet."""
        ours = _Waiting(raw.row, raw.file, raw.line, labelled.completion, by)
        asks = labelled.prompt, labelled.tools
        theirs = self._take(asks, not labelled.label)
        if theirs is None:
            self._waiting.setdefault((asks, labelled.label), deque()).append(ours)
        elif theirs.completion == ours.completion:
            for one, other in ((theirs, ours), (ours, theirs)):
                yield _bad(one, f"identical to the completion with the opposite label (row {other.row})")
        else:
            good, bad = (ours, theirs) if labelled.label else (theirs, ours)
            yield Pair(
                row=ours.row,
                prompt=labelled.prompt,
                chosen=good.completion.content,
                rejected=bad.completion.content,
                file=ours.file,
                line=ours.line,
                rows=(theirs.row, ours.row),
                by=merged(good.by, bad.by),
                chosen_extra=good.completion.extra,
                rejected_extra=bad.completion.extra,
                tools=labelled.tools,
            )

    def leftovers(self) -> Iterator[BadRow]:
        """The rows that no other matched, in their order."""
        left = [(one, label) for (_, label), queue in self._waiting.items() for one in queue]
        for one, label in sorted(left, key=lambda entry: entry[0].row):
            came = "true" if label else "false"
            yield _bad(one, f"no completion with the opposite label for this prompt (here `label` is {came})")

    def _take(self, asks: _Asked, label: bool) -> _Waiting | None:
        queue = self._waiting.get((asks, label))
        if queue is None:
            return None
        first = queue.popleft()
        if not queue:
            del self._waiting[asks, label]
        return first


def _bad(one: _Waiting, reason: str) -> BadRow:
    return BadRow(one.row, one.file, one.line, reason)

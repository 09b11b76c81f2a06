"""What a preference pair is: the one form that every layout of data is turned into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: ``role`` is system, user, assistant or what the data says; ``content`` is text.

    ``extra`` are the turn's further fields that a chat template may read (reasoning, tool calls, a tool's name), as
    canonical JSON (see :func:`canonical`); empty where there are none.
    """

    role: str
    content: str
    extra: str = ""

    def record(self) -> dict[str, Any]:
        """The turn as a chat template reads it."""
        return {"role": self.role, "content": self.content, **(json.loads(self.extra) if self.extra else {})}


def canonical(fields: Mapping[str, Any] | Sequence[Any]) -> str:
    """Fields, or a list, as JSON of one form, so that equal data are equal text; empty text for none.

    Keys keep their order: chat templates write tools out in the order in which the data have them.
    """
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) if fields else ""


Prompt = str | tuple[Message, ...]
"""A prompt is a plain string, kept to the letter, or a conversation that ends before the response."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with a chosen and a rejected response, and where it came from.

    ``row`` is the 0-based position in the input; ``line`` is the 1-based line in a text file and the 1-based row in a
    table file. ``rows`` are all input rows the pair was made of (more than one for ``unpaired`` data only). ``by`` are
    the values, as text, of those other columns of the data that were asked for, in the order they were asked for.
    ``chosen_extra`` and ``rejected_extra`` are further fields of the two responses' turns, and ``tools`` the tools that
    the conversation may use: canonical JSON (``tools`` a list), empty where there are none.
    """

    row: int
    prompt: Prompt
    chosen: str
    rejected: str
    file: str = ""
    line: int = 0
    rows: tuple[int, ...] = ()
    by: tuple[str, ...] = ()
    chosen_extra: str = ""
    rejected_extra: str = ""
    tools: str = ""

    @property
    def pair_id(self) -> str:
        """16 hex digits: a hash of prompt, chosen and rejected. Equal text has an equal id, wherever it stands."""
        prompt = (
            self.prompt
            if isinstance(self.prompt, str)
            else [[m.role, m.content, *([m.extra] if m.extra else [])] for m in self.prompt]
        )
        parts: list[Any] = [prompt, self.chosen, self.rejected]
        if self.chosen_extra or self.rejected_extra or self.tools:
            parts += [self.chosen_extra, self.rejected_extra, self.tools]
        text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def prompt_text(self) -> str:
        """The prompt as one text for people: of a conversation, a block ``role: content`` for each turn."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(" ".join(filter(None, (f"{m.role}: {m.content}", m.extra))) for m in self.prompt)

    @property
    def source_rows(self) -> tuple[int, ...]:
        """The input rows this pair was made of."""
        return self.rows or (self.row,)


@dataclass(frozen=True, slots=True)
class BadRow:
    """An input row that cannot be used, and why."""

    row: int
    file: str
    line: int
    reason: str

    @property
    def place(self) -> str:
        """Where the row stands, for people: ``prefs.jsonl, line 7 (row 6)``."""
        return f"{self.file}, line {self.line} (row {self.row})"

    def record(self) -> dict[str, object]:
        """One line of ``skipped.jsonl``."""
        return asdict(self)

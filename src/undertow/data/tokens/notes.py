"""What happened to the responses of a data set on their way to tokens, counted, and the same in plain sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from undertow.data.tokens.templates import TextPair


@dataclass(slots=True)
class EncodingNotes:
    """Counts over all pairs that could be laid out as text, those that were set aside later included.

    ``truncated`` and ``tokens_cut`` are over the pairs that became tokens. Counts do not depend on the order of pairs.
    """

    max_length: int
    eot: bool
    pairs: int = 0
    templated: int = 0
    """Pairs whose text carries the chat template's tokens already."""
    own_ends: Counter[str] = field(default_factory=Counter)
    """Responses whose text ends with an end token of the tokenizer's own, by the token."""
    foreign_ends: Counter[str] = field(default_factory=Counter)
    """Responses whose text ends with an end token of other models, by the token."""
    without_reasoning: int = 0
    """Responses whose reasoning the chat template leaves out."""
    cut_by_template: int = 0
    """Responses of whose text the chat template leaves something out."""
    cut_before_think: int = 0
    """Those of them that lose all that stands before ``</think>``."""
    truncated: int = 0
    """Responses that ``max_length`` cuts."""
    tokens_cut: int = 0
    """The tokens that this takes away."""

    def add(self, text: TextPair) -> None:
        """Count a pair that was laid out."""
        self.pairs += 1
        self.templated += text.templated
        for response in (text.chosen, text.rejected):
            if response.own_end:
                self.own_ends[response.own_end.strip()] += 1
            if response.foreign_end:
                self.foreign_ends[response.foreign_end] += 1
            self.without_reasoning += response.without_reasoning
            self.cut_by_template += response.cut
            self.cut_before_think += response.cut_before_think

    def add_truncation(self, *lengths: int, room: int) -> None:
        """Count the responses of a pair that are longer than the ``room`` for them, in tokens."""
        for length in lengths:
            self.truncated += length > room
            self.tokens_cut += max(length - room, 0)

    def record(self) -> dict[str, object]:
        """The counts as a run's summary keeps them under ``tokens``, with the sentences."""
        return {
            "pairs_already_templated": self.templated,
            "responses_with_end_token": dict(sorted(self.own_ends.items())),
            "responses_with_foreign_end_token": dict(sorted(self.foreign_ends.items())),
            "responses_without_reasoning": self.without_reasoning,
            "responses_cut_by_template": self.cut_by_template,
            "responses_cut_before_think": self.cut_before_think,
            "responses_truncated": self.truncated,
            "tokens_truncated": self.tokens_cut,
            "notes": list(self.sentences()),
        }

    def sentences(self) -> Iterator[str]:
        """What a user should know, one sentence or two for each kind of thing that happened, in a fixed order."""
        if self.templated:
            yield (
                f"{self.templated:,} of {self.pairs:,} pairs already carried the tokens of the chat template and were "
                "used as they are. Where that is wrong, give --template chat or --template plain."
            )
        if self.own_ends:
            done = "it is the end of the turn, and no second one was added" if self.eot else "--no-eot left it out"
            tokens = " or ".join(sorted(self.own_ends))
            yield f"{self._of(self.own_ends.total())} already ended with the tokenizer's own {tokens}: {done}."
        for token, count in sorted(self.foreign_ends.items()):
            yield (
                f"{self._of(count)} ended with {token}, which ends no turn for this tokenizer: "
                "it is a part of the response like any other text."
            )
        if self.without_reasoning:
            yield f"The chat template left the reasoning out of {self._of(self.without_reasoning)}."
        if self.cut_by_template:
            example = " (for example everything before </think>)" if self.cut_before_think else ""
            yield f"The chat template removed text of {self._of(self.cut_by_template)}{example}."
        if self.truncated:
            yield (
                f"{self._of(self.truncated)} lost their end, {self.tokens_cut:,} tokens in all: "
                f"--max-length is {self.max_length}."
            )

    def _of(self, count: int) -> str:
        return f"{count:,} of {2 * self.pairs:,} responses"

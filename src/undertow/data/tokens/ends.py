"""End tokens that a response's text already carries: the tokenizer's own, and those of other models.

Data that were made by rendering a chat template once and saving the text have the end of the turn in the text of each
response. Where it is the tokenizer's own, it is the end of the turn, and no second one is added; where it is another
model's, it is text like any other, and worth telling.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KNOWN_ENDS = (
    "</s>",
    "<eos>",
    "<|end|>",
    "<|eot|>",
    "[/INST]",
    "<|eos|>",
    "<|return|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|endofturn|>",
    "<|endoftext|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_role|>",
    "<｜end▁of▁sentence｜>",
)
"""What the chat templates and tokenizers of widely used models end a turn or a text with."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A response's text without its own end: ``own`` is that end as it stood there, ``foreign`` another model's end
    that ``content`` still ends with; each empty where there is none."""

    content: str
    own: str = ""
    foreign: str = ""


class EndTokens:
    """What ends a response for one tokenizer.

    Args:
        own: the texts that do, such as the end-of-turn token and the end-of-sequence token.
    """

    def __init__(self, own: Iterable[str]) -> None:
        # The longest first: " </s>" before "</s>", where the template puts a space there.
        self._own = tuple(sorted({text for text in own if text.strip()}, key=lambda text: (-len(text), text)))

    def split(self, response: str) -> Ending:
        """The response and its end. White space after an end belongs to it; of several own ends the first counts."""
        content, own = response, ""
        while (bare := content.rstrip()).endswith(self._own):
            own = next(text for text in self._own if bare.endswith(text))
            content = bare[: -len(own)]
        foreign = next((token for token in KNOWN_ENDS if bare.endswith(token)), "")  # its own are gone
        return Ending(content, own, foreign)

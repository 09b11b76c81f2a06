"""Tokens as the text they stand for, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["pieces", "text_of"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BEFORE = 16
"""Tokens that a piece is decoded with: more than one character takes."""


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of tokens, special ones by their names."""
    found: str = tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return found


def pieces(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text; together they are the text.

    Of a character that several tokens spell, the last of them has it and the others have nothing.
    """
    found: list[str] = []
    start, before = 0, ""
    for end in range(1, len(tokens) + 1):
        whole = text_of(tokenizer, tokens[start:end])
        if whole.endswith(_REPLACEMENT) and end < len(tokens) and end - start < 2 * _BEFORE:
            found.append("")  # the character goes on in the next token
            continue
        if whole.startswith(before):
            found.append(whole[len(before) :])
        else:  # what comes after has changed what is before
            found.append(text_of(tokenizer, tokens[end - 1 : end]))
        if end - start >= _BEFORE:
            start = end - 1
        before = text_of(tokenizer, tokens[start:end])
    return found

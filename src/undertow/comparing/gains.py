"""Where probability went, over all pairs: per token, its mean change and how often it was among the first three."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from undertow.maths.displacement import largest_gains

TOP = 3
SHOWN = 10


@dataclass(frozen=True, slots=True)
class TokenChanges:
    """The tokens of one position that moved most, the largest first; fewer than three where fewer moved that way."""

    ids: tuple[int, ...]
    changes: tuple[float, ...]


def gaining(change: Tensor) -> TokenChanges:
    """The tokens that gained most probability: of ``[V]`` changes, the largest three above 0."""
    top = largest_gains(change, min(TOP, len(change)))
    kept = [(i, v) for i, v in zip(top.ids.tolist(), top.gains.tolist(), strict=True) if v > 0]
    return TokenChanges(tuple(i for i, _ in kept), tuple(v for _, v in kept))


def losing(change: Tensor) -> TokenChanges:
    """The tokens that lost most; their changes are negative."""
    found = gaining(-change)
    return TokenChanges(found.ids, tuple(-v for v in found.changes))


class Tally:
    """Sums over pairs of what every token gained where the two responses part; as large as the vocabulary."""

    def __init__(self, vocabulary: int, begun: Mapping[str, NDArray[Any]] | None = None) -> None:
        """From nothing, or from the :meth:`arrays` of an earlier run; a ``ValueError`` where those do not fit."""
        self._sum = torch.zeros(vocabulary, dtype=torch.float64)
        self._in_top = torch.zeros(vocabulary, dtype=torch.int64)
        self._pairs = 0
        if begun is not None:
            if any(begun[name].shape != (vocabulary,) for name in ("sum", "in_top")):
                raise ValueError(f"sums over another vocabulary than of {vocabulary} tokens")
            self._sum += torch.from_numpy(begun["sum"])
            self._in_top += torch.from_numpy(begun["in_top"])
            self._pairs = int(begun["pairs"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The sums, to go on from."""
        return {"sum": self._sum.numpy(), "in_top": self._in_top.numpy(), "pairs": np.array(self._pairs)}

    def add(self, change: Tensor, top: TokenChanges) -> None:
        """One pair's changes ``[V]``, and those that gained most of them."""
        self._sum += change
        self._in_top[list(top.ids)] += 1
        self._pairs += 1

    def record(self, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, object]]:
        """The tokens that gained most on average, the largest mean first."""
        if not self._pairs:
            return []
        moved = torch.topk(self._sum / self._pairs, min(SHOWN, len(self._sum)))
        return [
            {
                "token": token_text(tokenizer, index),
                "id": index,
                "mean_increase": value,
                "pairs_in_top": int(self._in_top[index]),
            }
            for index, value in zip(moved.indices.tolist(), moved.values.tolist(), strict=True)
            if value > 0
        ]


def token_text(tokenizer: PreTrainedTokenizerBase, index: int) -> str:
    """A token as text, with the space before it where it has one; its raw name where it is no text of its own.

    A part of a character, and a row of the unembedding matrix that no token has, are of the latter kind.
    """
    if index >= len(tokenizer):
        return f"<{index}>"
    name = tokenizer.convert_ids_to_tokens(index)
    text: str = tokenizer.decode([index], clean_up_tokenization_spaces=False)
    if not text or "\ufffd" in text:
        return str(name)
    # SentencePiece tokenizers drop the space of a text's first token.
    return f" {text}" if str(name).startswith("▁") and not text.startswith(" ") else text

"""Token pairs to packed batches: all tokens of several pairs in one row, every prompt once, no padding.

A pair becomes a *tree*: its prompt, then its chosen response, then its rejected response. Both responses continue the
prompt, so both start at position ``len(prompt)``, and neither sees the other; the attention (``models/attention.py``)
takes care of that. ``(2P + n⁺ + n⁻) / (P + n⁺ + n⁻)`` of the tokens are saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from undertow.data.tokens.encoder import TokenPair
from undertow.maths.later import torch

if TYPE_CHECKING:
    from torch import Tensor


class Sized(Protocol):
    """What has a number of tokens."""

    @property
    def total(self) -> int:
        """That number."""


T = TypeVar("T", bound=Sized)

DEFAULT_BATCH_TOKENS = 4096
"""Tokens a pack. Larger packs make no matrix product faster and their temporaries leave the caches."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Where one pair stands in a packed row, as half-open token ranges."""

    prompt: tuple[int, int]
    responses: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One packed row: ``input_ids`` and ``position_ids`` of shape ``[1, T]`` and a tree for each pair."""

    input_ids: Tensor
    position_ids: Tensor
    trees: tuple[Tree, ...]
    pairs: tuple[TokenPair, ...]

    @property
    def weights(self) -> Tensor | None:
        """What each response token counts, ``[tokens]``, pair by pair, chosen before rejected; None where all do."""
        if not any(pair.weights for pair in self.pairs):
            return None
        each = (pair.weights or (1.0,) * (pair.chosen_tokens + pair.rejected_tokens) for pair in self.pairs)
        return torch.tensor([weight for weights in each for weight in weights], dtype=torch.float32)


def pack(pairs: Iterable[TokenPair], batch_tokens: int = DEFAULT_BATCH_TOKENS) -> Iterator[PackedBatch]:
    """Pack pairs in their order, as many a row as fit ``batch_tokens``; a longer pair has a row of its own."""
    return map(_packed, grouped(pairs, batch_tokens))


def grouped(items: Iterable[T], batch_tokens: int) -> Iterator[list[T]]:
    """Items in their order, as many a group as fit ``batch_tokens``; a longer one is a group of its own."""
    waiting: list[T] = []
    total = 0
    for item in items:
        if waiting and total + item.total > batch_tokens:
            yield waiting
            waiting, total = [], 0
        waiting.append(item)
        total += item.total
    if waiting:
        yield waiting


def _packed(pairs: list[TokenPair]) -> PackedBatch:
    ids: list[int] = []
    positions: list[int] = []
    trees: list[Tree] = []
    for pair in pairs:
        start, prompt = len(ids), len(pair.prompt)
        ids += pair.prompt
        positions += range(prompt)
        responses = []
        for response in (pair.chosen, pair.rejected):
            responses.append((len(ids), len(ids) + len(response)))
            ids += response
            positions += range(prompt, prompt + len(response))
        trees.append(Tree((start, start + prompt), tuple(responses)))
    return PackedBatch(torch.tensor([ids]), torch.tensor([positions]), tuple(trees), tuple(pairs))

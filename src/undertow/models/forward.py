"""The one forward pass: packed batches to the hidden embeddings of each response, without logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import PackedBatch

if TYPE_CHECKING:
    from undertow.models.model import Model


@dataclass(frozen=True, slots=True)
class PairStates:
    """Hidden embeddings of one pair, in the model's type.

    ``chosen`` is ``[n⁺ + 1, d]``: row k is the state after the prompt and k response tokens. The first n⁺ rows are the
    predictive states ``h_{x,y<1} … h_{x,y<n}``; the last one, after the whole response, predicts nothing in it.
    ``rejected`` is the same for the rejected response.
    """

    pair: TokenPair
    chosen: Tensor
    rejected: Tensor


def pair_states(model: Model, batch: PackedBatch) -> Iterator[PairStates]:
    """The states of every pair of a batch, in order, by the attention the model takes (``Model.attention``)."""
    if model.attention == "tree":
        yield from _packed_states(model, batch)
    else:
        for pair in batch.pairs:
            prompt = list(pair.prompt)
            chosen, rejected = (_sequence_states(model, prompt, list(y)) for y in (pair.chosen, pair.rejected))
            yield PairStates(pair, chosen, rejected)


def _packed_states(model: Model, batch: PackedBatch) -> Iterator[PairStates]:
    hidden = model.backbone(
        input_ids=batch.input_ids.to(model.device),
        position_ids=batch.position_ids.to(model.device),
        trees=batch.trees,
        use_cache=False,
    ).last_hidden_state[0]
    for pair, tree in zip(batch.pairs, batch.trees, strict=True):
        last_of_prompt = hidden[tree.prompt[1] - 1 : tree.prompt[1]]
        chosen, rejected = (torch.cat([last_of_prompt, hidden[r0:r1]]) for r0, r1 in tree.responses)
        yield PairStates(pair, chosen, rejected)


def _sequence_states(model: Model, prompt: list[int], response: list[int]) -> Tensor:
    """One sequence at a time: no padding either, for families that cannot take packed rows."""
    ids = torch.tensor([prompt + response], device=model.device)
    hidden: Tensor = model.backbone(input_ids=ids, use_cache=False).last_hidden_state[0]
    return hidden[len(prompt) - 1 :]

"""Tokens on disk to training batches: a packed row, the pairs' lengths and what the reference says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.runs.token_file import TokenFile

Item = tuple[TokenPair, float, float]


class PairDataset(Dataset[Item]):
    """Pairs by their number, read from the spool when they are asked for, with their reference log-probabilities; with
    the weights of their tokens, where the spool has some.

    ``kept`` are the numbers of the pairs to train on, in the spool's order; all where None.
    """

    def __init__(self, spool: TokenFile, reference: NDArray[np.float64], kept: Sequence[int] | None = None) -> None:
        self._spool, self._reference = spool, reference
        self._kept = range(spool.pairs) if kept is None else kept

    @property
    def kept(self) -> Sequence[int]:
        """The numbers of the pairs to train on."""
        return self._kept

    def reference_logps(self, numbers: Sequence[int]) -> torch.Tensor:
        """``ln π_ref`` of both responses of pairs, by their numbers in the spool, kept or not; ``[pairs, 2]``."""
        return torch.from_numpy(self._reference[list(numbers)])

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Item:
        at = self._kept[index]
        (pair,) = self._spool.read(at, at + 1, weighted=True)
        chosen, rejected = self._reference[at].tolist()
        return pair, chosen, rejected


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """A batch as the trainer passes it on: one packed row for all of its pairs."""
    pairs = [pair for pair, *_ in items]
    (batch,) = pack(pairs, sum(pair.total for pair in pairs))
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "trees": batch.trees,
        "pairs": batch.pairs,
        # As numbers: the trainer moves tensors to its device, which may have no float64.
        "ref_chosen": [chosen for _, chosen, _ in items],
        "ref_rejected": [rejected for *_, rejected in items],
        "chosen_tokens": torch.tensor([pair.counted_tokens[0] for pair in pairs]),
        "rejected_tokens": torch.tensor([pair.counted_tokens[1] for pair in pairs]),
        **({} if batch.weights is None else {"weights": batch.weights}),
    }

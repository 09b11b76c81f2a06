"""Which pairs the data set would drag down most from here on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from undertow.data.tokens.encoder import TokenPair
from undertow.filtering.selection import Selector
from undertow.maths.losses import PairLoss
from undertow.models.model import Model
from undertow.runs.progress import Silent
from undertow.runs.token_file import TokenFile
from undertow.scoring.columns import PULL
from undertow.scoring.scorer import Scorer, add_pull, score_parts
from undertow.training.tracking.look import evaluating


@torch.no_grad()
def most_pulled(
    spool: TokenFile,
    kept: Sequence[int],
    model: Model,
    loss: PairLoss,
    share: float,
    dropped: Collection[int] = (),
) -> list[int]:
    """The rows of the share of pairs whose chosen response the gradient of the data lowers most, by the model as it is.

    The data are the pairs that are still in training: those with a number in ``kept`` and a row not in ``dropped``.
    What was left out exerts no pull, feels none and is not counted: the share is of those pairs that are there, rounded
    down to whole pairs as a filter's is. The weights are those at the start of training (the model as its own
    reference): which pairs entangle is a matter of the gradients.
    """
    there = _SomePairs(spool, kept, dropped)
    if not there.pairs:
        return []
    with evaluating(model.hf):
        scorer = Scorer("unembedding", model, loss, pull=True)
        update = scorer.no_update()
        (table,) = score_parts(there, scorer, part_pairs=there.pairs, watch=Silent(), update=update)
        update /= there.pairs
        table = add_pull(table, 0, there, scorer, update, part_pairs=there.pairs, watch=Silent())
    pull = table[PULL].to_numpy()
    rows = table["row"].to_numpy()
    return sorted(int(row) for row in rows[Selector("drop-lowest", share).drops(pull)])


class _SomePairs(TokenFile):
    """Some pairs of a file, by their numbers, as if they were all that it holds."""

    def __init__(self, whole: TokenFile, numbers: Sequence[int], without: Collection[int]) -> None:
        self._whole = whole
        left_out = set(without)
        self._numbers = [n for n in numbers for pair in whole.read(n, n + 1) if pair.row not in left_out]
        self.pairs, self.tokens = len(self._numbers), 0

    def read(self, begin: int, end: int, *, weighted: bool = False) -> Iterator[TokenPair]:
        """Pairs ``begin`` to ``end`` (exclusive) of these."""
        for number in self._numbers[begin:end]:
            yield from self._whole.read(number, number + 1)

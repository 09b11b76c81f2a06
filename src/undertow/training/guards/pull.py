"""Which pairs the whole data set would drag down most from here on."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from undertow.maths.losses import PairLoss
from undertow.models.model import Model
from undertow.runs.progress import Silent
from undertow.runs.token_file import TokenFile
from undertow.scoring.scorer import Scorer, add_pull, score_parts


@torch.no_grad()
def most_pulled(
    spool: TokenFile, model: Model, loss: PairLoss, share: float, dropped: Collection[int] = ()
) -> list[int]:
    """The rows of the share of pairs whose chosen response the data set's gradient lowers most, by the model as it is.

    The weights are those at the start of training (the model as its own reference): which pairs entangle is a matter of
    the gradients. ``dropped`` rows are not named again.
    """
    training = model.hf.training
    model.hf.eval()
    scorer = Scorer("unembedding", model, loss, pull=True)
    update = scorer.no_update()
    (table,) = score_parts(spool, scorer, part_pairs=spool.pairs, watch=Silent(), update=update)
    update /= spool.pairs
    table = add_pull(table, 0, spool, scorer, update, part_pairs=spool.pairs, watch=Silent())
    model.hf.train(training)
    pull = table["pull_own"].to_numpy() + table["pull_others"].to_numpy()
    rows = table["row"].to_numpy()
    there = ~np.isin(rows, list(dropped)) & np.isfinite(pull)
    order = np.argsort(pull[there], kind="stable")[: int(share * len(rows))]
    return sorted(int(row) for row in rows[there][order])

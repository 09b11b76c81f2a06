"""Tokens to tables: the loop that scores pairs, one part after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import torch

from undertow.data.packing import pack
from undertow.data.tokens import TokenPair
from undertow.models.forward import pair_states
from undertow.models.model import Model
from undertow.scoring.levels import Row, hidden_row, schema, text_row
from undertow.scoring.spool import TokenSpool
from undertow.scoring.watch import Watcher


def score_parts(
    spool: TokenSpool,
    model: Model | None,
    level: str,
    *,
    batch_tokens: int,
    part_pairs: int,
    watch: Watcher,
    first_part: int = 0,
) -> Iterator[pa.Table]:
    """The tables of parts ``first_part``, ``first_part + 1``, …: part i holds pairs ``i·part_pairs`` and following.

    Packs never reach over a part's end, so a part's numbers do not depend on where an earlier run stopped.
    """
    for begin in range(first_part * part_pairs, spool.pairs, part_pairs):
        pairs = spool.read(begin, begin + part_pairs)
        rows = list(score_rows(pairs, model, level, batch_tokens=batch_tokens, watch=watch))
        yield pa.Table.from_pylist(rows, schema=schema(level))


def part_count(spool: TokenSpool, part_pairs: int) -> int:
    """How many parts the scores will have."""
    return -(-spool.pairs // part_pairs)


@torch.inference_mode()
def score_rows(
    pairs: Iterable[TokenPair], model: Model | None, level: str, *, batch_tokens: int, watch: Watcher
) -> Iterator[Row]:
    """One row of numbers a pair, in order."""
    if level == "text":
        for pair in pairs:
            yield text_row(pair)
            watch.advance(pairs=1, tokens=pair.total)
        return
    assert model is not None, f"level {level} needs a model"
    for batch in pack(pairs, batch_tokens):
        for states in pair_states(model, batch):
            yield text_row(states.pair) | hidden_row(states)
        watch.advance(pairs=len(batch.pairs), tokens=sum(pair.total for pair in batch.pairs))

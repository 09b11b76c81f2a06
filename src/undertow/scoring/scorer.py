"""Tokens to tables: the loops that score pairs, one part after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat

import pyarrow as pa
import torch
from torch import Tensor

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import DEFAULT_BATCH_TOKENS, PackedBatch, pack
from undertow.maths.losses import DPO, PairLoss
from undertow.maths.precision import working_dtype
from undertow.models.forward import pair_states
from undertow.models.model import Model
from undertow.runs.progress import Watcher
from undertow.runs.token_file import TokenFile
from undertow.scoring.columns import PULL_COLUMNS, Row, check_row, columns_of, table_of
from undertow.scoring.gradient import FullProducts, full_row
from undertow.scoring.levels import hidden_row, includes, schema, text_row
from undertow.scoring.unembedding import pull_row, response_logps, unembedding_row


@dataclass(frozen=True, slots=True)
class Scorer:
    """What pairs are scored with.

    ``model`` is needed from level ``hidden`` on. From ``unembedding`` on, ``loss`` gives the weights, ``reference`` the
    log-probabilities it compares with (None: the model's own), and ``pull`` says that the whole data set's update is
    gathered and every pair read against it.
    """

    level: str
    model: Model | None = None
    loss: PairLoss = field(default_factory=DPO)
    reference: Model | None = None
    pull: bool = False
    batch_tokens: int = DEFAULT_BATCH_TOKENS

    @property
    def schema(self) -> pa.Schema:
        """The columns of the table."""
        return schema(self.level, pull=self.pull)

    def full_products(self) -> FullProducts | None:
        """What level ``gradient`` needs of the model; None below it."""
        if not includes(self.level, "gradient"):
            return None
        assert self.model is not None
        return FullProducts.of(self.model)

    def no_update(self) -> Tensor:
        """The data set's update of the unembedding matrix before any pair: zeros, ``[V, d]``, float32 or better."""
        assert self.model is not None
        weight = self.model.head.weight
        return torch.zeros_like(weight, dtype=working_dtype(weight))


def part_count(spool: TokenFile, part_pairs: int) -> int:
    """How many parts the scores will have."""
    return -(-spool.pairs // part_pairs)


def score_parts(
    spool: TokenFile,
    scorer: Scorer,
    *,
    part_pairs: int,
    watch: Watcher,
    first_part: int = 0,
    update: Tensor | None = None,
) -> Iterator[pa.Table]:
    """The tables of parts ``first_part``, ``first_part + 1``, …: part i holds pairs ``i·part_pairs`` and following.

    Packs never reach over a part's end, so a part's numbers do not depend on where an earlier run stopped. ``update``
    has grown by a part's pairs when its table is yielded; the columns of the pull are empty then.
    """
    full = scorer.full_products() if first_part * part_pairs < spool.pairs else None
    if full is not None and full.note:
        watch.note(f"Gradients are computed one response at a time: {full.note}.")
    for begin in range(first_part * part_pairs, spool.pairs, part_pairs):
        pairs = spool.read(begin, begin + part_pairs)
        rows = list(score_rows(pairs, scorer, watch, update, full))
        yield table_of(rows, scorer.schema)


def add_pull(
    table: pa.Table, index: int, spool: TokenFile, scorer: Scorer, update: Tensor, *, part_pairs: int, watch: Watcher
) -> pa.Table:
    """The table of part ``index`` with the columns of the pull, read against ``update``, the mean over all pairs."""
    pairs = spool.read(index * part_pairs, (index + 1) * part_pairs)
    own = zip(table["dlogp_chosen"].to_pylist(), table["dlogp_rejected"].to_pylist(), strict=True)
    shares = [(chosen / spool.pairs, rejected / spool.pairs) for chosen, rejected in own]
    found = list(_pull_rows(pairs, scorer, update, shares, watch))
    filled = table_of(found, pa.schema([table.schema.field(name) for name in PULL_COLUMNS]))
    for name in PULL_COLUMNS:
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), filled[name])
    return table


@torch.inference_mode()
def score_rows(
    pairs: Iterable[TokenPair],
    scorer: Scorer,
    watch: Watcher,
    update: Tensor | None = None,
    full: FullProducts | None = None,
) -> Iterator[Row]:
    """One row of numbers a pair, in order. Every pair's part is added to ``update``, where it is given. ``full``:
    :meth:`Scorer.full_products`, where it is at hand.

    Raises:
        ValueError: a row has not the columns that are declared; those of the pull come in a second pass.
    """
    names = [column.name for column in columns_of(scorer.level)]
    if scorer.level == "text":
        for pair in pairs:
            row = text_row(pair)
            check_row(row, names)
            yield row
            watch.advance(pairs=1, tokens=pair.total)
        return
    assert scorer.model is not None, f"level {scorer.level} needs a model"
    full = full or scorer.full_products()
    for batch in pack(pairs, scorer.batch_tokens):
        references = _reference_logps(batch, scorer)
        products = full.pairs(batch.pairs) if full is not None else repeat(None, len(batch.pairs))
        for states, reference, found in zip(pair_states(scorer.model, batch), references, products, strict=True):
            pair = states.pair
            row = text_row(pair) | hidden_row(states)
            if includes(scorer.level, "unembedding"):
                row |= unembedding_row(states, scorer.model.head, scorer.loss, reference, update)
            if full is not None and found is not None:
                tokens = (pair.chosen_tokens, pair.rejected_tokens)
                row |= full_row(found[0], list(full.parameters), found[1], tokens, scorer.loss, reference)
            check_row(row, names)
            yield row
        _advance(watch, batch)


def _reference_logps(batch: PackedBatch, scorer: Scorer) -> list[tuple[float, float] | None]:
    model = scorer.reference
    if model is None or not scorer.loss.needs_reference:
        return [None] * len(batch.pairs)
    return [response_logps(states, model.head) for states in pair_states(model, batch)]


@torch.inference_mode()
def _pull_rows(
    pairs: Iterable[TokenPair], scorer: Scorer, update: Tensor, own: list[tuple[float, float]], watch: Watcher
) -> Iterator[Row]:
    assert scorer.model is not None
    shares = iter(own)
    for batch in pack(pairs, scorer.batch_tokens):
        for states in pair_states(scorer.model, batch):
            row = pull_row(states, scorer.model.head, update, next(shares))
            check_row(row, PULL_COLUMNS)
            yield row
        _advance(watch, batch)


def _advance(watch: Watcher, batch: PackedBatch) -> None:
    watch.advance(pairs=len(batch.pairs), tokens=sum(pair.total for pair in batch.pairs))

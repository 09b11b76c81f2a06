"""Where the weights of response tokens come from: both responses' tokens, their gradients, or a file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from undertow.data.rows import shown
from undertow.data.sources.opening import open_source
from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import DEFAULT_BATCH_TOKENS, pack
from undertow.errors import OptionError
from undertow.files import write_atomically
from undertow.maths.precision import in_float64
from undertow.maths.token_weights import entangled_weights, shared_weights
from undertow.maths.unembedding import products_of
from undertow.models.forward import pair_states
from undertow.models.model import Model
from undertow.runs.names import TOKEN_WEIGHTS
from undertow.runs.progress import Watcher
from undertow.runs.token_file import TokenFile
from undertow.scoring.unembedding import residual_rows

__all__ = ["ENTANGLED", "SHARED", "Weights", "digest_of", "file_digest", "token_weights", "write_weights"]

SHARED, ENTANGLED = "shared", "entangled"
_COLUMNS = ("chosen_weights", "rejected_weights")

Weights = list[tuple[float, ...]]
"""Of each pair, by its number: its tokens' weights, chosen before rejected."""


def token_weights(spool: TokenFile, by: str, model: Model, watch: Watcher) -> Weights:
    """What the response tokens of all pairs count.

    Args:
        spool: the pairs.
        by: ``shared``, ``entangled`` or a file.
        model: whose gradients in the unembedding matrix decide for ``entangled``: the one that training begins with.
        watch: told of the progress.

    Raises:
        OptionError: the file cannot be used.
    """
    if by == SHARED:
        pairs = spool.read(0, spool.pairs)
        return [tuple(w for part in shared_weights(p.chosen, p.rejected) for w in part) for p in pairs]
    if by == ENTANGLED:
        return _entangled(spool, model, watch)
    return _of_file(spool, by, watch)


def file_digest(by: str) -> str | None:
    """A hash of the file, of which the weights are; None where they are of none.

    Raises:
        OptionError: there is no such file.
    """
    if by in (SHARED, ENTANGLED):
        return None
    path = Path(by)
    if not path.is_file():
        raise OptionError(f"--token-weights {by}: expected shared, entangled or a file that exists.")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of(weights: Weights) -> str:
    """A hash of weights."""
    return hashlib.sha256(repr(weights).encode()).hexdigest()


def write_weights(folder: Path, spool: TokenFile, weights: Weights) -> None:
    """Keep them where a person finds them."""
    pairs = list(spool.read(0, spool.pairs))
    split = [(each[: p.chosen_tokens], each[p.chosen_tokens :]) for p, each in zip(pairs, weights, strict=True)]
    columns: dict[str, Any] = {"row": [p.row for p in pairs], "pair_id": [p.pair_id for p in pairs]}
    columns |= {name: [two[side] for two in split] for side, name in enumerate(_COLUMNS)}
    with write_atomically(folder / TOKEN_WEIGHTS) as file:
        pq.write_table(pa.table(columns), file)


@torch.inference_mode()
def _entangled(spool: TokenFile, model: Model, watch: Watcher) -> Weights:
    watch.phase("weights of tokens", pairs=spool.pairs, tokens=spool.tokens)
    found: Weights = []
    for batch in pack(spool.read(0, spool.pairs), DEFAULT_BATCH_TOKENS):
        for states in pair_states(model, batch):
            n = states.pair.chosen_tokens
            products = products_of(residual_rows(states, model.head), n, 1)
            values = in_float64(products.alpha) * in_float64(products.gram)
            found.append(tuple(entangled_weights(values, n).tolist()))
        watch.advance(pairs=len(batch.pairs), tokens=sum(pair.total for pair in batch.pairs))
    return found


def _of_file(spool: TokenFile, by: str, watch: Watcher) -> Weights:
    file_digest(by)  # refuses what is no file
    named: dict[int | str, dict[str, Any]] = {}
    for raw in open_source(by).rows():
        where = f"--token-weights {by}, row {raw.row}"
        if raw.value is None:
            raise OptionError(f"{where}: {raw.error or 'it cannot be read'}.")
        key = raw.value.get("row", raw.value.get("pair_id"))
        if not isinstance(key, int | str) or isinstance(key, bool):
            raise OptionError(f"{where}: it names no pair; expected row or pair_id, {' and '.join(_COLUMNS)}.")
        named[key] = raw.value
    found, without = [], 0
    for pair in spool.read(0, spool.pairs):
        row = named.get(pair.row, named.get(pair.pair_id))
        if row is None:
            without += 1
        found.append(_checked(by, pair, row))
    if without == spool.pairs:
        raise OptionError(f"--token-weights {by}: it names none of the {spool.pairs:,} pairs of the data.")
    if without:
        watch.note(f"--token-weights: {without:,} of {spool.pairs:,} pairs are not in {by}; all of their tokens count.")
    return found


def _checked(by: str, pair: TokenPair, row: dict[str, Any] | None) -> tuple[float, ...]:
    if row is None:
        return (1.0,) * (pair.chosen_tokens + pair.rejected_tokens)
    found: list[float] = []
    for name, count in zip(_COLUMNS, (pair.chosen_tokens, pair.rejected_tokens), strict=True):
        found += _numbers(f"--token-weights {by}, pair {pair.pair_id} (row {pair.row})", name, row.get(name), count)
    return tuple(found)


def _numbers(where: str, name: str, values: Any, count: int) -> Sequence[float]:
    listed = values if isinstance(values, list | tuple) else None
    if listed is None or not all(isinstance(v, int | float) and 0 <= v < math.inf for v in listed):
        raise OptionError(f"{where}: {name} is {shown(values)}; expected a list of numbers, 0 or more.")
    if len(listed) != count:
        raise OptionError(
            f"{where}: {name} has {len(listed)} weights, and the response has {count} tokens with this tokenizer and "
            f"these options. A run with --token-weights shared writes {TOKEN_WEIGHTS}, which has as many as there are."
        )
    if not any(listed):
        raise OptionError(
            f"{where}: {name} are all 0, so that the response does not count; leave the pair out instead."
        )
    return [float(value) for value in listed]

"""Tokens and two models to one row of numbers a pair."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import pyarrow as pa
import torch

from undertow.comparing.checkpoints import Checkpoints
from undertow.comparing.gains import Tally, TokenChanges, gaining, losing, token_text
from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.maths.divergences import divergences
from undertow.maths.precision import in_float64
from undertow.maths.residuals import Residuals
from undertow.models.forward import PairStates, pair_states
from undertow.runs.progress import Watcher
from undertow.scoring.unembedding import residual_rows

COMPARE_VERSION = "1"
"""Changes whenever a number in the table would change."""

NUMBERS = (
    "before_logp_chosen",
    "before_logp_rejected",
    "after_logp_chosen",
    "after_logp_rejected",
    "dlogp_chosen",
    "dlogp_rejected",
    "dmargin",
)
FLAGS = ("displaced", "before_correct", "after_correct")
DIVERGENCES = ("kl_chosen", "kl_rejected")
MOVES = ("gained", "lost")

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("pair_id", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("chosen_tokens", pa.int32()),
        ("rejected_tokens", pa.int32()),
        *((name, pa.float64()) for name in NUMBERS),
        *((name, pa.bool_()) for name in FLAGS),
        *((name, pa.float64()) for name in DIVERGENCES),
        ("divergence_position", pa.int32()),
        ("gained_tokens", pa.list_(pa.string())),
        ("gained", pa.list_(pa.float64())),
        ("lost_tokens", pa.list_(pa.string())),
        ("lost", pa.list_(pa.float64())),
    ],
    metadata={"undertow_compare_version": COMPARE_VERSION},
)

Row = dict[str, object]


@torch.inference_mode()
def compare_rows(
    pairs: Iterable[TokenPair], models: Checkpoints, tally: Tally, batch_tokens: int, watch: Watcher
) -> Iterator[Row]:
    """One row a pair, in order; what gained where the responses part is added to ``tally``."""
    for batch in pack(pairs, batch_tokens):
        both = zip(pair_states(models.before, batch), pair_states(models.after, batch), strict=True)
        for before, after in both:
            yield pair_row(before, after, models, tally)
        watch.advance(pairs=len(batch.pairs), tokens=sum(pair.total for pair in batch.pairs))


def pair_row(before: PairStates, after: PairStates, models: Checkpoints, tally: Tally) -> Row:
    """The columns of one pair.

    Log-probabilities are in nats, summed over the response's tokens; ``kl_*`` are nats a token, the mean over the
    response's positions. A number that is not finite stays so, its flags are empty, and the pair is not in the tally.
    """
    pair = before.pair
    old, new = residual_rows(before, models.before.head), residual_rows(after, models.after.head)
    numbers = _numbers(_logps(old, pair), _logps(new, pair))
    kl, change = divergences(old, new, divergence_row(pair))
    row: Row = {
        "row": pair.row,
        "pair_id": pair.pair_id,
        "prompt_tokens": pair.prompt_tokens,
        "chosen_tokens": pair.chosen_tokens,
        "rejected_tokens": pair.rejected_tokens,
        **numbers,
        **_flags(numbers),
        "kl_chosen": float(kl[: pair.chosen_tokens].mean()),
        "kl_rejected": float(kl[pair.chosen_tokens :].mean()),
        "divergence_position": pair.shared_prefix_tokens,
    }
    if not bool(torch.isfinite(change).all()):
        return row | {name: None for move in MOVES for name in (move, f"{move}_tokens")}
    up, down = gaining(change), losing(change)
    tally.add(change, up)
    return row | _token_columns("gained", up, models) | _token_columns("lost", down, models)


def divergence_row(pair: TokenPair) -> int:
    """Where the two responses part, among the rows of both responses' tokens, chosen first.

    Where the chosen response ends there (it is the beginning of the rejected one, without an end-of-turn token), the
    rejected one's row has the same context.
    """
    shared = pair.shared_prefix_tokens
    return shared if shared < pair.chosen_tokens else pair.chosen_tokens + shared


def _logps(rows: Residuals, pair: TokenPair) -> tuple[float, float]:
    values = in_float64(rows.logps)
    n = pair.chosen_tokens
    chosen, rejected = torch.stack([values[:n].sum(), values[n:].sum()]).tolist()
    return chosen, rejected


def _numbers(before: tuple[float, float], after: tuple[float, float]) -> dict[str, float]:
    chosen, rejected = after[0] - before[0], after[1] - before[1]
    return dict(zip(NUMBERS, (*before, *after, chosen, rejected, chosen - rejected), strict=True))


def _flags(numbers: dict[str, float]) -> Row:
    if not all(map(math.isfinite, numbers.values())):
        return dict.fromkeys(FLAGS)
    return {
        "displaced": numbers["dlogp_chosen"] < 0,
        "before_correct": numbers["before_logp_chosen"] > numbers["before_logp_rejected"],
        "after_correct": numbers["after_logp_chosen"] > numbers["after_logp_rejected"],
    }


def _token_columns(name: str, changes: TokenChanges, models: Checkpoints) -> Row:
    texts = [token_text(models.tokenizer, index) for index in changes.ids]
    return {f"{name}_tokens": texts, name: list(changes.changes)}

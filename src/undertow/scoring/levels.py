"""Levels of scores: the numbers of one pair at each. :mod:`undertow.scoring.columns` says what they mean.

A level includes those before it. ``text`` needs the tokenizer only; ``hidden`` one forward pass without logits;
``unembedding`` the same pass and the logits, a slab of the vocabulary at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from undertow.data.tokens.encoder import TokenPair
from undertow.maths import similarity
from undertow.scoring.columns import LEVELS, Row, columns_of

if TYPE_CHECKING:
    from torch import Tensor

    from undertow.models.forward import PairStates

SCORE_VERSION = "2"
"""Changes whenever a number in the table would change: scores of two versions are never mixed."""


def includes(level: str, other: str) -> bool:
    """Whether a level includes another: itself, and all before it."""
    return LEVELS.index(level) >= LEVELS.index(other)


def schema(level: str, *, pull: bool = False) -> pa.Schema:
    """The columns of a level's table, in order."""
    metadata = {"undertow_level": level, "undertow_score_version": SCORE_VERSION}
    return pa.schema([(column.name, column.type) for column in columns_of(level, pull=pull)], metadata=metadata)


def text_row(pair: TokenPair) -> Row:
    """The columns of level ``text``."""
    return {
        "row": pair.row,
        "pair_id": pair.pair_id,
        "prompt_tokens": pair.prompt_tokens,
        "chosen_tokens": pair.chosen_tokens,
        "rejected_tokens": pair.rejected_tokens,
        "shared_prefix_tokens": pair.shared_prefix_tokens,
        "truncated": pair.truncated,
        "duplicate_of": pair.duplicate_of,
        "contradicts": pair.contradicts,
        "edit_distance": similarity.edit_distance(pair.chosen, pair.rejected),
    }


def hidden_row(states: PairStates) -> Row:
    """The columns that level ``hidden`` adds; NaN or infinite where a hidden embedding is."""
    chosen, chosen_last = _sum_and_last(states.chosen)
    rejected, rejected_last = _sum_and_last(states.rejected)
    n_w, n_l = states.pair.chosen_tokens, states.pair.rejected_tokens
    return {
        "ches": similarity.ches(chosen, rejected).item(),
        "ln_ches": similarity.ln_ches(chosen, rejected, n_w, n_l).item(),
        "last_hidden_ip": similarity.last_hidden_ip(chosen_last, rejected_last).item(),
    }


def _sum_and_last(states: Tensor) -> tuple[Tensor, Tensor]:
    """``S`` over the predictive states, and the state after the last response token."""
    return similarity.hidden_sum(states[:-1]), states[-1]

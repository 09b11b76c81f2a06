"""Levels of scores: which columns each has, and the numbers of one pair.

A level includes those before it. ``text`` needs the tokenizer only; ``hidden`` one forward pass without logits;
``unembedding`` the same pass and the logits, a slab of the vocabulary at a time.
"""

from __future__ import annotations

import pyarrow as pa
from torch import Tensor

from undertow.data.tokens.encoder import TokenPair
from undertow.maths import similarity
from undertow.models.forward import PairStates

SCORE_VERSION = "1"
"""Changes whenever a number in the table would change: scores of two versions are never mixed."""

LEVELS = ("text", "hidden", "unembedding")

_COLUMNS: dict[str, list[tuple[str, pa.DataType]]] = {
    "text": [
        ("row", pa.int64()),
        ("pair_id", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("chosen_tokens", pa.int32()),
        ("rejected_tokens", pa.int32()),
        ("shared_prefix_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("edit_distance", pa.float64()),
    ],
    "hidden": [("ches", pa.float64()), ("ln_ches", pa.float64()), ("last_hidden_ip", pa.float64())],
    "unembedding": [
        ("logp_chosen", pa.float64()),
        ("logp_rejected", pa.float64()),
        ("gg_chosen", pa.float64()),
        ("gg_cross", pa.float64()),
        ("gg_rejected", pa.float64()),
        ("hh_chosen", pa.float64()),
        ("hh_cross", pa.float64()),
        ("hh_rejected", pa.float64()),
        ("alpha_positive", pa.float64()),
        ("d_chosen", pa.float64()),
        ("d_rejected", pa.float64()),
        ("dlogp_chosen", pa.float64()),
        ("dlogp_rejected", pa.float64()),
        ("case", pa.int8()),
        ("free_dlogp_chosen", pa.float64()),
        ("free_dlogp_rejected", pa.float64()),
        ("free_case", pa.int8()),
    ],
}

PULL_COLUMNS = ("pull_own", "pull_others", "pull_rejected_own", "pull_rejected_others")
"""With ``--pull``; empty (null) until the second pass over the data has filled them."""

Row = dict[str, object]


def includes(level: str, other: str) -> bool:
    """Whether a level includes another: itself, and all before it."""
    return LEVELS.index(level) >= LEVELS.index(other)


def schema(level: str, *, pull: bool = False) -> pa.Schema:
    """The columns of a level's table, in order."""
    upto = LEVELS[: LEVELS.index(level) + 1]
    columns = [column for name in upto for column in _COLUMNS[name]]
    columns += [(name, pa.float64()) for name in PULL_COLUMNS] if pull else []
    metadata = {"undertow_level": level, "undertow_score_version": SCORE_VERSION}
    return pa.schema(columns, metadata=metadata)


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

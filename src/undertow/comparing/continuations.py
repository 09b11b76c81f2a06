"""What both models say to the prompts of the worst pairs: greedy continuations, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import GenerationConfig

from undertow.comparing.checkpoints import Checkpoints
from undertow.comparing.settings import NEW_TOKENS
from undertow.data.tokens.encoder import TokenPair
from undertow.models.attention import TREE_ATTENTION
from undertow.models.families import longest_input
from undertow.models.model import Model

__all__ = ["continue_pairs", "greedy", "worst"]


def worst(table: pa.Table, count: int) -> list[int]:
    """Indices of the pairs whose chosen response lost most log-probability, the worst first; ties in input order."""
    change = table["dlogp_chosen"].to_numpy()
    order = np.argsort(change, kind="stable")
    return [int(index) for index in order[np.isfinite(change[order])][:count]]


def continue_pairs(
    pairs: Sequence[TokenPair], changes: Sequence[float], models: Checkpoints, ends: Sequence[int]
) -> list[dict[str, Any]]:
    """Both models' greedy continuations of each prompt, beside the two responses, as text.

    Args:
        pairs: the pairs.
        changes: what their chosen responses gained, in nats.
        models: both models.
        ends: tokens that end a turn, besides those that a model names itself.
    """

    def text(ids: Sequence[int]) -> str:
        found: str = models.tokenizer.decode(list(ids), skip_special_tokens=True)
        return found

    before, after = ([greedy(model, pair.prompt, ends) for pair in pairs] for model in (models.before, models.after))
    return [
        {
            "row": pair.row,
            "pair_id": pair.pair_id,
            "dlogp_chosen": change,
            "prompt": text(pair.prompt),
            "chosen": text(pair.chosen),
            "rejected": text(pair.rejected),
            "before": text(old),
            "after": text(new),
        }
        for pair, change, old, new in zip(pairs, changes, before, after, strict=True)
    ]


@torch.inference_mode()
def greedy(model: Model, prompt: Sequence[int], ends: Sequence[int], new_tokens: int = NEW_TOKENS) -> list[int]:
    """The most probable next token, again and again, up to one that ends a turn; fewer where positions run out."""
    limit = longest_input(model.hf.config)
    room = new_tokens if limit is None else min(new_tokens, limit - len(prompt))
    if room < 1:
        return []
    own = model.hf.generation_config.eos_token_id
    stops = sorted({*ends, *(own if isinstance(own, list) else [own] if own is not None else [])})
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=room,
        repetition_penalty=1.0,  # said, since a model's own generation settings fill in what is left out
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,
    )
    ids = torch.tensor([list(prompt)], device=model.device)
    with _plain_attention(model), _own_settings_aside(model):
        out = model.hf.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


@contextlib.contextmanager
def _plain_attention(model: Model) -> Iterator[None]:
    """Tree attention is for packed rows and keeps no cache: transformers' own, while we generate.

    SDPA has no soft cap on its scores (Gemma 2); the eager one has.
    """
    if model.attention != "tree":
        yield
        return
    capped = getattr(model.hf.config.get_text_config(), "attn_logit_softcapping", None)
    model.hf.set_attn_implementation("eager" if capped else "sdpa")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(TREE_ATTENTION)


@contextlib.contextmanager
def _own_settings_aside(model: Model) -> Iterator[None]:
    """A model's own generation settings (temperature, penalties) must not make "greedy" mean something else."""
    own = model.hf.generation_config
    model.hf.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.hf.generation_config = own

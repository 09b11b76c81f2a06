"""What is asserted once per model load, on a few random tokens (theory 4.4).

1. The backbone's output is the very tensor that enters the head, and the head of ``families.py`` recomputes the
   model's logits from it, soft cap and scale included: else the model is refused.
2. Packed rows with tree attention give the states of plain sequences: else packed rows are not used for this model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.errors import ModelError
from undertow.models.attention import TREE_ATTENTION
from undertow.models.forward import pair_states

if TYPE_CHECKING:
    from undertow.models.model import Model

# Largest difference over largest value. bfloat16 keeps 8 bits, and a different order of rounding adds up over layers.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.02}


def check_same_tokens(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, named: str, *, whose: str
) -> None:
    """Refuse two tokenizers that give one token different meanings.

    Args:
        ours: the tokenizer that makes the tokens.
        theirs: that of the other model, which is to read them.
        named: the option or argument that gave the other model, and its value.
        whose: what the tokenizer of ours is called in the message.

    Raises:
        ModelError: they do.
    """
    if ours.get_vocab() != theirs.get_vocab():
        raise ModelError(
            f"{named}: its tokenizer has another vocabulary than {whose}, so the two cannot be compared token by token."
        )


def relative_difference(a: Tensor, b: Tensor) -> float:
    """``max|a − b| / max|b|`` in float64; infinite where either is not finite."""
    difference = (a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30)
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


@torch.no_grad()
def check_head(model: Model) -> None:
    """Refuse a model whose logits do not follow from the hidden embeddings we would score."""
    ids = _probe_ids(model, 12)[None].to(model.device)
    entering: list[Tensor] = []

    def catch(_module: Any, arguments: tuple[Tensor, ...]) -> None:
        entering.append(arguments[0])

    hook = model.hf.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        logits = model.hf(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    hidden = model.backbone(input_ids=ids, use_cache=False).last_hidden_state
    name, tolerance = type(model.hf).__name__, TOLERANCE[model.dtype]
    if not entering or entering[-1].shape != hidden.shape or relative_difference(hidden, entering[-1]) > tolerance:
        raise ModelError(
            f"{name}: the backbone's output is not the tensor that enters the unembedding, so hidden embeddings "
            "cannot be scored for this architecture."
        )
    error = relative_difference(model.head.logits(hidden), logits)
    if not torch.isfinite(logits).all():
        raise ModelError(f"{name}: its logits are not finite (NaN or infinity in the weights, or a type too small).")
    if error > tolerance:
        raise ModelError(
            f"{name}: its logits cannot be recomputed from the hidden embeddings (relative difference {error:.2g}, "
            f"allowed {tolerance:g}): this architecture does something after its unembedding that is not known here."
        )


@torch.no_grad()
def tree_attention_problem(model: Model) -> str | None:
    """Switch the model to tree attention and try it; None when it is right, else why not (and it is switched back)."""
    before = model.hf.config._attn_implementation
    model.attention = "sequence"
    ids = _probe_ids(model, 32).tolist()
    pairs = [
        TokenPair(0, "", tuple(ids[:5]), tuple(ids[5:12]), tuple(ids[12:16]), False),
        TokenPair(1, "", tuple(ids[16:19]), tuple(ids[19:22]), tuple(ids[22:32]), False),
    ]
    (batch,) = pack(pairs)
    expected = list(pair_states(model, batch))
    try:
        model.hf.set_attn_implementation(TREE_ATTENTION)
        model.attention = "tree"
        found = list(pair_states(model, batch))
        worst = max(
            relative_difference(getattr(a, side), getattr(b, side))
            for a, b in zip(found, expected, strict=True)
            for side in ("chosen", "rejected")
        )
        problem = None
        if worst > TOLERANCE[model.dtype]:
            problem = f"packed rows differ from single sequences by {worst:.2g} (relative)"
    except Exception as error:  # any architecture may fail in its own way; the sequences' way is always there
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        model.hf.set_attn_implementation(before)
        model.attention = "sequence"
    return problem


def _probe_ids(model: Model, count: int) -> Tensor:
    """Fixed pseudo-random token ids, well inside the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.head.weight.shape[0], (count,), generator=generator)

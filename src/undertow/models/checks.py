"""What is asserted once per model load, on a few random tokens (theory 4.4).

1. All weights are finite numbers: else the model is refused, and the tensors are named.
2. The backbone's output is the very tensor that enters the head, and the head of ``families.py`` recomputes the
   model's logits from it, soft cap and scale included: else the model is refused.
3. Packed rows with tree attention give the states of plain sequences: else packed rows are not used for this model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.errors import ModelError
from undertow.maths.precision import in_float64
from undertow.models.attention import TREE_ATTENTION
from undertow.models.forward import pair_states

if TYPE_CHECKING:
    from undertow.models.model import Model

SHOWN_TENSORS = 3
# Largest difference over largest value. bfloat16 keeps 8 bits, and a different order of rounding adds up over layers.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.02}


def check_same_tokens(
    ours: PreTrainedTokenizerBase,
    theirs: PreTrainedTokenizerBase,
    named: str,
    *,
    whose: str,
    vocabulary: int | None = None,
) -> None:
    """Refuse two tokenizers that give one token different meanings.

    Args:
        ours: the tokenizer that makes the tokens.
        theirs: that of the other model, which is to read them.
        named: the option or argument that gave the other model, and its value.
        whose: what the tokenizer of ours is called in the message.
        vocabulary: for how many ids both models have rows, where that is known: what a tokenizer knows beyond them
            does not matter, since a pair that uses it is refused.

    Raises:
        ModelError: they do.
    """
    one, two = (
        {token: index for token, index in tokenizer.get_vocab().items() if vocabulary is None or index < vocabulary}
        for tokenizer in (ours, theirs)
    )
    if one != two:
        raise ModelError(
            f"{named}: its tokenizer has another vocabulary than {whose}, so the two cannot be compared token by token."
        )


def relative_difference(a: Tensor, b: Tensor) -> float:
    """``max|a − b| / max|b|`` in float64, wherever the tensors are; infinite where either is not finite."""
    a, b = in_float64(a), in_float64(b)
    difference = (a - b).abs().max() / b.abs().max().clamp_min(1e-30)
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


@torch.no_grad()
def check_finite(model: PreTrainedModel, name: str) -> None:
    """Refuse weights that hold a NaN or an infinity, naming the tensors.

    Single rows of an input embedding that is not the unembedding too may be broken: they harm only the pairs that use
    these tokens, whose scores are then said not to be finite.

    Args:
        model: the model with its weights.
        name: how the user named it.

    Raises:
        ModelError: some weight is not a finite number.
    """
    broken, hopeless = [], False
    embedding, output = (_weight(part) for part in (model.get_input_embeddings(), model.get_output_embeddings()))
    for tensor_name, tensor in model.named_parameters():
        if not (tensor.numel() and tensor.is_floating_point() and tensor.element_size() > 1):
            continue  # quantised
        if _all_finite(tensor):
            continue
        alone = embedding is not None and tensor is embedding and tensor is not output
        hopeless = hopeless or not (alone and bool(_finite_rows(tensor).any()))
        nans, infinities = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        counts = [f"{count:,} {what}" for count, what in ((nans, "NaN"), (infinities, "infinite")) if count]
        broken.append(f"{tensor_name} ({' and '.join(counts)} of {tensor.numel():,} numbers)")
    if hopeless:
        more = f", and {len(broken) - SHOWN_TENSORS} more tensors" if len(broken) > SHOWN_TENSORS else ""
        raise ModelError(
            f"--model {name}: its weights are not finite: {', '.join(broken[:SHOWN_TENSORS])}{more}. No score can come "
            "of them: copy the model again, or take a checkpoint from before its training diverged."
        )


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
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            f"{type(model.hf).__name__}: its logits are not finite, though its weights are: numbers grow too large for "
            f"{str(model.dtype).removeprefix('torch.')}. Try --dtype float32."
        )
    hidden = model.backbone(input_ids=ids, use_cache=False).last_hidden_state
    name, tolerance = type(model.hf).__name__, TOLERANCE[model.dtype]
    if not entering or entering[-1].shape != hidden.shape or relative_difference(hidden, entering[-1]) > tolerance:
        raise ModelError(
            f"{name}: the backbone's output is not the tensor that enters the unembedding, so hidden embeddings "
            "cannot be scored for this architecture."
        )
    error = relative_difference(model.head.logits(hidden), logits)
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
    """Fixed pseudo-random token ids for which the model has rows that are finite, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    embedding = _weight(model.hf.get_input_embeddings())
    if embedding is None or _all_finite(embedding):
        return torch.randint(0, model.vocabulary, (count,), generator=generator)
    usable = _finite_rows(embedding)[: model.vocabulary].nonzero()[:, 0].cpu()
    return usable[torch.randint(0, len(usable), (count,), generator=generator)]


def _weight(part: nn.Module | None) -> Tensor | None:
    found = getattr(part, "weight", None)
    return found if isinstance(found, Tensor) else None


def _all_finite(tensor: Tensor) -> bool:
    """By its smallest and largest number: one pass without a copy, and NaN comes through it."""
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all())


def _finite_rows(matrix: Tensor) -> Tensor:
    return torch.isfinite(torch.stack(torch.aminmax(matrix.detach(), dim=1))).all(0)

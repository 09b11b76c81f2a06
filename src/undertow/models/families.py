"""Everything that differs between architectures: where the backbone is, what the head does to the hidden embedding.

Nothing else in Undertow asks what family a model is of. What is read here is never trusted: ``models/checks.py``
recomputes the logits from it once per load and refuses a model for which they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from undertow.errors import ModelError
from undertow.maths.residuals import HeadOptions, logits_of
from undertow.models.device import multiplies_bfloat16

EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
"""What input embeddings are called in files of weights."""

UNEMBEDDINGS = ("lm_head", "embed_out")
"""What unembedding matrices are called there; where a file has none, it is tied to the input embedding."""


@dataclass(frozen=True, slots=True)
class Head:
    """The output head, ``logits = scale · cap(W h + bias)`` with ``cap(u) = C·tanh(u/C)`` (theory 4.4).

    ``weight`` is the unembedding matrix ``[V, d]`` (the very tensor of the model, tied or not); ``tied`` says whether
    it is the input embedding as well.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    tied: bool

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., V]`` of hidden embeddings ``[..., d]``, in float32 or better."""
        kind = torch.promote_types(hidden.dtype, torch.float32)
        u = hidden.to(kind) @ self.weight.to(kind).T
        if self.bias is not None:
            u = u + self.bias.to(kind)
        return logits_of(u, self.scale, self.softcap)

    def options(self, states: Tensor) -> HeadOptions:
        """The head as the formulas of ``maths/`` take it, for hidden embeddings of this type and place.

        Large products have bfloat16 factors where the states are in bfloat16 and the processor multiplies it natively,
        else float32: a model in float32 keeps all its digits, and emulated products would be slower, not faster. The
        bias is a constant: no formula gives it a gradient.
        """
        fast = states.dtype == torch.bfloat16 and multiplies_bfloat16(states.device)
        return {
            "bias": None if self.bias is None else self.bias.detach(),
            "scale": self.scale,
            "softcap": self.softcap,
            "products": torch.bfloat16 if fast else None,
        }


def find_head(model: PreTrainedModel) -> Head:
    """The head of a causal language model, with the scale and the soft cap its configuration names."""
    output = model.get_output_embeddings()
    if not isinstance(output, nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no linear output embedding (found {type(output).__name__}); "
            "Undertow reads causal language models with an unembedding matrix."
        )
    config = model.config.get_text_config()
    scale = 1.0
    if getattr(config, "logit_scale", None) is not None:  # Cohere
        scale = float(config.logit_scale)
    elif getattr(config, "logits_scaling", None) is not None:  # Granite
        scale = 1.0 / float(config.logits_scaling)
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    embedding = model.get_input_embeddings()
    tied = getattr(embedding, "weight", None) is output.weight
    return Head(output.weight, output.bias, scale, None if cap is None else float(cap), tied)


def find_backbone(model: PreTrainedModel) -> nn.Module:
    """The part that turns tokens into the hidden embeddings that enter the head: no logits are computed by it."""
    backbone = model.base_model
    if backbone is model:
        raise ModelError(f"{type(model).__name__} has no backbone apart from its head ('{model.base_model_prefix}').")
    return backbone  # type: ignore[no-any-return]


def longest_input(config: PretrainedConfig) -> int | None:
    """How many positions the model was made for, or None where its configuration names no limit."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    return int(limit) if limit else None

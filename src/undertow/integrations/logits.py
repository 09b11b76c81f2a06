"""Generation between and beyond two models, with any ``generate`` call of transformers (theory 6.4).

processor = CombinedLogitsProcessor(reference, policy_weight=2.0, reference_weight=1.0)
policy.generate(**inputs, logits_processor=LogitsProcessorList([processor]))
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from undertow.errors import ModelError, OptionError
from undertow.maths.tilt import combine_logits

__all__ = ["CombinedLogitsProcessor"]


class CombinedLogitsProcessor(LogitsProcessor):  # type: ignore[misc] # transformers is untyped here
    """Draws each token ``∝ p_θ^A p_ref^{−B}``: :func:`~undertow.maths.tilt.combine_logits` in a ``generate`` call.

    The reference's forward pass is its own: it keeps a key-value cache, takes only the new tokens where the sequence
    grew, follows the reordering of beams, and starts anew for a new prompt. The scores it returns are
    log-probabilities, so that beams can be compared. Processors that mask tokens (a minimum length, a grammar) act
    before it and keep their masks; temperature, top-k and top-p act after it.

    Args:
        reference: a causal language model with the policy's tokenizer, in evaluation mode, on any device.
        policy_weight: ``A``. ``A − B = 1`` keeps the temperature; ``A > 1`` goes beyond the policy.
        reference_weight: ``B``. With 0 the reference is never run.
        attention_mask: ``[prompts, T]``, the mask given to ``generate``; needed when the prompts are padded (on the
            left). With one, make a new processor for every call.

    Raises:
        OptionError: when a weight is not finite, or the mask does not fit the prompts.
        ModelError: when the reference cannot be used, or has another vocabulary than the policy.
    """

    def __init__(
        self,
        reference: PreTrainedModel,
        *,
        policy_weight: float,
        reference_weight: float,
        attention_mask: Tensor | None = None,
    ) -> None:
        for name, value in (("policy_weight", policy_weight), ("reference_weight", reference_weight)):
            if not math.isfinite(value):
                raise OptionError(f"{name} must be a finite number, got {value}")
        if reference.training:
            raise ModelError(
                "the reference is in training mode, where dropout changes its logits: call reference.eval()"
            )
        if reference.config.is_encoder_decoder:
            raise ModelError(f"the reference must be a decoder-only model, got {type(reference).__name__}")
        self.policy_weight = policy_weight
        self.reference_weight = reference_weight
        self._reference = reference
        self._prompt_mask = attention_mask
        self._seen: Tensor | None = None
        self._cache: Any = None
        # An adapter's own forward takes anything; what is understood stands in the model it wraps.
        wrapped = reference.get_base_model() if hasattr(reference, "get_base_model") else reference
        self._understood = frozenset(inspect.signature(wrapped.forward).parameters)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The combined log-probabilities ``[rows, V]`` of the next token, from the policy's ``scores``."""
        if self.reference_weight == 0:
            logits = torch.zeros_like(scores)
        else:
            logits = self._reference_logits(input_ids).to(scores)
            if logits.shape != scores.shape:
                raise ModelError(
                    f"the reference has a vocabulary of {logits.shape[-1]}, the policy of {scores.shape[-1]}: "
                    "their logits can be combined only token by token; use a reference with the policy's tokenizer"
                )
        combined: Tensor = combine_logits(
            scores, logits, policy_weight=self.policy_weight, reference_weight=self.reference_weight
        )
        return combined.log_softmax(-1)

    def _reference_logits(self, input_ids: Tensor) -> Tensor:
        ids = input_ids.to(self._reference.device)
        known = 0
        if self._seen is not None and self._follow(ids):
            known = self._seen.shape[1]
        else:
            self._cache = None
        mask = self._mask(ids)
        inputs: dict[str, Any] = {"attention_mask": mask, "past_key_values": self._cache, "use_cache": True}
        if "position_ids" in self._understood:
            # Left padding takes no positions, as in generate itself.
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, known:]
        if "logits_to_keep" in self._understood:
            inputs["logits_to_keep"] = 1
        out = self._reference(input_ids=ids[:, known:], **inputs)
        self._cache = getattr(out, "past_key_values", None)
        self._seen = ids.clone() if self._cache is not None else None
        logits: Tensor = out.logits[:, -1]
        return logits

    def _follow(self, ids: Tensor) -> bool:
        """Whether the rows go on from what the cache holds; puts the cache in their order when beams changed places."""
        seen = self._seen
        if seen is None or len(ids) != len(seen) or ids.shape[1] <= seen.shape[1]:
            return False
        begun = ids[:, : seen.shape[1]]
        if torch.equal(begun, seen):
            return True
        same = (begun[:, None] == seen).all(-1)
        if not bool(same.any(1).all()) or not hasattr(self._cache, "reorder_cache"):
            return False
        self._cache.reorder_cache(same.int().argmax(1))
        return True

    def _mask(self, ids: Tensor) -> Tensor:
        rows, length = ids.shape
        if self._prompt_mask is None:
            self._refuse_padding(ids)
            return torch.ones_like(ids)
        given, until = self._prompt_mask.shape
        if rows % given or length < until:
            raise OptionError(
                f"attention_mask is for {given} prompts of {until} tokens, the input has {rows} rows of {length}: "
                "give the mask of this generate call, and make a new processor for the next"
            )
        # generate repeats every prompt for its beams or its several answers.
        mask = self._prompt_mask.to(ids).repeat_interleave(rows // given, dim=0)
        return torch.cat([mask, mask.new_ones(rows, length - until)], dim=1)

    def _refuse_padding(self, ids: Tensor) -> None:
        pad = getattr(self._reference.config.get_text_config(), "pad_token_id", None)
        padded = ids[:, 0] == pad if isinstance(pad, int) else None
        if padded is not None and bool(padded.any()) and not bool(padded.all()):
            raise OptionError(
                f"some rows begin with the padding token {pad}: give the processor the attention_mask that generate "
                "got, or the reference reads the padding"
            )

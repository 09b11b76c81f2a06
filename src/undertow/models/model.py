"""A loaded model: backbone, head, tokenizer, and how its forward pass goes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undertow.models.families import Head


@dataclass(slots=True)
class Model:
    """A causal language model that is ready to be scored with.

    ``attention`` is "tree" for packed rows, or "sequence" where the family cannot take them; ``attention_note`` then
    says why.
    """

    name: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    backbone: nn.Module
    head: Head
    device: torch.device
    dtype: torch.dtype
    attention: Literal["tree", "sequence"] = "sequence"
    attention_note: str | None = None

    @property
    def vocabulary(self) -> int:
        """For how many token ids the model has rows; its tokenizer may know more of them, or fewer."""
        embedding = getattr(self.hf.get_input_embeddings(), "weight", self.head.weight)
        return min(len(embedding), len(self.head.weight))

    def weights_fingerprint(self) -> str:
        """SHA-256 over the names, shapes, types and bytes of all weights: equal weights, equal fingerprint."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.hf.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().contiguous().cpu().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        return digest.hexdigest()

    def describe(self) -> dict[str, object]:
        """What ``audit.json`` says of the model."""
        return {
            "name": self.name,
            "architecture": type(self.hf).__name__,
            "parameters": sum(p.numel() for p in self.hf.parameters()),
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tied_unembedding": self.head.tied,
            "attention": self.attention,
            "attention_note": self.attention_note,
        }

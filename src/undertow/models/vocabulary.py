"""For how many token ids a model has rows, told before its weights are loaded.

A tokenizer may know more tokens than that (Gemma 3, CodeLlama: a few that no text of theirs uses), or fewer (rows
filled up to a round number). An adapter that was trained after tokens were added has rows of its own number.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from undertow.models.families import EMBEDDINGS, UNEMBEDDINGS
from undertow.models.sources import ModelSource

__all__ = ["adapter_rows", "resize_vocabulary", "vocabulary_size"]

_MATRIX = rf"^(?!.*lora_A)(?:.*\.)?({'|'.join((*EMBEDDINGS, *UNEMBEDDINGS))})\.(?:.*\.)?"
_ROWS_FIRST = re.compile(_MATRIX + r"(?:lora_B\.)?weight$")
_ROWS_LAST = re.compile(_MATRIX + r"lora_embedding_A$")
_PLAIN_TYPES = ("F64", "F32", "F16", "BF16")  # the shape of a quantised matrix is not that of its numbers


def vocabulary_size(source: ModelSource, config: PretrainedConfig) -> int | None:
    """How many token ids the model has rows for, by its files, or its configuration where they are not at hand.

    Returns:
        The number: ids from 0 up to it, exclusive, can be used. None where nothing tells.
    """
    named = getattr(config.get_text_config(), "vocab_size", None)
    rows = _saved_rows(Path(source.location)) if source.local and not source.gguf else None
    rows = rows or (int(named) if named else None)
    if source.adapter is None:
        return rows
    return adapter_rows(source.adapter, rows)


def adapter_rows(adapter: Path, base: int | None) -> int | None:
    """How many rows the base model of a PEFT adapter had when the adapter was trained.

    Args:
        adapter: its folder.
        base: how many the base model has as it was published.
    """
    saved = _saved_rows(adapter)
    if saved is not None:
        return saved
    indices = json.loads((adapter / "adapter_config.json").read_text()).get("trainable_token_indices") or []
    lists = indices.values() if isinstance(indices, dict) else [indices]
    needed = max((int(index) + 1 for some in lists for index in some), default=0)
    return max(base or 0, needed) or None


@torch.no_grad()
def resize_vocabulary(model: PreTrainedModel, rows: int) -> None:
    """Give the model's embedding and unembedding so many rows; new ones are the mean of the old ones.

    transformers draws new rows at random: the same adapter would be another model at every load.
    """
    before = _matrices(model)
    means = [matrix.float().mean(0) for matrix in before]
    known = [len(matrix) for matrix in before]
    model.resize_token_embeddings(rows, mean_resizing=False)
    for matrix, mean, old in zip(_matrices(model), means, known, strict=True):
        matrix[old:] = mean.to(matrix)


def _matrices(model: PreTrainedModel) -> list[Tensor]:
    """Embedding, unembedding and the latter's bias; a tied matrix twice, which changes nothing."""
    output = model.get_output_embeddings()
    found = [getattr(model.get_input_embeddings(), "weight", None), getattr(output, "weight", None)]
    return [matrix for matrix in (*found, getattr(output, "bias", None)) if matrix is not None]


def _saved_rows(folder: Path) -> int | None:
    """The rows of the embedding and unembedding in a folder's safetensors files, the fewest of them; None for none."""
    found: list[int] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (safe_open has no other way)
                first = _ROWS_FIRST.search(name) is not None
                if first or _ROWS_LAST.search(name):
                    part = file.get_slice(name)
                    shape = part.get_shape()
                    if len(shape) == 2 and part.get_dtype() in _PLAIN_TYPES:
                        found.append(int(shape[0 if first else 1]))
    return min(found, default=None)

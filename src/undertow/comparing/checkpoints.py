"""The two models that are compared: found, loaded, and seen to speak of the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from undertow.comparing.settings import CompareSettings
from undertow.errors import ModelError
from undertow.models.device import multiplies_bfloat16
from undertow.models.loading import check_max_length, load_config, load_model
from undertow.models.model import Model
from undertow.models.sources import ModelSource, find_model
from undertow.runs.progress import Watcher

__all__ = ["Checkpoints", "check_vocabulary", "find_sources", "load_checkpoints"]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The two models; tokens are those of the one before."""

    before: Model
    after: Model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the one before."""
        return self.before.tokenizer


def check_vocabulary(before: Model, after: Model) -> None:
    """Refuse models whose distributions are over different numbers of tokens.

    Raises:
        ModelError: they are.
    """
    one, two = len(before.head.weight), len(after.head.weight)
    if one != two:
        raise ModelError(
            f"{after.name}: its unembedding matrix has {two} rows, that of {before.name} {one}: their distributions "
            f"cannot be compared. Give the two one size first: model.resize_token_embeddings({max(one, two)})."
        )


def find_sources(before: str, after: str, settings: CompareSettings) -> tuple[ModelSource, ModelSource]:
    """Both models, found, the first long enough, before any weights are loaded.

    Raises:
        ModelError: one is not.
    """
    first, second = find_model(before), find_model(after)
    config = load_config(first, trust_remote_code=settings.trust_remote_code)
    check_max_length(first, config, settings.tokens.max_length)
    return first, second


def load_checkpoints(
    sources: tuple[ModelSource, ModelSource],
    tokenizer: PreTrainedTokenizerBase,
    settings: CompareSettings,
    watch: Watcher,
) -> Checkpoints:
    """Both models, checked; what a user should know of how they run is noted.

    Raises:
        ModelError: a model cannot be read or scored, or the two have vocabularies of different sizes.
    """
    loaded = []
    for source, named in zip(sources, ("before", "after"), strict=True):
        watch.phase(f"loading the model {named}")
        model = load_model(
            source.name,
            device=settings.device,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            packed=settings.packed,
            tokenizer=tokenizer,
        )
        if model.attention_note:
            watch.note(f"The model {named}: one sequence at a time: {model.attention_note}.")
        loaded.append(model)
    models = Checkpoints(*loaded)
    check_vocabulary(models.before, models.after)
    if models.before.dtype == torch.bfloat16 and not multiplies_bfloat16(models.before.device):
        watch.note("This processor has no bfloat16 products of its own and emulates them slowly: try --dtype float32.")
    return models

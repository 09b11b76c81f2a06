"""The two models that are compared: found, loaded, and seen to speak of the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from undertow.comparing.settings import CompareSettings
from undertow.comparing.weights import weight_change
from undertow.errors import ModelError
from undertow.models.device import multiplies_bfloat16
from undertow.models.loading import check_max_length, load_config, load_model
from undertow.models.model import Model
from undertow.models.sources import ModelSource, find_model
from undertow.models.vocabulary import vocabulary_size
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
    _check_rows(before.name, len(before.head.weight), after.name, len(after.head.weight))


def _check_rows(before: str, one: int, after: str, two: int) -> None:
    if one != two:
        raise ModelError(
            f"{after}: its unembedding matrix has {two} rows, that of {before} {one}: their distributions "
            f"cannot be compared. Give the two one size first: model.resize_token_embeddings({max(one, two)})."
        )


def find_sources(
    before: str, after: str, settings: CompareSettings
) -> tuple[tuple[ModelSource, ModelSource], int | None]:
    """Both models, found, the first long enough and both of one size; and how many token ids the first has.

    Raises:
        ModelError: one is not.
    """
    first, second = find_model(before, option="--before"), find_model(after, option="--after")
    one, two = (load_config(source, trust_remote_code=settings.trust_remote_code) for source in (first, second))
    check_max_length(first, one, settings.tokens.max_length)
    rows = vocabulary_size(first, one), vocabulary_size(second, two)
    if rows[0] is not None and rows[1] is not None:
        _check_rows(before, rows[0], after, rows[1])
    return (first, second), rows[0]


def load_checkpoints(
    sources: tuple[ModelSource, ModelSource],
    tokenizer: PreTrainedTokenizerBase,
    settings: CompareSettings,
    watch: Watcher,
) -> Checkpoints:
    """Both models, in float32 unless another type is asked for; what a user should know of how they run is noted.

    Raises:
        ModelError: a model cannot be read or scored, or the two have vocabularies of different sizes.
    """
    loaded = []
    dtype = "float32" if settings.dtype == "auto" else settings.dtype
    for source, named in zip(sources, ("before", "after"), strict=True):
        watch.phase(f"loading the model {named}")
        model = load_model(
            source,
            device=settings.device,
            dtype=dtype,
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
    if models.before.dtype != torch.float32:
        watch.phase("looking at how the weights differ")
        change = weight_change(*sources, models.before.dtype, trust_remote_code=settings.trust_remote_code)
        if not change.visible:
            watch.note(change.warning())
    return models

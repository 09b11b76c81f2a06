"""The phase before preference training: supervised fine-tuning on the chosen responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from undertow.models.model import Model
from undertow.runs.progress import Watcher
from undertow.runs.token_file import TokenFile
from undertow.training.dataset import Item, PairDataset
from undertow.training.phases import Fitted, fit_supervised
from undertow.training.settings import TrainSettings


class ChosenDataset(PairDataset):
    """The same pairs without their rejected responses: no token of those is run through the model."""

    def __init__(self, spool: TokenFile, kept: Sequence[int]) -> None:
        super().__init__(spool, np.zeros((spool.pairs, 2)), kept)

    def __getitem__(self, index: int) -> Item:
        pair, chosen, _ = super().__getitem__(index)
        return replace(pair, rejected=()), chosen, 0.0


def supervised_settings(settings: TrainSettings) -> TrainSettings:
    """Those of the first phase: its own epochs and learning rate, all else as asked for the run."""
    return replace(settings, epochs=settings.sft_epochs, lr=settings.sft_lr or settings.lr, max_steps=0)


def supervise(
    spool: TokenFile, kept: Sequence[int], model: Model, settings: TrainSettings, out: Path, watch: Watcher
) -> Fitted:
    """Run the phase in a folder of its own; the model then holds its weights."""
    watch.note(f"supervised fine-tuning on the chosen responses first: {settings.sft_epochs:g} epochs.")
    return fit_supervised(spool, ChosenDataset(spool, kept), model, supervised_settings(settings), out, watch)

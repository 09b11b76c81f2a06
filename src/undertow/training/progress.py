"""Training's progress, told to whoever watches: pairs, tokens a second, time left."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from undertow.runs.progress import Watcher


class ProgressCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Moves the watcher by a step's pairs, and by the tokens that so many pairs have on average."""

    def __init__(self, watch: Watcher, tokens_per_pair: float) -> None:
        self._watch, self._tokens_per_pair = watch, tokens_per_pair
        self._pairs = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The whole is known once the trainer has counted its steps."""
        self._pairs = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        total = self._pairs * state.max_steps
        tokens = int(total * self._tokens_per_pair)
        self._watch.phase("training", pairs=total, tokens=tokens, done=self._pairs * state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One step of the optimiser."""
        self._watch.advance(pairs=self._pairs, tokens=int(self._pairs * self._tokens_per_pair))

"""When a run looks at its probe set: a callback of transformers' Trainer.

It works in Undertow's trainer and, by ``undertow.integrations.trl``, in TRL's.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from undertow.models.model import Model
from undertow.training.forward import with_whole_weights
from undertow.training.tracking.gradients import GradientProbe
from undertow.training.tracking.look import Look, evaluating, look
from undertow.training.tracking.tracker import Tracker

__all__ = ["DisplacementCallback"]


class DisplacementCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Looks at the probe set before the first step, every ``every`` steps, and at the end; logs ``displacement/…``.

    With ``gradients``, every look has the inner products of the probe pairs' gradients too.
    """

    def __init__(
        self, model: Model, tracker: Tracker, *, every: int = 25, gradients: GradientProbe | None = None
    ) -> None:
        self.model, self.tracker, self.every, self.gradients = model, tracker, every, gradients
        self.latest: dict[str, float] = {}
        self.trainer: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Before the first step, or where a run goes on."""
        self.tracker.resume(state.global_step)
        if not self.tracker.rows:
            self._look(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a step of the optimiser; after the last one in any case, while guards and loggers still listen."""
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._look(state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Where something else has ended the run before its last step."""
        if not self.tracker.rows or self.tracker.rows[-1]["step"] != state.global_step:
            self._look(state, control)

    def found(self, step: int) -> Look:
        """What the model, as it is now, says of the probe pairs."""
        with evaluating(self.model.hf):
            gradients, probe, held_out = self._gradients(step), self.tracker.probe, self.tracker.held_out
            return with_whole_weights(
                self.model, lambda model: look(model, probe, gradients=gradients, held_out=held_out)
            )

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        self.latest = self.tracker.add(state.global_step, self.found(state.global_step))
        if state.is_world_process_zero:
            due = control.should_log
            self._tell(state, {f"displacement/{name}": value for name, value in self.latest.items()})
            control.should_log = due  # an entry of the log counts as the step's own, which would then be left out

    def _gradients(self, step: int) -> GradientProbe | None:
        return self.gradients.at_step(step) if self.gradients else None

    def _tell(self, state: TrainerState, values: dict[str, float]) -> None:
        """Pass the values on to the trainer's loggers."""
        if self.trainer is not None:
            self.trainer.log(values)

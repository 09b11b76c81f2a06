"""What guards do to a run: the callback that watches, the state that a checkpoint keeps, and the five actions."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from undertow.files import write_atomically
from undertow.training.guards.language import Firing, Guards
from undertow.training.tracking.tracker import Tracker, tracked_values

LOG, STATE = "guard.jsonl", "undertow.json"
FindPulled = Callable[[float, Collection[int]], list[int]]


@dataclass(slots=True)
class Mitigation:
    """What guards have changed in the objective so far; the trainer reads it at every batch.

    ``sft`` is the weight λ of the term ``−λ ln π(y⁺|x)`` added to the loss; ``dropped`` are rows of pairs left out.
    ``rollback`` asks for the last checkpoint inside the limits, when training has stopped.
    """

    sft: float = 0.0
    dropped: set[int] = field(default_factory=set)
    rollback: bool = False


class GuardCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Observes each look at the probe set, and acts; stands behind the tracking callback in the trainer's list.

    Args:
        guards: what to watch for.
        tracker: whose newest row is observed.
        folder: where ``guard.jsonl`` is written, a line for each firing.
        pulled: finds, among the pairs still in training, the rows of the share with the largest predicted pull down,
            for ``drop``; given the rows that were dropped before.
        tell: is given a sentence for every firing.
        writes: whether this process writes the log; of several that train together, one does, and all act.
    """

    def __init__(
        self,
        guards: Guards,
        tracker: Tracker,
        folder: Path,
        *,
        pulled: FindPulled,
        tell: Callable[[str], None],
        writes: bool = True,
    ) -> None:
        self._writes = writes
        self.guards, self.tracker, self.folder = guards, tracker, folder
        self.mitigation = Mitigation()
        self.firings: list[dict[str, Any]] = []
        self._pulled, self._tell = pulled, tell

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, so that a run that goes on is exactly the one that was stopped."""
        return {
            "guards": self.guards.to_json(),
            "sft": self.mitigation.sft,
            "dropped": sorted(self.mitigation.dropped),
            "rollback": self.mitigation.rollback,
            "firings": self.firings,
            "inside": not any(state.hits for state in self.guards.states) and not self._fired_last(),
        }

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint's state; later lines of the log belong to work that was lost."""
        kept = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        self.guards = Guards.from_json(kept["guards"])
        self.mitigation = Mitigation(kept["sft"], set(kept["dropped"]), kept["rollback"])
        self.firings = kept["firings"]
        self._write()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A guard that names what is not tracked is refused before the first step."""
        if self.tracker.rows:
            self.guards.check(tracked_values(self.tracker.rows[-1]))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """After a step: observe the look that was taken at it, if one was."""
        self._observe(state, control)
        return control

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Observe the look that was taken at the end, where it was not taken at a step."""
        self._observe(state, control)

    @property
    def ended(self) -> bool:
        """Whether a guard has ended the run: no step is to follow."""
        return self.mitigation.rollback or any(state.stopped for state in self.guards.states)

    def _observe(self, state: TrainerState, control: TrainerControl) -> None:
        rows = self.tracker.rows
        # At the look before the first step nothing has moved.
        if state.global_step and rows and rows[-1]["step"] == state.global_step:
            last = state.global_step >= state.max_steps
            for firing in self.guards.observe(state.global_step, tracked_values(rows[-1])):
                self._act(firing, control, last=last)

    def _act(self, firing: Firing, control: TrainerControl, *, last: bool) -> None:
        record = firing.record()
        done = ""
        match firing.action.kind:
            case "stop":
                control.should_training_stop = control.should_save = True
            case "rollback":
                control.should_training_stop = self.mitigation.rollback = True
            case "sft":
                self.mitigation.sft += firing.action.value or 0.0
            case "drop":
                # Which pairs those are takes two passes over the data: not where no step is left to leave them out of.
                rows = [] if last else self._pulled(firing.action.value or 0.0, self.mitigation.dropped)
                self.mitigation.dropped |= set(rows)
                record["rows"] = rows
                done = f"; {len(rows)} pair{'' if len(rows) == 1 else 's'} dropped"
        self.firings.append(record)
        self._write()
        self._tell(f"guard at step {firing.step}: {firing.guard}; {_values(firing)}{done}.")

    def _fired_last(self) -> bool:
        last = self.tracker.rows[-1]["step"] if self.tracker.rows else None
        return any(firing["step"] == last for firing in self.firings)

    def _write(self) -> None:
        if not self._writes:
            return
        with write_atomically(self.folder / LOG) as file:
            for record in self.firings:
                file.write(json.dumps(record).encode() + b"\n")


def inside_limits(checkpoint: Path) -> bool:
    """Whether no guard held at the last look before a checkpoint."""
    try:
        return bool(json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["inside"])
    except (OSError, ValueError, KeyError):
        return False


def _values(firing: Firing) -> str:
    return ", ".join(f"{name} is {value:.4g}" for name, value in firing.values.items())

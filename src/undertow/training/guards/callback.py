"""What guards do to a run: the callback that watches, the state that a checkpoint keeps, and the five actions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from undertow.files import write_atomically
from undertow.training.guards.language import Firing, Guards
from undertow.training.tracking.tracker import Tracker

LOG, STATE = "guard.jsonl", "undertow.json"
FindPulled = Callable[[float], list[int]]


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
        pulled: finds the rows of the share of pairs with the largest predicted pull down, for ``drop``.
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
            "firings": self.firings,
            "inside": not any(state.hits for state in self.guards.states) and not self._fired_last(),
        }

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint's state; later lines of the log belong to work that was lost."""
        kept = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        self.guards = Guards.from_json(kept["guards"])
        self.mitigation = Mitigation(kept["sft"], set(kept["dropped"]))
        self.firings = kept["firings"]
        self._write()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A guard that names what is not tracked is refused before the first step."""
        if self.tracker.rows:
            self.guards.check([name for name, value in self.tracker.rows[-1].items() if isinstance(value, float)])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """After a step: observe the look that was taken at it, if one was."""
        rows = self.tracker.rows
        if rows and rows[-1]["step"] == state.global_step:
            values = {name: value for name, value in rows[-1].items() if isinstance(value, float)}
            for firing in self.guards.observe(state.global_step, values):
                self._act(firing, control)
        return control

    def _act(self, firing: Firing, control: TrainerControl) -> None:
        record = firing.record()
        match firing.action.kind:
            case "stop":
                control.should_training_stop = control.should_save = True
            case "rollback":
                control.should_training_stop = self.mitigation.rollback = True
            case "sft":
                self.mitigation.sft += firing.action.value or 0.0
            case "drop":
                # Among the pairs still there: what was dropped exerts and feels no pull.
                rows = self._pulled(firing.action.value or 0.0)
                self.mitigation.dropped |= set(rows)
                record["rows"] = rows
        self.firings.append(record)
        self._write()
        self._tell(f"guard at step {firing.step}: {firing.guard}; {_values(firing)}.")

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

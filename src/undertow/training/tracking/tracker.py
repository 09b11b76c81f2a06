"""Where the probability goes during training: a fixed probe set, looked at every so many steps.

A callback of transformers' Trainer. It works in Undertow's trainer and, by ``undertow.integrations.trl``, in TRL's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.files import write_atomically
from undertow.maths import displacement
from undertow.models.forward import PairStates, pair_states
from undertow.models.model import Model
from undertow.scoring.unembedding import Row, response_logps
from undertow.training.forward import with_whole_weights
from undertow.training.tracking.gradients import GradientProbe, gradient_summary

TOP = 3
TRACKING, START = "tracking.parquet", "tracking-start.npz"


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the probe set found.

    ``logps``: ``[pairs, 2]``, float64, in nats. ``next_token``: ``[pairs, V]``, float32: the distribution at the first
    position where the two responses differ. ``gradients``: tracked values of the pairs' gradients, where asked for.
    """

    logps: Tensor
    next_token: Tensor
    gradients: Mapping[str, float] = field(default_factory=dict)


@torch.no_grad()
def look(
    model: Model, probe: Sequence[TokenPair], batch_tokens: int = 4096, *, gradients: GradientProbe | None = None
) -> Look:
    """Log-probabilities and next-token distributions of the probe pairs, by the model as it is now; their gradients
    too, where it is said by which loss."""
    logps: list[tuple[float, float]] = []
    rows: list[Tensor] = []
    products: list[Row] = []
    for batch in pack(probe, batch_tokens):
        for states in pair_states(model, batch):
            if gradients is not None:
                products.append(gradients.row(len(products), states, model.head))
            logps.append(response_logps(states, model.head))
            rows.append(_where_they_part(states, model))
    found = gradient_summary(products) if gradients is not None else {}
    return Look(torch.tensor(logps, dtype=torch.float64), torch.stack(rows).cpu(), found)


def _where_they_part(states: PairStates, model: Model) -> Tensor:
    # The state after the shared tokens predicts the first token that differs. A response that is the beginning of the
    # other ends there: what comes next is looked at all the same.
    state = states.chosen[states.pair.shared_prefix_tokens]
    return model.head.logits(state).float().softmax(-1)


def words_to_ids(groups: Mapping[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The first tokens of a group's words, with and without a space before them."""
    found: dict[str, list[int]] = {}
    for name, words in groups.items():
        texts = [text for word in words for text in (word, f" {word}")]
        ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        found[name] = sorted({tokens[0] for tokens in ids if tokens})
    return found


class Tracker:
    """The history of a probe set: each look against the first, kept in memory and as ``tracking.parquet``.

    Args:
        probe: the pairs looked at.
        tokenizer: for the text of the tokens that gain.
        folder: where the history stands, so that a run that goes on has no gaps; None keeps it in memory only.
        groups: token ids of watched groups of words.
        writes: whether this process writes it; of several that train together, one does.
    """

    def __init__(
        self,
        probe: Sequence[TokenPair],
        tokenizer: PreTrainedTokenizerBase,
        folder: Path | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        *,
        writes: bool = True,
    ) -> None:
        self.probe, self._tokenizer, self.folder = probe, tokenizer, folder
        self._writes = writes
        self.groups = dict(groups or {})
        self.rows: list[dict[str, Any]] = []
        self.first: Look | None = None

    def resume(self, step: int) -> None:
        """Go on at a step: later rows belong to work that was lost and will be done again."""
        if self.folder is None or not (self.folder / TRACKING).exists():
            return
        with np.load(self.folder / START, allow_pickle=False) as start:
            self.first = Look(torch.from_numpy(start["logps"]), torch.from_numpy(start["next_token"]))
        table = pq.read_table(self.folder / TRACKING).to_pylist()
        self.rows = [row for row in table if row["step"] <= step]

    def add(self, step: int, now: Look) -> dict[str, float]:
        """Take a look into the history; the tracked values of this step."""
        if self.first is None:
            self.first = now
            self._write_start(now)
        if self.rows and self.rows[-1]["step"] >= step:
            return {name: value for name, value in self.rows[-1].items() if isinstance(value, float)}
        values = self._values(now)
        texts, gains = self._tokens(now)
        self.rows.append({"step": step, **values, "gaining_tokens": texts, "gaining": gains})
        self._write()
        return values

    def _values(self, now: Look) -> dict[str, float]:
        assert self.first is not None
        change = now.logps - self.first.logps
        chosen_history = [row["chosen_logp"] for row in self.rows] + [now.logps[:, 0].mean().item()]
        values = {
            "chosen_logp": now.logps[:, 0].mean().item(),
            "rejected_logp": now.logps[:, 1].mean().item(),
            "chosen_change": change[:, 0].mean().item(),
            "rejected_change": change[:, 1].mean().item(),
            "margin": (now.logps[:, 0] - now.logps[:, 1]).mean().item(),
            "margin_change": (change[:, 0] - change[:, 1]).mean().item(),
            "accuracy": (change[:, 0] > change[:, 1]).double().mean().item(),
            "displaced": displacement.displaced(self.first.logps[:, 0], now.logps[:, 0]).double().mean().item(),
            "largest_decrease": displacement.largest_decrease(torch.tensor(chosen_history, dtype=torch.float64))[0],
        }
        for name, ids in self.groups.items():
            gained = displacement.group_gains(self.first.next_token, now.next_token, ids)
            values[f"watch/{name}"] = gained.mean().item()
        return {name: float(value) for name, value in {**values, **now.gradients}.items()}

    def _tokens(self, now: Look) -> tuple[list[str], list[float]]:
        """The tokens that gained most probability where the responses part, on average over the pairs."""
        assert self.first is not None
        top = displacement.top_gains(self.first.next_token.mean(0), now.next_token.mean(0), TOP)
        ids, gains = top.ids.tolist(), top.gains.tolist()
        return [self._tokenizer.decode([i]) if gain > 0 else "" for i, gain in zip(ids, gains, strict=True)], gains

    def _write_start(self, start: Look) -> None:
        if self.folder is not None and self._writes:
            with write_atomically(self.folder / START) as file:
                np.savez(file, logps=start.logps.numpy(), next_token=start.next_token.numpy())

    def _write(self) -> None:
        if self.folder is not None and self._writes:
            with write_atomically(self.folder / TRACKING) as file:
                # A run that goes on may track more than the run before it did: the table has the columns of all.
                names = dict.fromkeys(name for row in self.rows for name in row)
                pq.write_table(pa.table({name: [row.get(name) for row in self.rows] for name in names}), file)


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
        """After a step of the optimiser."""
        if state.global_step % self.every == 0:
            self._look(state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After the last step."""
        if not self.tracker.rows or self.tracker.rows[-1]["step"] != state.global_step:
            self._look(state, control)

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        with evaluating(self.model.hf):
            gradients, probe = self._gradients(state.global_step), self.tracker.probe
            found = with_whole_weights(self.model, lambda model: look(model, probe, gradients=gradients))
            self.latest = self.tracker.add(state.global_step, found)
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


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each part is in its own mode again, since some may be frozen in evaluation."""
    before = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training

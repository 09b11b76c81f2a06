"""The trainers: transformers' own, with our batches, our losses, and checkpoints that stand whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from undertow.data.tokens.encoder import TokenPair
from undertow.errors import UndertowError
from undertow.files import write_json
from undertow.maths.losses import Logps, PairLoss
from undertow.maths.precision import as_like, has_float64, in_float64
from undertow.training.guards.callback import STATE, GuardCallback

STAGING = ".checkpoint.tmp"
_COMPLETE = TRAINER_STATE_NAME  # what transformers writes last


class DivergedError(UndertowError):
    """The loss is no number any more: training cannot go on from here."""


class PairTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """``transformers.Trainer`` over packed pairs; a subclass says what is minimised."""

    def __init__(self, **trainer: Any) -> None:
        super().__init__(**trainer)
        # Each batch's loss is its mean: transformers shall divide by the number of batches accumulated.
        self.model_accepts_loss_kwargs = False

    def objective(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The mean loss of a batch."""
        raise NotImplementedError

    def save_more(self, checkpoint: Path) -> None:
        """Add to a checkpoint what is not transformers'."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective.

        Raises:
            DivergedError: it is not finite, or does not exist; the message names the step and the pairs.
        """
        try:
            loss = self.objective(model, inputs)
        except ValueError as error:  # reward calibration does not exist for a pair with a weight of 0 or below
            raise self._diverged(inputs["pairs"], f"There is no loss ({error})") from error
        if not torch.isfinite(loss):
            raise self._diverged(inputs["pairs"], f"The loss is {float(loss.detach())}")
        if not has_float64(inputs["input_ids"].device):  # the trainer adds losses up on its own device
            loss = loss.float().to(inputs["input_ids"].device)
        return (loss, {}) if return_outputs else loss

    def _diverged(self, pairs: Sequence[TokenPair], what: str) -> DivergedError:
        last = complete_checkpoints(Path(self.args.output_dir))
        ids = ", ".join(f"{pair.pair_id} (row {pair.row})" for pair in pairs)
        return DivergedError(
            f"{what} at step {self.state.global_step + 1}, on the pairs {ids}. "
            f"{f'The last checkpoint is {last[-1]}' if last else 'There is no checkpoint yet'}; "
            "try a smaller --lr, or leave out these pairs."
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written into a folder beside, and renamed when it is complete: a kill or a full disk harms none before it."""
        name, out = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", Path(self.args.output_dir)
        staging = out / STAGING
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        before, limit = self.args.output_dir, self.args.save_total_limit
        self.args.output_dir, self.args.save_total_limit = str(staging), None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir, self.args.save_total_limit = before, limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.save_more(staging / name)
            shutil.rmtree(out / name, ignore_errors=True)
            (staging / name).replace(out / name)
            shutil.rmtree(staging, ignore_errors=True)
            for old in complete_checkpoints(out)[: -(limit or 1)]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()


class SupervisedTrainer(PairTrainer):
    """Minimises the chosen response's negative log-likelihood a token: the mean over tokens, then over the batch."""

    def objective(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """``−a/n⁺``, in nats a token."""
        a = in_float64(_forward(model, inputs)["chosen"])
        mean: Tensor = (-a / in_float64(inputs["chosen_tokens"])).mean()
        return mean


class PreferenceTrainer(PairTrainer):
    """Minimises a preference loss.

    Args:
        loss: its mean over a batch's pairs is what is minimised.
        guard: the callback whose mitigation is added to the objective, and whose state the checkpoints keep.
        **trainer: everything that ``transformers.Trainer`` takes.
    """

    def __init__(self, *, loss: PairLoss, guard: GuardCallback | None = None, **trainer: Any) -> None:
        super().__init__(**trainer)
        self.loss, self.guard = loss, guard
        self._sums: dict[str, list[Tensor]] = {}

    def objective(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The mean loss of the pairs that guards have left in, with the terms that they have added."""
        found = _forward(model, inputs, grad_norms=self.loss.needs_grad_norms)
        found = {name: in_float64(value) for name, value in found.items()}
        logps = Logps(
            **found,
            ref_chosen=as_like(inputs["ref_chosen"], found["chosen"]),
            ref_rejected=as_like(inputs["ref_rejected"], found["chosen"]),
            chosen_tokens=in_float64(inputs["chosen_tokens"]),
            rejected_tokens=in_float64(inputs["rejected_tokens"]),
        )
        self._note(logps)
        return self._mitigated(self.loss.at_step(self.state.global_step)(logps), logps, inputs["pairs"])

    def _mitigated(self, values: Tensor, logps: Logps, pairs: Sequence[TokenPair]) -> Tensor:
        if self.guard is None:
            return values.mean()
        mitigation = self.guard.mitigation
        if mitigation.sft:
            values = values - mitigation.sft * logps.chosen
        stays = torch.tensor([pair.row not in mitigation.dropped for pair in pairs], device=values.device)
        return torch.where(stays, values, 0.0).sum() / stays.sum().clamp_min(1)

    def save_more(self, checkpoint: Path) -> None:
        """The guards' state."""
        if self.guard is not None:
            write_json(checkpoint / STATE, self.guard.state())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last log, under their usual names: log-ratios, margin and reward accuracy."""
        if "loss" in logs:
            logs |= {name: torch.stack(values).mean().item() for name, values in self._sums.items()}
            self._sums = {}
        super().log(logs, start_time)

    def _note(self, logps: Logps) -> None:
        beta = getattr(
            getattr(self.loss, "loss", self.loss), "beta", 1.0
        )  # implicit rewards are β times the log-ratios, where there is a β
        with torch.no_grad():
            for name, value in (
                ("logps/chosen", logps.chosen),
                ("logps/rejected", logps.rejected),
                ("rewards/chosen", beta * logps.chosen_logratio),
                ("rewards/rejected", beta * logps.rejected_logratio),
                ("rewards/margins", beta * logps.corrected_margin),
                ("rewards/accuracies", in_float64(logps.corrected_margin > 0)),
            ):
                self._sums.setdefault(name, []).append(value.detach().mean())


def _forward(model: nn.Module, inputs: dict[str, Any], *, grad_norms: bool = False) -> dict[str, Tensor]:
    given = {name: inputs.get(name) for name in ("input_ids", "position_ids", "trees", "weights")}
    found: dict[str, Tensor] = model(**given, grad_norms=grad_norms)
    return found


def complete_checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a folder that stand whole, by step."""
    found = (path for path in out.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / _COMPLETE).is_file())
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))

"""A run of the real trainer on a tiny model, each step noted: which pairs, which learning rate, which gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

import undertow as ut
from tiny import random_pairs, tiny_model
from undertow.training import phases
from undertow.training.dataset import collate
from undertow.training.order import Step
from undertow.training.settings import TrainSettings
from undertow.training.trainer import PreferenceTrainer

LOSS = ut.losses.DPO(beta=0.01)  # small: no pair's gradient vanishes


@dataclass
class Taken:
    """What this process did for one step of the optimiser."""

    batches: list[list[int]] = field(default_factory=list)
    lr: float = 0.0
    gradient: Tensor | None = None
    expected: Tensor | None = None


class Recording(PreferenceTrainer):
    """The trainer that ``undertow train`` uses; notes the pairs of every batch."""

    def __init__(self, **trainer: Any) -> None:
        super().__init__(loss=LOSS, **trainer)
        self.taken = [Taken()]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        self.taken[-1].batches.append([pair.row for pair in inputs["pairs"]])
        return super().compute_loss(model, inputs, *args, **named)


class Steps(TrainerCallback):
    """Notes each step's learning rate and gradient, and what ``steps`` says the gradient is, by autograd."""

    def __init__(self, steps: list[Step] | None) -> None:
        self.trainer: Recording
        self.steps = steps

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **_: Any) -> None:
        trainer = self.trainer
        now = trainer.taken[-1]
        now.lr = optimizer.param_groups[0]["lr"]
        model = trainer.accelerator.unwrap_model(trainer.model)
        now.gradient = flat([parameter.grad for parameter in model.parameters()])
        if self.steps is not None:
            now.expected = gradient(trainer, model, self.steps[state.global_step])
        trainer.taken.append(Taken())


def flat(tensors: Any) -> Tensor:
    """One vector of all."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).clone()


def gradient(trainer: Recording, model: Any, step: Step) -> Tensor:
    """``Σ_j share_j ∇ℓ_j``, pair for pair."""
    total = torch.zeros(())
    for position, share in zip(step.pairs.tolist(), step.shares.tolist(), strict=True):
        total = total + share * trainer.objective(model, collate([trainer.train_dataset[position]]))
    return flat(torch.autograd.grad(total, list(model.parameters())))


def make(pairs: int, settings: TrainSettings, out: Path, steps: list[Step] | None = None) -> Recording:
    """The trainer, put together as ``undertow train`` does, in float64."""
    items = [(pair, -30.0, -40.0) for pair in random_pairs(pairs)]
    model = tiny_model(dtype=torch.float64)
    noting = Steps(steps)
    trainer = Recording(callbacks=[noting], **phases._common(items, model, settings, out))
    noting.trainer = trainer
    return trainer


def recorded(pairs: int, settings: TrainSettings, out: Path, steps: list[Step] | None = None) -> list[Taken]:
    """A whole run; what each of its steps was."""
    trainer = make(pairs, settings, out, steps)
    trainer.train()
    *taken, rest = trainer.taken
    assert not rest.batches, "every batch belongs to a step"
    assert len(taken) == trainer.state.global_step
    return taken

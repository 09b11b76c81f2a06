"""What an optimiser's running second moment makes of its scaling at the start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["OptimiserName", "RunningScale"]

OptimiserName = Literal["rmsprop", "adamw", "sgd"]


@dataclass(slots=True)
class RunningScale:
    """``c_t``, by which the optimiser's scaling at step t differs from ``P = 1/√V``, with its second moment ``v_t·V``.

    RMSProp (torch's, Hinton 2012): ``v_t = α v_{t−1} + (1−α) ρ_t``, ``v_0 = 0``, ``c_t = 1/√v_t``: 10 at the first
    step for α = .99. AdamW (Loshchilov and Hutter 2019): the same with ``β₂``, divided by ``1 − β₂ᵗ``. SGD: 1.
    ``ρ_t`` is the squared gradient of step t over the mean square that ``V`` was measured with.
    """

    optimiser: OptimiserName
    alpha: float = 0.99
    betas: tuple[float, float] = (0.9, 0.999)
    v: float = 0.0
    step: int = 0

    def advance(self, square: float) -> float:
        """``c_t`` of the next step, with its ``ρ_t``; 0 where no gradient has come yet."""
        self.step += 1
        if self.optimiser == "sgd":
            return 1.0
        decay = self.alpha if self.optimiser == "rmsprop" else self.betas[1]
        self.v = decay * self.v + (1 - decay) * square
        v = self.v if self.optimiser == "rmsprop" else self.v / (1 - decay**self.step)
        return 1 / math.sqrt(v) if v > 0 else 0.0

    @property
    def momentum(self) -> float:
        """How much of the last direction stays in the next one: ``β₁`` of AdamW, else 0."""
        return self.betas[0] if self.optimiser == "adamw" else 0.0

    @property
    def correction(self) -> float:
        """What the average over directions is divided by after :meth:`advance`: ``1 − β₁ᵗ``; 1 without momentum."""
        return 1 - self.momentum**self.step if self.momentum else 1.0

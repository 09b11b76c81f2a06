"""Reward calibration: any loss, its two weights rescaled so that the pair is disentangled (arXiv 2604.18239)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from undertow.maths.later import torch
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.wrapped import WrappedLoss

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RewardCalibrated"]


@dataclass(frozen=True, slots=True)
class RewardCalibrated(WrappedLoss):
    """Another loss, with values as they are and weights ``δd_w``, ``d_l/δ``, ``δ = √(r*/r)``.

    ``r = d_w/d_l`` and ``r* = ‖g_l‖/‖g_w‖``; the new ratio is ``r*``, which lies in the disentanglement band of every
    pair, so to first order the chosen log-probability does not fall and the rejected one does not rise. The product
    of the weights stays. The norms come with the pairs: ``chosen_grad_norms`` and ``rejected_grad_norms`` of
    :class:`Logps`, over the parameters that count (``√gg_chosen``, ``√gg_rejected`` at the unembedding level). Here
    each pair has its own ``δ``; the authors' code takes batch means of all four numbers and averages their logarithms
    over steps with decay 0.98, which is this with such means repeated for each pair.

    A pair whose weights are both 0 keeps them. Where a weight or a norm is 0 or negative otherwise, ``δ`` does not
    exist: :meth:`weights` are NaN there, and calling the loss is a ``ValueError``, since it would spoil a gradient.

    ``loss``: the loss to calibrate.
    """

    name = "reward-calibrated"
    needs_grad_norms = True

    def delta(self, logps: Logps) -> Tensor:
        """``δ = √(r*/r) = √(‖g_l‖d_l / (‖g_w‖d_w))``, ``[pairs]``; 1 where both weights are 0, NaN where undefined."""
        return self._delta(logps, self.loss.weights(logps))

    def value(self, logps: Logps) -> Tensor:
        """The inner loss at ``sg(a) + δ(a − sg(a))`` and ``sg(b) + (b − sg(b))/δ``: the same numbers, other slopes."""
        delta = self.delta(logps)
        if bool(delta.isnan().any()):
            pair = int(delta.isnan().flatten().nonzero()[0])
            d_w, d_l = (w.flatten()[pair].item() for w in self.loss.weights(logps))
            raise ValueError(
                f"RewardCalibrated: pair {pair} cannot be calibrated, which needs positive weights and gradient norms; "
                f"it has d_w = {d_w:g} and d_l = {d_l:g}. Leave such pairs out or take another loss"
            )
        a, b = logps.chosen, logps.rejected
        return self.loss.value(
            replace(
                logps,
                chosen=a.detach() + delta * (a - a.detach()),
                rejected=b.detach() + (b - b.detach()) / delta,
            )
        )

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``δd_w`` and ``d_l/δ``."""
        d_w, d_l = self.loss.weights(logps)
        delta = self._delta(logps, (d_w, d_l))
        return delta * d_w, d_l / delta

    def _delta(self, logps: Logps, weights: tuple[Tensor, Tensor]) -> Tensor:
        (d_w, d_l), g_w, g_l = weights, logps.given("chosen_grad_norms"), logps.given("rejected_grad_norms")
        with torch.no_grad():
            delta = (g_l / g_w * (d_l / d_w)).sqrt()
            defined = (d_w > 0) & (d_l > 0) & (g_w > 0) & (g_l > 0) & (delta > 0) & delta.isfinite()
            idle = (d_w == 0) & (d_l == 0)
            return torch.where(idle, 1.0, torch.where(defined, delta, torch.nan))

"""Training on the stored features: any loss, learning rate, order or filter, in seconds and without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.errors import OptionError
from undertow.maths.linearised import (
    Curvature,
    LinearisedRun,
    Products,
    RunningScale,
    SampleStep,
    forecast_error,
    linearised_run,
    probability_below,
)
from undertow.maths.losses import Logps, PairLoss
from undertow.training.order import Order, Step, training_steps
from undertow.training.settings import TrainSettings

__all__ = [
    "CURVE_NUMBERS",
    "CurvePoint",
    "Simulation",
    "Study",
    "mean_of",
    "sample_steps",
    "simulate_order",
    "simulated",
]

CURVE_NUMBERS = ("batch_loss", "loss", "chosen", "rejected", "margin", "displaced", "accuracy")
"""Of a point of a curve."""
CURVE_POINTS = 60
"""Of a run's curve, at most: steps at even distances, and the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What features tell of a data set, a model and an optimiser: all that simulations need.

    Attributes:
        pairs: ``N``, pairs of the data.
        sample: ``[n]``, the numbers of those with features, ascending.
        products: entanglement of all rows: ``2n`` of the sample, ``2h`` of held-out pairs, then the texts; where the
            loss weights tokens, then ``2n`` of the sample's weighted log-probabilities.
        norms: the same of plain gradients.
        logps: ``[R]``, log-probabilities at the start, in nats.
        reference: ``[n + h, 2]``, those of the reference.
        tokens: ``[n + h, 2]``, lengths of the responses.
        grad_norms: ``[n + h, 2]``, norms in the unembedding matrix at the start, where they are known.
        held_out: ``h``, pairs that are never trained on.
        mean_square: of ``κ²‖g‖²`` over the minibatches that the optimiser's scaling was measured with.
        curvature: what a look has told, where one was taken.
        sketch: numbers that stand for a gradient; 0 where products are exact.
        weighted: where the loss weights tokens, ``[n, 2]`` weighted log-probabilities under the reference, and
            ``[n, 2]`` sums of weights, in the place of lengths.
    """

    pairs: int
    sample: NDArray[np.int64]
    products: Products
    norms: Products
    logps: Tensor
    reference: Tensor
    tokens: Tensor
    grad_norms: Tensor | None
    held_out: int
    mean_square: float
    curvature: Curvature | None = None
    sketch: int = 0
    weighted: tuple[Tensor, Tensor] | None = None

    @property
    def acting(self) -> int:
        """The first of the rows that the loss is of and training moves along."""
        return len(self.logps) - 2 * len(self.sample) if self.weighted is not None else 0

    @property
    def text_rows(self) -> slice:
        """Those of the texts."""
        return slice(self.paired_rows, self.acting or None)

    @property
    def paired_rows(self) -> int:
        """Rows of pairs, trained or held out; after them come the texts'."""
        return 2 * (len(self.sample) + self.held_out)

    @property
    def complete(self) -> bool:
        """Whether all pairs have features."""
        return len(self.sample) == self.pairs

    def with_curvature(self, curvature: Curvature | None) -> Study:
        """The same after a look, or without."""
        return replace(self, curvature=curvature)

    def elsewhere(self) -> Study:
        """The same for a run whose batches are others than those of the run that was looked at.

        What the look told of a response is in part of the very path that was looked at, of which steps came before and
        after its own. Of another path the expectation lies between that and what it told of responses in general: half
        the way to the median of its kind, chosen or rejected, trained or not. Measured on three runs, one in another
        order and two without a fifth of the pairs: half ranks best (ρ .975, .985, .985, against .967, .968, .967 with
        all that the look told and .970, .988, .981 with the medians alone).
        """
        if self.curvature is None:
            return self
        nats, n = self.curvature.nats.clone(), 2 * len(self.sample)
        acting = nats[self.acting :] if self.weighted is not None else nats[:0]
        for kind in (nats[:n], nats[n : self.paired_rows], acting):
            for side in (kind[0::2], kind[1::2]):
                if len(side):
                    side += side.median()
                    side /= 2
        return self.with_curvature(replace(self.curvature, nats=nats))

    def batch(self, pairs: Tensor, changes: Tensor) -> Logps:
        """Whole responses: pairs of the sample (or held out), changed by ``[k, 2]`` nats."""
        start = self.logps[: self.paired_rows].view(-1, 2)[pairs] + changes
        return self._logps(pairs, start, self.reference, self.tokens)

    def loss_batch(self, pairs: Tensor, changes: Tensor) -> Logps:
        """What the loss looks at, of pairs of the sample: the same, unless it weights tokens."""
        if self.weighted is None:
            return self.batch(pairs, changes)
        start = self.logps[self.acting :].view(-1, 2)[pairs] + changes
        return self._logps(pairs, start, *self.weighted)

    def _logps(self, pairs: Tensor, start: Tensor, reference: Tensor, tokens: Tensor) -> Logps:
        more = {}
        if self.grad_norms is not None:
            more = {
                "chosen_grad_norms": self.grad_norms[pairs, 0],
                "rejected_grad_norms": self.grad_norms[pairs, 1],
            }
        return Logps(
            chosen=start[:, 0],
            rejected=start[:, 1],
            ref_chosen=reference[pairs, 0],
            ref_rejected=reference[pairs, 1],
            chosen_tokens=tokens[pairs, 0],
            rejected_tokens=tokens[pairs, 1],
            **more,
        )


@dataclass(frozen=True, slots=True, eq=False)
class CurvePoint:
    """Where the run stands after a step: means over the pairs of the sample that it trains (or others that were asked
    for), and the batches' own numbers since the last point.

    Attributes:
        step: steps taken.
        batch_loss: as training logs it: the mean over the steps since the last point, each before it was taken.
        loss: mean over the pairs.
        chosen: mean change of the chosen responses, in nats.
        rejected: of the rejected ones.
        margin: mean of chosen less rejected, against the reference.
        displaced: share of chosen responses that lie lower than at the start: the mean of how probable it is of each.
        accuracy: share of pairs whose margin against the reference is above 0.
        held_out: the same six of the held-out pairs (``batch_loss`` apart), where there are any.
        texts: ``[t]``, changes of the texts.
    """

    step: int
    batch_loss: float
    loss: float
    chosen: float
    rejected: float
    margin: float
    displaced: float
    accuracy: float
    held_out: dict[str, float]
    texts: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """A simulated run, or the mean over several orders.

    Attributes:
        linear: ``[R]``, changes on the linear model at the end, in nats.
        changes: ``[R]``, the same with curvature, where that is known.
        below: ``[R]``, how probable it is that a response ends lower: the mean over the orders.
        coefficients: ``[2n]``, summed step weights of the pairs at their own steps.
        stand_ins: ``[2n]``, where they stood in for others.
        length: squared length of the move.
        first_step: by the number of the pair in the data: when it is trained first, 0 where never or unknown.
        steps: of the optimiser.
        loss: mean of the batches' losses over all steps, as ``train.json`` says it.
        curve: over the steps.
        clipped: share of steps whose gradient was cut.
    """

    linear: Tensor
    changes: Tensor
    below: Tensor
    coefficients: Tensor
    stand_ins: Tensor
    length: float
    first_step: NDArray[np.int64]
    steps: int
    loss: float
    curve: tuple[CurvePoint, ...]
    clipped: float


def sample_steps(
    steps: Sequence[Step], kept: NDArray[np.int64], sample: NDArray[np.int64], *, seed: int
) -> list[SampleStep]:
    """A run's steps over the pairs that have features: others are stood in for, by each of them as often, in a random
    order, and where there are enough by ones that the step does not have yet.

    Args:
        steps: positions in the training set.
        kept: the numbers of the pairs in the training set.
        sample: the numbers of those with features, ascending.
        seed: of the draw.

    Raises:
        OptionError: none of the kept pairs has features.
    """
    able = np.flatnonzero(np.isin(sample, kept))  # those that are trained: a pair left out acts on nobody
    if not able.size:
        raise OptionError("no pair of the training set has features: filter less, or give --sample more pairs.")
    draw, uses = np.random.default_rng(seed), np.zeros(len(sample))
    found = []
    for step in steps:
        numbers = kept[step.pairs]
        at = np.minimum(np.searchsorted(sample, numbers), len(sample) - 1)
        own = sample[at] == numbers
        rarest = able[np.lexsort((draw.random(len(able)), uses[able], np.isin(able, at[own])))]
        at = np.where(own, at, 0)
        at[~own] = np.resize(rarest, int((~own).sum()))
        np.add.at(uses, at[~own], 1)
        found.append(SampleStep(torch.from_numpy(at), torch.from_numpy(step.shares), torch.from_numpy(own), step.lr))
    return found


def simulate_order(
    study: Study,
    settings: TrainSettings,
    kept: NDArray[np.int64],
    *,
    order: Order = "train",
    world_size: int = 1,
    seed: int | None = None,
    counted: NDArray[np.int64] | None = None,
    every: int | None = None,
) -> Simulation:
    """One run in one order.

    Args:
        study: the features.
        settings: of the training run.
        kept: the numbers of the pairs to train on, in the data's order.
        order: which pairs come when.
        world_size: processes that train together.
        seed: of an unknown order.
        counted: the numbers of the pairs that the curve's means are over; those that are trained, where None.
        every: steps between points of the curve, whose last is at the end; spread over the run, where None.
    """
    loss = settings.loss.make()
    steps = training_steps(len(kept), settings, world_size=world_size, order=order, seed=seed)
    plan = sample_steps(steps, kept, study.sample, seed=settings.seed if seed is None else seed)
    losses: list[float] = []

    def weights(step: int, pairs: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
        logps, now = study.loss_batch(pairs, changes), loss.at_step(step)
        losses.append(float((plan[step].shares * _values(now, logps)).sum()))
        return now.weights(logps)

    curve: list[CurvePoint] = []
    watched, squares = _watched(len(plan), every), study.products.squares()
    told = torch.from_numpy(np.flatnonzero(np.isin(study.sample, kept if counted is None else counted)))
    end: LinearisedRun | None = None
    for stand in linearised_run(
        study.products,
        plan,
        weights,
        RunningScale(settings.optimiser),
        len(study.sample),
        mean_square=study.mean_square,
        norms=study.norms,
        clip=settings.max_grad_norm,
        curvature=study.curvature,
        watch=watched.__contains__,
        acting=study.acting,
    ):
        since = losses[curve[-1].step if curve else 0 : stand.step]
        below = _below(study, squares, stand)
        batch_loss = float(np.mean(since)) if since else 0.0
        curve.append(_point(study, loss.at_step(stand.step - 1), stand, below, told, batch_loss))
        end = stand
    assert end is not None
    first = np.zeros(study.pairs, dtype=np.int64)
    for number, step in reversed(list(enumerate(steps, 1))):
        first[kept[step.pairs]] = number
    return Simulation(
        linear=end.linear,
        changes=end.changes,
        below=below,
        coefficients=end.coefficients,
        stand_ins=end.stand_ins,
        length=end.length,
        first_step=first,
        steps=len(plan),
        loss=float(np.mean(losses)) if losses else 0.0,
        curve=tuple(curve),
        clipped=end.clipped / len(plan),
    )


def simulated(
    study: Study,
    settings: TrainSettings,
    kept: NDArray[np.int64],
    *,
    order: Order = "train",
    orders: int = 20,
    world_size: int = 1,
    counted: NDArray[np.int64] | None = None,
) -> Simulation:
    """One run in the order that is known, or the mean over so many random ones; see :func:`simulate_order`."""
    seeds = [None] if order != "unknown" else [settings.seed + k for k in range(orders)]
    found = [
        simulate_order(study, settings, kept, order=order, world_size=world_size, seed=seed, counted=counted)
        for seed in seeds
    ]
    return found[0] if order != "unknown" else mean_of(found)


def mean_of(found: Sequence[Simulation]) -> Simulation:
    """The mean over runs in several orders; when a pair is trained is then not known."""

    def mean(get: Callable[[Simulation], Tensor]) -> Tensor:
        return torch.stack([get(one) for one in found]).mean(0)

    first = found[0]
    points = []
    for same in zip(*(one.curve for one in found), strict=True):
        numbers = {name: float(np.mean([getattr(point, name) for point in same])) for name in CURVE_NUMBERS}
        held = {key: float(np.mean([point.held_out[key] for point in same])) for key in same[0].held_out}
        points.append(
            CurvePoint(same[0].step, **numbers, held_out=held, texts=torch.stack([p.texts for p in same]).mean(0))
        )
    return Simulation(
        linear=mean(lambda one: one.linear),
        changes=mean(lambda one: one.changes),
        below=mean(lambda one: one.below),
        coefficients=mean(lambda one: one.coefficients),
        stand_ins=mean(lambda one: one.stand_ins),
        length=float(np.mean([one.length for one in found])),
        first_step=np.zeros_like(first.first_step),
        steps=first.steps,
        loss=float(np.mean([one.loss for one in found])),
        curve=tuple(points),
        clipped=float(np.mean([one.clipped for one in found])),
    )


def _values(loss: PairLoss, logps: Logps) -> Tensor:
    """Each pair's loss; NaN where it does not exist (a calibrated pair whose weights are not positive)."""
    try:
        return loss(logps)
    except ValueError:
        return torch.full_like(logps.chosen, torch.nan)


def _watched(steps: int, every: int | None) -> frozenset[int]:
    if every is not None:
        return frozenset(range(every, steps, every)) | {steps}
    count = min(CURVE_POINTS, steps)
    return frozenset(round(steps * (k + 1) / count) for k in range(count))


def _below(study: Study, squares: Tensor, stand: LinearisedRun) -> Tensor:
    """How probable it is that a response stands lower than at the start, ``[R]``."""
    bend = stand.changes - stand.linear
    error = forecast_error(squares, stand.linear, bend, stand.length, study.sketch)
    return probability_below(stand.changes, error)


def _point(
    study: Study, loss: PairLoss, stand: LinearisedRun, below: Tensor, told: Tensor, batch_loss: float
) -> CurvePoint:
    n = len(study.sample)
    changes, lower = (values[: study.paired_rows].view(-1, 2) for values in (stand.changes, below))
    means = _means(study, loss, told, changes, lower)
    if study.weighted is not None:
        acting = stand.changes[study.acting :].view(-1, 2)[told]
        means["loss"] = float(_values(loss, study.loss_batch(told, acting)).mean())
    held = _means(study, loss, torch.arange(n, n + study.held_out), changes, lower) if study.held_out else {}
    return CurvePoint(stand.step, batch_loss, **means, held_out=held, texts=stand.changes[study.text_rows].clone())


def _means(study: Study, loss: PairLoss, pairs: Tensor, changes: Tensor, lower: Tensor) -> dict[str, Any]:
    changes = changes[pairs]
    logps = study.batch(pairs, changes)
    values = _values(loss, logps)
    return {
        "loss": float(values.mean()),
        "chosen": float(changes[:, 0].mean()),
        "rejected": float(changes[:, 1].mean()),
        "margin": float(logps.corrected_margin.mean()),
        "displaced": float(lower[pairs, 0].mean()),
        "accuracy": float((logps.corrected_margin > 0).double().mean()),
    }

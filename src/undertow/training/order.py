"""The course of a training run without training: each step's pairs, their shares of its loss and its learning rate.

Samplers, shards and schedules are those that ``transformers.Trainer`` uses; how it divides a loss and counts steps
stands here, and the tests hold it against runs of the trainer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from typing import Literal

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from numpy.typing import NDArray
from torch.utils.data import BatchSampler
from transformers import get_scheduler

from undertow.training.settings import TrainSettings

Order = Literal["train", "trl", "unknown"]
_Batches = tuple[list[int], ...]  # of all processes, at one time


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the optimiser, along the gradient of ``Σ_j shares[j] · ℓ(pairs[j])``.

    Attributes:
        pairs: positions in the training set, 0 to n−1, batch after batch and in each the processes one after the
            other; ``[k]``. With several processes a pair may stand there twice, and counts twice.
        shares: the factor of each one's loss, in sum 1; ``[k]``. Each batch of each process counts the same, and the
            pairs of a batch share what it counts: those of a short batch count more than the others.
        lr: the learning rate that the step is taken with.
    """

    pairs: NDArray[np.int64]
    shares: NDArray[np.float64]
    lr: float


def training_steps(
    pairs: int,
    settings: TrainSettings,
    *,
    world_size: int = 1,
    order: Order = "train",
    seed: int | None = None,
) -> list[Step]:
    """The steps of a run on so many pairs, as ``transformers.Trainer`` takes them; a guard may end a run before.

    An epoch ends with what is left: a last batch of fewer pairs, and a last step of fewer batches, whose loss is the
    mean over those that it has. With several processes there are no shorter batches: the last ones are filled with the
    epoch's first pairs, until each process has as many batches of one size.

    Args:
        pairs: in the training set, n; for ``"trl"`` those that TRL keeps.
        settings: ``batch_size`` (of each process), ``accumulate``, ``epochs``, ``max_steps``, ``lr``, ``schedule``,
            ``warmup_steps`` and ``seed`` decide; all else has no part in it.
        world_size: the processes that train together.
        order: which pairs come when. ``"train"``: as in ``undertow train``. Each epoch is torch's permutation from
            the seed plus the epoch's number (accelerate's ``SeedableRandomSampler``, with the seed as ``data_seed``).
            ``"trl"``: as in ``DPOTrainer`` of TRL 1 with the same seed. That is the same order: it has transformers'
            dataloader and the same sampler, and its preparation maps the data set row by row without shuffling it.
            Three things are its own. Rows whose prompt alone fills ``max_length`` are left out (with
            ``truncation_mode="keep_start"``, its default), and positions count those that stay. ``data_seed`` wins
            over ``seed`` where it is given. Where it is not, the sampler's seed is torch's, which the trainer sets to
            ``seed`` when it is made: a ``torch.manual_seed`` between that and ``train()`` changes the order.
            ``"unknown"``: a fresh permutation an epoch, from numpy's generator.
        seed: of the order; ``settings.seed`` where None.

    Raises:
        ValueError: there is no pair or no process.
    """
    if pairs < 1 or world_size < 1:
        raise ValueError(f"{pairs} pairs on {world_size} processes: expected 1 or more of both.")
    permutations = _permutations(pairs, order, settings.seed if seed is None else seed)
    per_epoch = math.ceil(_batches_an_epoch(pairs, settings.batch_size, world_size) / settings.accumulate)
    total = settings.max_steps or math.ceil(settings.epochs * per_epoch)
    rates = learning_rates(total, settings)
    steps: list[Step] = []
    while len(steps) < total:
        batches = _batches(next(permutations), settings.batch_size, world_size)
        for start in range(0, len(batches), settings.accumulate)[: total - len(steps)]:
            steps.append(_step(batches[start : start + settings.accumulate], rates[len(steps)]))
    return steps


def learning_rates(steps: int, settings: TrainSettings) -> list[float]:
    """The learning rate of each of so many steps, by transformers' schedule for a run of that length."""
    scheduler = get_scheduler(
        settings.schedule,
        optimizer=torch.optim.SGD([torch.zeros(1)], lr=settings.lr),
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=steps,
    )
    # Each of SCHEDULES is a factor by the step's number: asking for it is what a step of the scheduler does.
    (initial,), (factor,) = scheduler.base_lrs, scheduler.lr_lambdas
    return [float(initial * factor(step)) for step in range(steps)]


def _permutations(pairs: int, order: Order, seed: int) -> Iterator[list[int]]:
    """The positions in their order, epoch after epoch, without end."""
    if order == "unknown":
        generator = np.random.default_rng(seed)
        while True:
            yield generator.permutation(pairs).tolist()
    sampler = SeedableRandomSampler(range(pairs), data_seed=seed)
    for epoch in count():
        sampler.set_epoch(epoch)
        yield list(sampler)


def _batches(positions: list[int], batch_size: int, world_size: int) -> list[_Batches]:
    """An epoch's batches: at each time one of each process."""
    batches = BatchSampler(positions, batch_size, drop_last=False)
    if world_size == 1:  # a shard would fill the last batch, and one process has none
        return [(batch,) for batch in batches]
    return list(zip(*(BatchSamplerShard(batches, world_size, rank) for rank in range(world_size)), strict=True))


def _batches_an_epoch(pairs: int, batch_size: int, world_size: int) -> int:
    """How many there are for each process."""
    return math.ceil(math.ceil(pairs / batch_size) / world_size)


def _step(batches: list[_Batches], lr: float) -> Step:
    """The mean over the processes of the mean over the times of a batch's mean."""
    each = list(chain.from_iterable(batches))
    shares = [1 / (len(each) * len(batch)) for batch in each]
    return Step(
        np.array([position for batch in each for position in batch], dtype=np.int64),
        np.repeat(np.array(shares), [len(batch) for batch in each]),
        lr,
    )

"""What a page needs to simulate other runs by itself: the entanglement in 16 bits, and the batches of each filter.

The page does what :func:`undertow.maths.linearised.linearised_run` does, on these numbers; it draws nothing at random
and knows no schedule, as batches and learning rates come along for every filter and length that it offers.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.errors import OptionError
from undertow.forecasting.settings import ForecastSettings
from undertow.forecasting.simulation import sample_steps
from undertow.forecasting.stored import Stored, planned, read_stored
from undertow.maths.linearised import Features, Kernel, Products, RunningScale, SampleStep
from undertow.maths.losses import by_name, parameters
from undertow.scoring.columns import PUSH, RANDOM
from undertow.training.order import learning_rates, training_steps
from undertow.training.settings import TrainSettings

__all__ = ["FILTERS", "LOSSES", "SHARES", "live_data", "live_of"]

LOSSES = ("dpo", "ipo", "simpo", "cpo", "rpo")
"""Those whose weights the page knows (static/linearised.js)."""
FILTERS = (PUSH, "forecast_chosen", RANDOM)
SHARES = (5, 10, 20)
"""Percent of the pairs that may be left out, beside none."""
EPOCHS = (1.0, 2.0, 3.0)
"""Lengths of a run, beside the forecast's own."""
MOST_PAIRS = 400
"""Trained or held out; of more, the numbers would weigh more than the rest of the page several times over."""
_LEVELS = 32_767


def live_data(folder: str | Path) -> dict[str, Any] | None:
    """What :func:`live_of` gives of a finished forecast.

    Raises:
        DataError: no finished forecast stands there.
    """
    return live_of(read_stored(folder), folder)


def live_of(stored: Stored, folder: str | Path) -> dict[str, Any] | None:
    """The numbers for the page, as JSON values; None where it cannot simulate the forecast's own run.

    That is where there are too many pairs, the loss is none of :data:`LOSSES`, calibrated or of weighted tokens, or a
    number is not finite.

    Args:
        stored: the forecast.
        folder: where it stands, for messages.
    """
    study, (settings, kept) = stored.study, planned(stored, folder, {}, [])
    train, paired = settings.train, study.paired_rows
    plain = train.loss.name in LOSSES and not train.loss.calibrated and not train.loss.token_weights
    if max(len(study.sample), study.held_out) > MOST_PAIRS or not plain:
        return None
    matrix, norms = _matrix(study.products), _matrix(study.norms)
    curvature = study.curvature
    numbers = [
        matrix[:paired, :paired],
        norms,
        study.logps[:paired],
        study.reference,
        *([curvature.nats] if curvature else []),
    ]
    if not all(bool(torch.isfinite(some).all()) for some in numbers):
        return None
    n = 2 * len(study.sample)
    elsewhere = study.elsewhere().curvature
    scale = RunningScale(train.optimiser)
    epochs = sorted({*EPOCHS, train.epochs}) if not train.max_steps else [train.epochs]
    return {
        "pairs": len(study.sample),
        "held_out": study.held_out,
        "products": _quantised(matrix, paired, n),
        "norms": _quantised(norms, n, n),
        "logps": _floats(study.logps[:paired]),
        "reference": _floats(study.reference),
        "tokens": _floats(study.tokens),
        "mean_square": study.mean_square,
        "sketch": study.sketch,
        "curvature": None
        if curvature is None or elsewhere is None
        else {
            "here": _floats(curvature.nats[:paired]),
            "elsewhere": _floats(elsewhere.nats[:paired]),
            "length": curvature.length,
        },
        "optimiser": {"name": scale.optimiser, "alpha": scale.alpha, "betas": scale.betas},
        "clip": train.max_grad_norm,
        "lr": train.lr,
        "epochs": epochs,
        "own": {"epochs": train.epochs, "loss": train.loss.name},
        "losses": {name: _parameters(name, train) for name in LOSSES},
        "filters": [{"by": None, "percent": 0, **_batches(stored, settings, kept, epochs)}]
        + [
            {"by": by, "percent": percent, **plan}
            for by in FILTERS
            for percent in SHARES
            if (plan := _without(stored, folder, settings, f"{by} drop-lowest {percent}%", epochs)) is not None
        ],
    }


def _without(
    stored: Stored, folder: str | Path, settings: ForecastSettings, rule: str, epochs: Sequence[float]
) -> dict[str, Any] | None:
    """The batches of a run that leaves pairs out; None where nothing stays that has features."""
    try:
        return _batches(stored, settings, planned(stored, folder, {}, [rule])[1], epochs)
    except OptionError:
        return None


def _batches(
    stored: Stored, settings: ForecastSettings, kept: NDArray[np.int64], epochs: Sequence[float]
) -> dict[str, Any]:
    """A run's batches, in each order, and the factors of the learning rate by the run's length.

    ``sizes``: the batches of each step; ``pairs`` and ``own``: what is in them, one after the other. A shorter run is
    the beginning of a longer one.
    """
    train = settings.train
    longest = replace(train, epochs=max(epochs))
    seeds = [None] if settings.order != "unknown" else [train.seed + k for k in range(settings.orders)]
    orders = []
    for seed in seeds:
        steps = training_steps(len(kept), longest, world_size=settings.world_size, order=settings.order, seed=seed)
        plan = sample_steps(steps, kept, stored.study.sample, seed=train.seed if seed is None else seed)
        orders.append({"pairs": _integers(_joined(plan, "pairs")), "own": _own(plan)})
    return {
        "kept": _integers(np.flatnonzero(np.isin(stored.study.sample, kept))),
        "shares": _floats(_joined(plan, "shares")),
        "sizes": [len(step.pairs) for step in plan],
        "rates": [_rates(len(kept), replace(train, epochs=each), settings.world_size) for each in epochs],
        "orders": orders,
    }


def _joined(plan: Sequence[SampleStep], name: str) -> Tensor:
    return torch.cat([getattr(step, name) for step in plan])


def _own(plan: Sequence[SampleStep]) -> str | None:
    """Which pairs stand for themselves; None where all do."""
    own = _joined(plan, "own")
    return None if bool(own.all()) else _integers(own)


def _rates(pairs: int, train: TrainSettings, world_size: int) -> list[float]:
    """The factor of the learning rate at each step."""
    steps = len(training_steps(pairs, train, world_size=world_size))
    return [round(rate, 9) for rate in learning_rates(steps, replace(train, lr=1.0))]


def _parameters(name: str, train: TrainSettings) -> dict[str, Any]:
    """A loss's parameters: the run's own, or those that it has by default."""
    loss = train.loss.make() if train.loss.name == name else by_name(name)
    return {parameter: getattr(loss, parameter) for parameter in parameters(name)}


def _matrix(products: Products) -> Tensor:
    if isinstance(products, Features):
        return Kernel.of(products.features).matrix
    assert isinstance(products, Kernel)
    return products.matrix.double()


def _quantised(matrix: Tensor, rows: int, columns: int) -> dict[str, str]:
    """The first rows and columns of a matrix of inner products in 16 bits: each entry as a share of ``‖φ_i‖‖φ_j‖``; of
    each row what lies up to the diagonal. An entry's error is at most ``‖φ_i‖‖φ_j‖/65,534``.
    """
    norms = matrix.diagonal()[:rows].clamp_min(0).sqrt()
    bound = norms.unsqueeze(1) * norms[:columns].unsqueeze(0)
    shares = torch.where(bound > 0, matrix[:rows, :columns] / bound, 0.0).clamp(-1, 1)
    lower = torch.ones_like(shares, dtype=torch.bool).tril()
    return {"values": _integers((shares[lower] * _LEVELS).round()), "norms": _floats(norms)}


def _integers(values: Tensor | NDArray[Any]) -> str:
    return base64.b64encode(np.asarray(values).astype("<i2").tobytes()).decode()


def _floats(values: Tensor | NDArray[Any]) -> str:
    return base64.b64encode(np.asarray(values).astype("<f4").tobytes()).decode()

"""What a forecast says of a training run while it runs: the same tracked values of the same pairs, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from undertow.data.tokens.encoder import TokenPair
from undertow.errors import OptionError
from undertow.forecasting.simulation import simulate_order
from undertow.forecasting.stored import Stored, read_stored
from undertow.runs.names import HELD_OUT_FORECAST
from undertow.training.settings import TrainSettings
from undertow.training.tracking.tracker import Foretold

__all__ = ["foretelling"]

_SAME = ("data", "tokenizer and template", "model weights", "reference weights")
"""Fingerprints that a forecast's features are of."""


def foretelling(
    settings: TrainSettings,
    fingerprints: Mapping[str, Any],
    world_size: int,
    kept: Sequence[int],
    probe: Sequence[int],
    held_out: Sequence[TokenPair],
) -> Foretold:
    """The forecast of ``settings.scores``, simulated with the run's own options; see ``training.run.Foretelling``.

    The means are over the probe pairs that have features. No share is told where none can be counted: without a look,
    or where a chosen response counts as displaced only from some nats on.

    Raises:
        DataError: no finished forecast stands there.
        OptionError: its features are of other data, another model, or other options than the run's.
    """
    assert settings.scores is not None
    stored = read_stored(settings.scores)
    _check(stored, settings, fingerprints)
    known = np.intersect1d(probe, stored.study.sample)
    if not len(known):
        raise OptionError(f"--scores {settings.scores}: none of the probe pairs has features there; give --probe more.")
    numbers = np.asarray(kept, dtype=np.int64)
    found = simulate_order(
        stored.study_of(settings, numbers, world_size=world_size),
        settings,
        numbers,
        world_size=world_size,
        counted=known,
        every=settings.track_every,
    )
    counts = stored.study.curvature is not None and not settings.displaced_by
    unseen = bool(held_out) and _same_held_out(settings, held_out)
    told = {0: _values(dict.fromkeys(("chosen", "rejected", "displaced"), 0.0), counts)}
    for point in found.curve:
        told[point.step] = _values({name: getattr(point, name) for name in ("chosen", "rejected", "displaced")}, counts)
        if unseen:
            told[point.step] |= {f"held_out/{name}": value for name, value in _values(point.held_out, counts).items()}
    if unseen:
        told[0] |= {f"held_out/{name}": value for name, value in told[0].items()}
    nothing = dict.fromkeys(told[0], float("nan"))
    return lambda step: told.get(step, nothing)  # a guard may end a run at a step of its own


def _values(means: Mapping[str, float], counts: bool) -> dict[str, float]:
    found = {
        "chosen_change": means["chosen"],
        "rejected_change": means["rejected"],
        "margin_change": means["chosen"] - means["rejected"],
    }
    return found | ({"displaced": means["displaced"]} if counts else {})


def _check(stored: Stored, settings: TrainSettings, fingerprints: Mapping[str, Any]) -> None:
    """Refuse features of something else than the run."""
    place = f"--scores {settings.scores}"
    there = stored.summary["fingerprints"]
    for name in _SAME:
        if there.get(name) != fingerprints.get(name):
            raise OptionError(f"{place}: that forecast is of another run: its {name} differ from this run's.")
    own = settings.record()
    for name in ("lora_r", "lora_alpha"):
        if own[name] != stored.options.get(name, own[name]):
            option = f"--{name.replace('_', '-')}"
            raise OptionError(
                f"{place}: that forecast is of a run with {option} {stored.options[name]}, not {own[name]}; forecast "
                "this run, or give its option."
            )
    optimisers = {settings.optimiser, stored.options["optimiser"]}
    if len(optimisers) > 1 and "sgd" in optimisers:
        raise OptionError(
            f"{place}: its features are scaled for {stored.options['optimiser']}, and this run has "
            f"--optimiser {settings.optimiser}; forecast this run."
        )


def _same_held_out(settings: TrainSettings, held_out: Sequence[TokenPair]) -> bool:
    """Whether the forecast has these very held-out pairs."""
    assert settings.scores is not None
    path = Path(settings.scores) / HELD_OUT_FORECAST
    if not path.exists():
        return False
    ids = pq.read_table(path, columns=["pair_id"])["pair_id"].to_pylist()
    return bool(ids == [pair.pair_id for pair in held_out])

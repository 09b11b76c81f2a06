"""Other training runs on a forecast's stored features, without a model: ``undertow simulate``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from undertow.errors import DataError, OptionError
from undertow.filtering.rules import Rule, left_out
from undertow.filtering.selection import numeric_columns
from undertow.forecasting.folder import ENTANGLEMENT, ForecastFolder, read_tensors
from undertow.forecasting.measure import kept_features
from undertow.forecasting.outcome import (
    curve_record,
    end_record,
    group_means,
    held_out_record,
    means_record,
    outcome_of,
)
from undertow.forecasting.settings import ForecastSettings
from undertow.forecasting.simulation import Study, simulated
from undertow.maths.linearised import Curvature, Kernel, Products
from undertow.runs.folder import check_there, read_summary
from undertow.runs.names import FORECAST, SUMMARIES, TEXTS_FORECAST
from undertow.scoring.shards import read_scores
from undertow.training.settings import recorded_options

__all__ = ["SIMULATED", "Stored", "read_stored", "simulate"]

SIMULATED = (
    *("loss", "beta", "loss_args", "calibrated", "epochs", "max_steps", "batch_size", "accumulate", "lr", "optimiser"),
    *("schedule", "warmup_steps", "weight_decay", "max_grad_norm", "seed"),
)
"""Options of training that a simulation takes, by their names; all others ask for other features."""
_OWN = ("order", "orders", "world_size", "protect")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A finished forecast, read back.

    Attributes:
        study: its features.
        kept: the numbers of the pairs that it trained on.
        groups: of its texts, one name each.
        table: the scores and the forecast of all pairs.
        summary: what ``forecast.json`` holds.
        options: of the run that it foretold, by name.
    """

    study: Study
    kept: NDArray[np.int64]
    groups: list[str]
    table: pa.Table
    summary: dict[str, Any]
    options: dict[str, Any]


def read_stored(folder: str | Path) -> Stored:
    """A finished forecast.

    Raises:
        DataError: none stands there, or what it kept is not whole.
    """
    folder = Path(folder)
    check_there(folder)
    summary = read_summary(folder, FORECAST, SUMMARIES[FORECAST])
    again = f"give the `undertow forecast` command of {folder} again, it makes what is missing"
    kept = ForecastFolder(folder)
    path = kept.folder / ENTANGLEMENT
    found = read_tensors(path)
    if found is None:
        raise DataError(f"{path} is missing or damaged: {again}.")
    tensors, numbers = found
    arguments, held_out = summary["arguments"], int(numbers["held_out"])
    products: Products
    norms: Products
    if "products" in tensors:
        products, norms = Kernel(tensors["products"]), Kernel(tensors["norms"])
    else:
        features = kept_features(kept, len(tensors["logps"]), 2 * arguments["part_pairs"], arguments["sketch"])
        if features is None:
            raise DataError(f"{kept.folder}: features are missing: {again}.")
        products, norms = features.products, features.norms
    study = Study(
        pairs=int(numbers["pairs"]),
        sample=tensors["sample"].numpy(),
        products=products,
        norms=norms,
        logps=tensors["logps"],
        reference=tensors["reference"],
        tokens=tensors["tokens"],
        grad_norms=tensors.get("grad_norms"),
        held_out=held_out,
        mean_square=numbers["mean_square"],
        curvature=Curvature(tensors["curvature"], numbers["length"]) if "curvature" in tensors else None,
        sketch=int(arguments["sketch"]),
    )
    texts = folder / TEXTS_FORECAST
    groups = pq.read_table(texts, columns=["group"])["group"].to_pylist() if texts.exists() else []
    training = recorded_options(arguments["training"], str(folder / SUMMARIES[FORECAST]))
    options = {name: entry.value for name, entry in training.items()} | {name: arguments[name] for name in _OWN}
    return Stored(study, tensors["kept"].numpy(), groups, read_scores(folder), summary, options)


def simulate(folder: str | Path, *, filter: str | Iterable[str] = (), **options: Any) -> dict[str, Any]:
    """Another training run on what a forecast has stored, without a model.

    Args:
        folder: of the forecast.
        filter: rules that leave further pairs out, such as ``push drop-lowest 10%``, by any number of the scores and
            of the forecast.
        **options: in which the run differs: those of ``undertow simulate``, by their names with underscores.

    Returns:
        ``arguments``, ``end`` and ``curve`` as in ``forecast.json``; ``kept``, ``left_out`` and ``all`` pairs (and
        ``held_out`` ones and groups of ``texts``, where the forecast has them); ``forecast``, its own ``end``.

    Raises:
        DataError: no finished forecast stands there.
        OptionError: an option needs other features, or cannot be used.
    """
    stored = read_stored(folder)
    rules = [filter] if isinstance(filter, str) else list(filter)
    settings = _settings(stored, folder, options)
    train, study = settings.train, stored.study
    kept = np.setdiff1d(stored.kept, _left_out(stored, rules))
    found = simulated(study, train, kept, order=settings.order, orders=settings.orders, world_size=settings.world_size)
    outcome = outcome_of(study, found, protect=settings.protect, groups=stored.groups)
    every = {
        "kept": np.isin(study.sample, kept),
        "left_out": ~np.isin(study.sample, kept),
        "all": np.ones(len(study.sample), dtype=bool),
    }
    summary: dict[str, Any] = {
        "arguments": {"folder": str(folder), "filter": rules, **{name: getattr(settings, name) for name in _OWN}}
        | {"training": train.record()},
        "counts": study.curvature is not None,
        "data": {**stored.summary["data"], "trained": len(kept), "trained_sample": int(every["kept"].sum())},
        "end": end_record(study, found, outcome, kept, train.seed),
        "curve": curve_record(found.curve, stored.groups),
        **{
            name: means_record(outcome.chosen, outcome.rejected, outcome.displaced, some, train.seed)
            for name, some in every.items()
        },
        "forecast": stored.summary["end"],
    }
    if study.held_out:
        summary["held_out"] = held_out_record(study, found, train.seed)
    if stored.groups:
        summary["texts"] = group_means(found.changes[study.paired_rows :], stored.groups)
    return summary


def _left_out(stored: Stored, rules: Iterable[str]) -> list[int]:
    """The numbers of the pairs that rules leave out; each is judged over all pairs."""
    numeric = numeric_columns(stored.table.schema)
    return list(left_out(stored.table, [Rule.parse(text, numeric) for text in rules])) if rules else []


def _settings(stored: Stored, folder: str | Path, options: Mapping[str, Any]) -> ForecastSettings:
    """The forecast's own, with the options over them."""
    for name in options:
        if name not in (*SIMULATED, *_OWN):
            raise OptionError(
                f"--{name.replace('_', '-')}: stored features do not tell that; they answer "
                f"{', '.join((*SIMULATED, 'filter', *_OWN))}. For anything else give `undertow forecast` another --out."
            )
    there = dict(stored.options)
    if "loss" in options:  # its parameters are those of another loss
        for name in ("beta", "loss_args", "calibrated"):
            there.pop(name, None)
    if there["optimiser"] != options.get("optimiser", there["optimiser"]) and "sgd" in (
        there["optimiser"],
        options["optimiser"],
    ):
        raise OptionError(
            f"--optimiser {options['optimiser']}: the features of {folder} are scaled for {there['optimiser']}. "
            f"Forecast it anew: `undertow forecast … --optimiser {options['optimiser']} --out ANOTHER`."
        )
    there["filter"] = ()  # what it left out is not in the forecast's pairs to train on
    _, settings = ForecastSettings.from_options({**there, **options, "model": "stored"})
    loss = settings.train.loss.make()
    if loss.needs_grad_norms and stored.study.grad_norms is None:
        raise OptionError("--calibrated: it needs gradient norms; forecast with --level unembedding.")
    return settings

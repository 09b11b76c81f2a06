"""Other training runs on a forecast's stored features, without a model: ``undertow simulate``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.errors import DataError, OptionError
from undertow.filtering.rules import Rule, left_out
from undertow.filtering.selection import numeric_columns
from undertow.forecasting.folder import ENTANGLEMENT, FEATURES, ForecastFolder, read_tensors
from undertow.forecasting.measure import kept_features
from undertow.forecasting.outcome import (
    curve_record,
    end_record,
    group_means,
    held_out_record,
    means_record,
    outcome_of,
)
from undertow.forecasting.settings import ForecastSettings, not_simulated
from undertow.forecasting.simulation import Study, simulated
from undertow.maths.linearised import Curvature, Kernel, Products
from undertow.runs.folder import check_there, read_summary
from undertow.runs.names import FORECAST, SUMMARIES, TEXTS_FORECAST
from undertow.runs.option_names import nearest
from undertow.scoring.columns import RANDOM, numbers_of
from undertow.scoring.shards import read_scores
from undertow.training.settings import TrainSettings, option_defaults, recorded_options

__all__ = ["SIMULATED", "Stored", "planned", "read_stored", "simulate"]

SIMULATED = (
    *("loss", "beta", "loss_args", "calibrated", "epochs", "max_steps", "batch_size", "accumulate", "lr", "optimiser"),
    *("schedule", "warmup_steps", "weight_decay", "max_grad_norm", "seed"),
)
"""Options of training that a simulation takes, by their names; all others ask for other features."""
_BATCHES = ("batch_size", "accumulate", "seed")
"""Options that, with the pairs, their order and the number of processes, decide what the batches are."""
_OWN = ("order", "orders", "world_size", "protect")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A finished forecast, read back.

    Attributes:
        study: its features.
        kept: the numbers of the pairs that it trained on.
        groups: of its texts, one name each.
        table: the scores and the forecast of all pairs, and a column ``random``, the yardstick of filters.
        summary: what ``forecast.json`` holds.
        options: of the run that it foretold, by name.
    """

    study: Study
    kept: NDArray[np.int64]
    groups: list[str]
    table: pa.Table
    summary: dict[str, Any]
    options: dict[str, Any]

    def study_of(
        self, train: TrainSettings, kept: NDArray[np.int64], *, order: str = "train", world_size: int = 1
    ) -> Study:
        """The features for a run: where its batches are others than those of the run that was looked at, with the
        curvature as far as it is expected to hold there."""
        there = [self.options[name] for name in (*_BATCHES, "order", "world_size")]
        same = there == [*(getattr(train, name) for name in _BATCHES), order, world_size]
        return self.study if same and np.array_equal(kept, self.kept) else self.study.elsewhere()


def read_stored(folder: str | Path) -> Stored:
    """A finished forecast.

    Raises:
        DataError: none stands there, or what it kept is not whole.
    """
    folder = Path(folder)
    check_there(folder)
    summary = read_summary(folder, FORECAST, SUMMARIES[FORECAST])
    if not {"arguments", "data", "end"} <= summary.keys():
        raise DataError(f"{folder / SUMMARIES[FORECAST]} is no summary of a forecast: {_again(folder)}.")
    kept = ForecastFolder(folder)
    path = kept.folder / ENTANGLEMENT
    found = read_tensors(path)
    if found is None:
        raise DataError(f"{path} is missing or damaged: {_again(folder)}.")
    arguments = summary["arguments"]
    table = read_scores(folder)
    table = table.append_column(RANDOM, pa.array(np.random.default_rng(0).random(len(table))))
    texts = folder / TEXTS_FORECAST
    groups = pq.read_table(texts, columns=["group"])["group"].to_pylist() if texts.exists() else []
    try:
        study, trained = _study(*found, kept, arguments, pairs=len(table), texts=len(groups))
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} does not go with what stands beside it ({error}): {_again(folder)}.") from error
    training = recorded_options(arguments["training"], str(folder / SUMMARIES[FORECAST]))
    options = {name: entry.value for name, entry in training.items()} | {name: arguments[name] for name in _OWN}
    return Stored(study, trained, groups, table, summary, options)


def _again(folder: Path) -> str:
    return f"give the `undertow forecast` command of {folder} again with --overwrite"


def _study(
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, float],
    kept: ForecastFolder,
    arguments: Mapping[str, Any],
    *,
    pairs: int,
    texts: int,
) -> tuple[Study, NDArray[np.int64]]:
    """The features, and the numbers of the pairs that were trained on.

    Args:
        tensors: as the forecast kept them.
        numbers: likewise.
        kept: where its parts stand.
        arguments: the forecast's.
        pairs: rows of its table.
        texts: of its file of texts.

    Raises:
        KeyError: something is not there.
        ValueError: something is not what the rest says.
    """
    sample, trained, logps = tensors["sample"].numpy(), tensors["kept"].numpy(), tensors["logps"]
    n, held_out = len(sample), int(numbers["held_out"])
    paired = n + held_out
    if int(numbers["pairs"]) != pairs:
        raise ValueError(f"it is of {int(numbers['pairs']):,} pairs, the scores of {pairs:,}")
    acting = 2 * n if "acting_reference" in tensors else 0
    rows = 2 * paired + texts + acting
    shapes = {
        "logps": (rows,),
        "reference": (paired, 2),
        "tokens": (paired, 2),
        **{name: (paired, 2) for name in ("grad_norms",) if name in tensors},
        **{name: (n, 2) for name in ("acting_reference", "acting_tokens") if acting},
        **{name: (rows,) for name in ("curvature",) if name in tensors},
        **{name: (rows, rows) for name in ("products", "norms") if "products" in tensors},
    }
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(shape)}")
    for numbered in (sample, trained):
        if len(numbered) and not (0 <= numbered[0] <= numbered[-1] < pairs and (np.diff(numbered) > 0).all()):
            raise ValueError("it numbers pairs that are not there")
    products: Products
    norms: Products
    if "products" in tensors:
        products, norms = Kernel(tensors["products"]), Kernel(tensors["norms"])
    else:
        features = kept_features(kept, rows, 2 * arguments["part_pairs"], arguments["sketch"])
        if features is None:
            raise ValueError(f"parts of {kept.folder / FEATURES} are missing")
        products, norms = features.products, features.norms
    study = Study(
        pairs=pairs,
        sample=sample,
        products=products,
        norms=norms,
        logps=logps,
        reference=tensors["reference"],
        tokens=tensors["tokens"],
        grad_norms=tensors.get("grad_norms"),
        held_out=held_out,
        mean_square=numbers["mean_square"],
        curvature=Curvature(tensors["curvature"], numbers["length"]) if "curvature" in tensors else None,
        sketch=int(arguments["sketch"]),
        weighted=(tensors["acting_reference"], tensors["acting_tokens"]) if acting else None,
    )
    return study, trained


def simulate(folder: str | Path, *, filter: str | Iterable[str] = (), **options: Any) -> dict[str, Any]:
    """Another training run on what a forecast has stored, without a model.

    The optimiser's scaling ``V`` and the curvature are those of the run that was forecast. What changes the size of the
    gradients (another loss, β, batch size or clipping) the recurrence follows by itself, as ``ρ_t`` compares each with
    ``mean_square``, which is of the run that ``V`` was measured with; that by entry of the gradient it changes by
    several factors, ``V`` keeps no memory of. Of pairs left out here that the forecast had trained on, the curvature
    holds what their own training did, so that too many of them count as displaced.

    Args:
        folder: of the forecast.
        filter: rules that leave further pairs out, such as ``push drop-lowest 10%``, by any number of the scores and
            of the forecast.
        **options: in which the run differs: those of ``undertow simulate``, by their names with underscores.

    Returns:
        ``arguments``, ``assumed``, ``end`` and ``curve`` as in ``forecast.json``; ``kept``, ``left_out`` and ``all``
        pairs (and ``held_out`` ones and groups of ``texts``, where the forecast has them); ``forecast``: its own
        ``end``, and these same pairs as it foretold them.

    Raises:
        DataError: no finished forecast stands there.
        OptionError: an option needs other features, or cannot be used.
    """
    stored = read_stored(folder)
    rules = [filter] if isinstance(filter, str) else list(filter)
    settings, kept = planned(stored, folder, options, rules)
    train = settings.train
    study = stored.study_of(train, kept, order=settings.order, world_size=settings.world_size)
    found = simulated(study, train, kept, order=settings.order, orders=settings.orders, world_size=settings.world_size)
    outcome = outcome_of(study, found, protect=settings.protect, groups=stored.groups)
    parts = {
        "kept": np.isin(study.sample, kept),
        "left_out": ~np.isin(study.sample, kept),
        "all": np.ones(len(study.sample), dtype=bool),
    }
    foretold = [f"forecast_{name}" for name in ("chosen", "rejected", "displaced")]
    chosen, rejected, displaced = (torch.from_numpy(numbers_of(stored.table, n)[study.sample]) for n in foretold)
    summary: dict[str, Any] = {
        "arguments": {"folder": str(folder), "filter": rules, **{name: getattr(settings, name) for name in _OWN}}
        | {"training": train.record()},
        "assumed": not_simulated(train),
        "counts": study.curvature is not None,
        "data": {**stored.summary["data"], "trained": len(kept), "trained_sample": int(parts["kept"].sum())},
        "end": end_record(study, found, outcome, kept, train.seed),
        "curve": curve_record(found.curve, stored.groups),
        **{
            name: means_record(outcome.chosen, outcome.rejected, outcome.displaced, some, train.seed)
            for name, some in parts.items()
        },
        "forecast": {
            "end": stored.summary["end"],
            **{name: means_record(chosen, rejected, displaced, some, train.seed) for name, some in parts.items()},
        },
    }
    if study.held_out:
        summary["held_out"] = held_out_record(study, found, train.seed)
    if stored.groups:
        summary["texts"] = group_means(found.changes[study.text_rows], stored.groups)
    for name in ("held_out", "texts"):
        if name in summary:
            summary["forecast"][name] = stored.summary[name]
    return summary


def planned(
    stored: Stored, folder: str | Path, options: Mapping[str, Any], rules: Iterable[str]
) -> tuple[ForecastSettings, NDArray[np.int64]]:
    """A run that differs from the stored one: its settings, and the numbers of the pairs that it trains on.

    Args:
        stored: the forecast.
        folder: where it stands, for messages.
        options: by name, in which the run differs.
        rules: what it leaves out besides.

    Raises:
        OptionError: an option needs other features, or cannot be used.
    """
    return _settings(stored, folder, options), np.setdiff1d(stored.kept, _left_out(stored, rules))


def _left_out(stored: Stored, rules: Iterable[str]) -> list[int]:
    """The numbers of the pairs that rules leave out; each is judged over all pairs."""
    numeric = numeric_columns(stored.table.schema)
    return list(left_out(stored.table, [Rule.parse(text, numeric) for text in rules])) if rules else []


def _settings(stored: Stored, folder: str | Path, options: Mapping[str, Any]) -> ForecastSettings:
    """The forecast's own, with the options over them."""
    taken, others = (*SIMULATED, *_OWN), {"model", *option_defaults(), *(f.name for f in fields(ForecastSettings))}
    for name, value in options.items():
        if name not in others:
            close = nearest(name, (*taken, "filter"))
            hint = f" Did you mean {_option(close)}?" if close else ""
            raise OptionError(f"{_option(name)}: there is no such option.{hint}")
        if name not in taken:
            raise OptionError(
                f"{_option(name)}: the features of {folder} do not tell that. {_anew(stored, {name: value})}"
            )
    there = dict(stored.options)
    if "loss" in options:  # its parameters are those of another loss
        for name in ("beta", "loss_args", "calibrated"):
            there.pop(name, None)
    if "beta" in (options.get("loss_args") or ()):
        there.pop("beta", None)
    optimiser = options.get("optimiser", there["optimiser"])
    if optimiser != there["optimiser"] and "sgd" in (optimiser, there["optimiser"]):
        raise OptionError(
            f"--optimiser {optimiser}: the features of {folder} are scaled for {there['optimiser']}. "
            + _anew(stored, {"optimiser": optimiser})
        )
    there["filter"] = ()  # what it left out is not in the forecast's pairs to train on
    there["held_out"] = stored.summary["arguments"]["held_out"]
    _, settings = ForecastSettings.from_options({**there, **options, "model": "stored"})
    if settings.train.loss.make().needs_grad_norms and stored.study.grad_norms is None:
        raise OptionError(f"--calibrated: it needs gradient norms. {_anew(stored, {'level': 'unembedding'})}")
    return settings


def _anew(stored: Stored, options: Mapping[str, Any]) -> str:
    """The command that gives the features that are wanted."""
    arguments = stored.summary["arguments"]
    given = {"model": arguments["model"], **options}
    words = ["undertow", "forecast", str(arguments["data"])]
    command = [*words, *_typed("model", given.pop("model")), "…"]
    for name, value in given.items():
        command += _typed(name, value)
    quoted = " ".join(word if word == "…" else shlex.quote(word) for word in command)
    return f"Forecast it anew: `{quoted} --out ANOTHER`."


def _typed(name: str, value: Any) -> list[str]:
    """An option as it is typed."""
    if isinstance(value, bool):
        return [_option(name) if value else _option(f"no_{name}")]
    return [_option(name), str(value)]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"

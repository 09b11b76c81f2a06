"""Runs of the tiny model, made as users make them, for tests of what is shown of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import undertow as ut
from command import some_rows, write_jsonl
from tiny import tiny_folder
from undertow.auditing.audit import audit_to_folder
from undertow.auditing.settings import AuditSettings
from undertow.comparing.compare import compare_to_folder
from undertow.comparing.settings import CompareSettings
from undertow.forecasting.forecast import forecast_to_folder
from undertow.forecasting.settings import ForecastSettings
from undertow.scoring.columns import FORECAST_COLUMNS
from undertow.training.run import train_to_folder
from undertow.training.settings import TrainSettings

TOKENS = ut.TokenSettings(max_length=400)
ROWS = 24


def made(folder: Path, rows: list[dict[str, Any]] | None = None) -> tuple[Path, Path]:
    """Data and a model to use them with."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_jsonl(folder / "prefs.jsonl", rows or some_rows(ROWS)), tiny_folder(folder / "model")


def trained(data: Path, model: Path, out: Path, **options: Any) -> Path:
    """A training run of a few steps, looked at every second one."""
    train_to_folder(data, str(model), out, train_settings(**options))
    return out


def train_settings(**options: Any) -> TrainSettings:
    """Those of such a run."""
    given = {"lr": 1e-3, "max_steps": 8, "batch_size": 3, "track_every": 2, "save_every": 4, "device": "cpu"} | options
    return TrainSettings(tokens=TOKENS, dtype="float32", **given)


def audited(data: Path, model: Path, out: Path) -> Path:
    """An audit with every predictor that forward passes give."""
    audit_to_folder(data, str(model), out, AuditSettings(tokens=TOKENS, dtype="float32", pull=True))
    return out


def forecast_beside(
    scores: Path, copy: Path, *, chosen: Sequence[float] | None = None, unknown: Sequence[int] | None = None
) -> tuple[Path, pa.Table]:
    """A copy of the scores with a forecast beside them, as `undertow forecast` writes it, of any numbers.

    Args:
        scores: an audit's folder.
        copy: where the copy goes.
        chosen: ``forecast_chosen``.
        unknown: the pairs without a forecast, by number; every third one where None.
    """
    shutil.copytree(scores, copy)
    table = ut.read_scores(scores)
    values = dict(zip(FORECAST_COLUMNS, np.random.default_rng(0).normal(size=(8, len(table))), strict=True))
    values["push:refusals"] = -values["push"]
    values["forecast_displaced"] = np.abs(np.tanh(values["forecast_displaced"]))
    if chosen is not None:
        values["forecast_chosen"] = np.asarray(chosen, dtype=np.float64)
    numbers = np.arange(len(table))
    outside = np.isin(numbers, unknown) if unknown is not None else numbers % 3 == 2
    columns = {name: pa.array(column, mask=outside) for name, column in values.items()}
    columns["step"] = pa.array(1 + numbers, pa.int32(), mask=outside)
    found = pa.table({"row": table["row"], "pair_id": table["pair_id"], **columns})
    pq.write_table(found, copy / "forecast.parquet")
    (copy / "forecast.json").write_text("{}\n")
    return copy, found


def compared(data: Path, before: Path, after: Path, out: Path, **options: Any) -> Path:
    """A comparison, with few resamples."""
    settings = CompareSettings(**({"tokens": TOKENS, "dtype": "float32", "resamples": 100} | options))
    compare_to_folder(data, str(before), str(after), out, settings)
    return out


def forecast(data: Path, model: Path, out: Path, *, run: dict[str, Any] | None = None, **options: Any) -> Path:
    """A forecast of a run of one epoch, at a rate so high that something falls; ``run``: other options of that run."""
    train = train_settings(**({"lr": 1e-3, "max_steps": 0} | (run or {})))
    forecast_to_folder(data, str(model), out, ForecastSettings(train=train, **({"sketch": 16_381} | options)))
    return out


def held_out(folder: Path) -> Path:
    """Seven pairs that nobody trains on."""
    rows = [
        {"prompt": f"Unseen {n}?", "chosen": f"It is {n}.", "rejected": f"No, {n + 1}! Trust me."} for n in range(7)
    ]
    return write_jsonl(folder / "held.jsonl", rows)


def watched_texts(folder: Path) -> Path:
    """Texts of two groups."""
    refusals = [{"prompt": f"Bad {n}?", "response": "I cannot help with that.", "group": "refusals"} for n in range(4)]
    answers = [{"prompt": f"Good {n}?", "response": f"Sure: {n}.", "group": "answers"} for n in range(3)]
    return write_jsonl(folder / "texts.jsonl", refusals + answers)


def rows_drawn(chart: Any) -> list[dict[str, Any]]:
    """All rows of a chart's data, wherever in the chart they stand."""
    return list(_rows(chart.to_dict()))


def _rows(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        values = part["data"].get("values", []) if isinstance(part.get("data"), dict) else []
        yield from values
        yield from (row for rows in part.get("datasets", {}).values() for row in rows)
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _rows(inner)

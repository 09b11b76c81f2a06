"""The demo: an ordinary forecast on shipped pairs with a small instruct model, and what that run really did."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from undertow.data.sources.opening import DEMO_SHORT, demo_pairs
from undertow.files import write_json
from undertow.forecasting.forecast import forecast_to_folder
from undertow.forecasting.settings import ForecastSettings
from undertow.runs.names import FACT
from undertow.runs.progress import Watcher
from undertow.runs.settings import LossSettings
from undertow.training.settings import TrainSettings

__all__ = ["demo_pairs", "demo_training", "run_demo"]


def demo_training(*, device: str = "auto", dtype: str = "auto") -> TrainSettings:
    """The run that the demo foretells: SimPO, under which many of these chosen responses lose probability."""
    return TrainSettings(loss=LossSettings("simpo"), lr=5e-6, batch_size=4, track_every=0, device=device, dtype=dtype)


def run_demo(out: Path, *, device: str = "auto", dtype: str = "auto", watch: Watcher | None = None) -> dict[str, Any]:
    """Forecast that run on the shipped short pairs; returns what ``forecast.json`` holds.

    What the run did when it was trained (``benchmarks/demo_truth.py``) is put beside, for the page.
    """
    settings = ForecastSettings(train=demo_training(device=device, dtype=dtype), level="text", by=("category",))
    summary = forecast_to_folder(DEMO_SHORT, "demo", out, settings, watch=watch)
    fact = files("undertow") / "demo" / "fact.json"
    if fact.is_file():
        write_json(out / FACT, json.loads(fact.read_text(encoding="utf-8")))
    return summary

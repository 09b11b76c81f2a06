"""What the folders of runs hold, by name: light to import, for those who only look what stands in a folder."""

from __future__ import annotations

__all__ = [
    "AUDIT",
    "COMPARE",
    "FACT",
    "FORECAST",
    "HELD_OUT_FORECAST",
    "PAIRS",
    "PAIR_FORECAST",
    "SIMULATED_ARMS",
    "SIMULATED_PAGE",
    "SUMMARIES",
    "SWEEP",
    "TEXTS_FORECAST",
    "TOKEN_WEIGHTS",
    "TRACKING",
    "TRAIN",
]

AUDIT, FORECAST, TRAIN, SWEEP, COMPARE = "audit", "forecast", "train", "sweep", "compare"
"""Kinds of runs: the commands that write them, and a training run of several arms."""
SUMMARIES = {
    AUDIT: "audit.json",
    FORECAST: "forecast.json",
    TRAIN: "train.json",
    SWEEP: "sweep.json",
    COMPARE: "compare.json",
}
"""The file that a run of each kind writes last."""
PAIRS = "pairs.parquet"
"""Of a comparison: one row a pair."""
FACT = "fact.json"
"""Beside a forecast: what the run that it foretells has done, where it was trained before (as the demo's was)."""
TRACKING = "tracking.parquet"
"""Of a training run, ours or one that a callback followed: one row a look at the probe set."""
PAIR_FORECAST, HELD_OUT_FORECAST, TEXTS_FORECAST = (
    "forecast.parquet",
    "held-out-forecast.parquet",
    "texts-forecast.parquet",
)
"""Of a forecast, in the folder of its audit: one row a pair of the data, of the held-out pairs, and a text."""
TOKEN_WEIGHTS = "token-weights.parquet"
"""Of a training run or a forecast with ``--token-weights``: one row a pair, in a form that the option takes too."""
SIMULATED_ARMS, SIMULATED_PAGE = "simulated.json", "simulated.html"
"""Of simulations of several arms on a forecast's features, in its folder: one row an arm, and their page."""

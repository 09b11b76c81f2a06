"""What the folders of runs hold, by name: light to import, for those who only look what stands in a folder."""

from __future__ import annotations

__all__ = ["AUDIT", "COMPARE", "PAIRS", "SUMMARIES", "SWEEP", "TRACKING", "TRAIN"]

AUDIT, TRAIN, SWEEP, COMPARE = "audit", "train", "sweep", "compare"
"""Kinds of runs: the commands that write them, and a training run of several arms."""
SUMMARIES = {AUDIT: "audit.json", TRAIN: "train.json", SWEEP: "sweep.json", COMPARE: "compare.json"}
"""The file that a run of each kind writes last."""
PAIRS = "pairs.parquet"
"""Of a comparison: one row a pair."""
TRACKING = "tracking.parquet"
"""Of a training run, ours or one that a callback followed: one row a look at the probe set."""

"""Commands that a page or the terminal offers, as they can be typed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undertow.scoring.columns import PREDICTORS

__all__ = ["FILTERED", "filter_command", "forecast_command", "simulate_command", "sweep_command"]

FILTERED = "filtered.jsonl"
_STANDARD_INPUT = "prefs.jsonl"


def filter_command(arguments: Mapping[str, Any], scores: str | Path, by: str, percent: str) -> str:
    """The command that leaves out the most displacing share of pairs by a score.

    Args:
        arguments: the audit's, as ``audit.json`` holds them: the data are read in the same way.
        scores: the folder of the scores.
        by: the score, or a column of a forecast.
        percent: how much, as it is typed, without the sign.
    """
    data = str(arguments["data"])
    words = ["undertow", "filter", _STANDARD_INPUT if data == "-" else data, *_reading(arguments.get("reading") or {})]
    end = PREDICTORS.get(by, "lowest")  # push ranks no pair's own fate: its low end displaces the others
    words += ["--scores", str(scores), "--by", by, f"--drop-{end}", f"{percent}%", "--out", FILTERED]
    return shlex.join(words)


def forecast_command(arguments: Mapping[str, Any]) -> str:
    """The command that foretells what a whole run does to the pairs of an audit.

    Args:
        arguments: the audit's, as ``audit.json`` holds them: the data are read in the same way.
    """
    data = str(arguments["data"])
    words = ["undertow", "forecast", _STANDARD_INPUT if data == "-" else data]
    words += [*_reading(arguments.get("reading") or {}), "--model", str(arguments["model"]), "--out", "forecast"]
    return shlex.join(words)


def simulate_command(forecast: str | Path, by: str, percent: str) -> str:
    """The command that forecasts the same run without the lowest share of pairs by a column, from the stored features.

    Args:
        forecast: the folder of the forecast.
        by: the column.
        percent: how much, as it is typed, without the sign.
    """
    return shlex.join(["undertow", "simulate", str(forecast), "--filter", f"{by} drop-lowest {percent}%"])


def sweep_command(forecast: str | Path) -> str:
    """The command that asks of a forecast what people ask most: other losses, rates, β and filters."""
    return shlex.join(["undertow", "simulate", str(forecast), "--sweep", "common"])


def _reading(reading: Mapping[str, Any]) -> list[str]:
    """Options of the data argument that a filter must be given too."""
    found: list[str] = []
    columns = reading.get("columns")
    if columns:
        found += ["--columns", ",".join(f"{part}={name}" for part, name in columns.items())]
    elif reading.get("format"):
        found += ["--format", str(reading["format"])]
    if reading.get("empty_prompt"):
        found.append("--empty-prompt")
    for name in ("split", "name"):
        if reading.get(name):
            found += [f"--{name}", str(reading[name])]
    return found

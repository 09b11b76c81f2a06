"""What is said of simulated arms, on the terminal and on their page alike: pure functions of their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from undertow.wording.numbers import MISSING, counted, nats_of, percent

__all__ = ["GROUPS", "best_says", "filters_say", "margin_says"]

Row = Mapping[str, Any]
GROUPS = {"all": "all", "kept": "trained on", "left_out": "left out", "held_out": "held out"}
"""Whose numbers an arm has, and how they are called."""


def best_says(summary: Mapping[str, Any]) -> str:
    """Which arm displaces least at an equal margin gain, and what the forecast's own run does there."""
    rows = {row["arm"]: row for row in summary["arms"]}
    arms = counted(len(rows) - 1, "arm")
    if summary["best"] is None:
        return f"{arms} simulated; the margin does not grow, so that there is nothing to compare."
    first, best = summary["arms"][0], rows[summary["best"]]
    shares = [_shares(row.get("looked") or row["equal"]) if row["equal"] else None for row in (best, first)]
    gain = f"At an equal margin gain of {nats_of(summary['equal_margin'])} nats"
    looks = sum(bool(row.get("looked")) for row in summary["arms"])
    if looks:
        gain += f", by a look at {looks} of {arms},"
    if best is first:
        return f"{gain} none of {arms} displaces less than the run as it was forecast: {shares[1]}."
    than = f"; the run as it was forecast {shares[1]}" if shares[1] else ""
    return f"{gain} {best['arm']} displaces least: {shares[0]}{than}."


def _shares(at: Mapping[str, float]) -> str:
    held = at.get("held_out_displaced")
    beside = f" and {percent(held)} of the held-out ones" if held is not None else ""
    return f"{percent(at['displaced'])} of all pairs{beside}"


def margin_says(summary: Mapping[str, Any]) -> str:
    """What ``equal`` means, in a sentence."""
    return (
        "At an equal margin: at the learning rate at which the arm's run ends with the mean of ln π(chosen) − "
        f"ln π(rejected) over all pairs higher by {nats_of(summary['equal_margin'])} nats, as the forecast's own run "
        "does; an arm without a number there would need a rate far from what was looked at."
    )


def filters_say(rows: Sequence[Row]) -> list[str]:
    """Of each arm that leaves pairs out: what becomes of those kept, left out and held out, never of the kept alone."""
    found = []
    for row in rows:
        parts = [
            f"{GROUPS[name]} {percent(row[name]['displaced'])}"
            for name in ("kept", "left_out", "held_out")
            if row.get(name) and row[name]["pairs"]
        ]
        if row["filter"] and row["left_out"]["pairs"]:
            found.append(f"{row['arm']}: displaced of those {', '.join(parts)}; of all {_all(row)}.")
    return found


def _all(row: Row) -> str:
    return percent(row["displaced"]) if row["displaced"] is not None else MISSING

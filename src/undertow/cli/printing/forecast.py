"""What a forecast foretells, on the terminal: the headline, the curve, the pairs at risk and those that push, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from undertow.cli.printing.common import CELL_BORDER, print_report, that_fit
from undertow.reporting.forecast.reading import ForecastRun, read_forecast_run
from undertow.reporting.training.reading import spread
from undertow.runs.texts import read_texts
from undertow.wording import forecast as words
from undertow.wording import remedies
from undertow.wording.commands import filter_command, simulate_command, sweep_command
from undertow.wording.numbers import percent, signed, typed
from undertow.wording.visible import one_line, visible

__all__ = ["print_arms", "print_forecast", "print_simulation"]

CURVE_STEPS = 6
SHOWN_PAIRS = 5
LEAST_TEXT = 12
"""Characters of a prompt that are worth a column."""
LONGEST_GROUP, LONGEST_ARM = 16, 24
LEFT_OUT = "10"
"""Percent of the pairs, in the commands that are proposed."""

_FALLING = {
    "forecast": "forecast_chosen",
    "own": "own_chosen",
    "others": "others_chosen",
    "curvature": "curvature_chosen",
}
_PUSHING = {"push": "push", "forecast": "forecast_chosen"}


def print_forecast(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """What a forecast foretells: headline, curve, pairs at risk, pairs that push, texts, cost, next commands."""
    console, run = Console(highlight=False), read_forecast_run(out)
    found = words.forecast_verdict(summary)
    console.print(found.headline, style="bold", markup=False)
    if found.sentences:
        console.print(" ".join(found.sentences), markup=False)
    _curve(console, summary)
    _pairs(
        console,
        run,
        run.lowest("forecast_chosen", SHOWN_PAIRS),
        _FALLING,
        f"{words.at_risk(run.none_falls)}, by forecast_chosen (nats)",
    )
    console.print()
    console.print(
        Text(
            f"push: nats that training on a pair adds to the mean of {words.protected_says(summary)}, its own left out"
        )
    )
    _pairs(console, run, run.pushing(SHOWN_PAIRS), _PUSHING, f"{words.pushing(run.none_pushes)}, by push")
    _groups(console, run)
    console.print("\nAssumed", style="bold")
    for sentence in words.assumptions(summary):
        console.print(_indented(sentence))
    console.print(f"Cost: {words.cost_says(summary['cost'])}", markup=False)
    print_report(console, report)
    arguments = summary["arguments"]
    console.print(
        "\nNext: what other losses, rates and filters would do; the run without the pairs that push others down"
    )
    reading = {**arguments, "reading": arguments["training"]["reading"]}
    commands = (sweep_command(out), simulate_command(out, "push", LEFT_OUT))
    for command in (*commands, filter_command(reading, out, "push", LEFT_OUT)):
        console.print(f"  {visible(command)}", markup=False, soft_wrap=True)


def _curve(console: Console, summary: Mapping[str, Any]) -> None:
    """Some steps of the run, held-out pairs and groups of texts beside, as far as there is room."""
    points = spread(summary["curve"], CURVE_STEPS)
    columns: dict[str, list[str]] = {
        "step": [typed(point["step"]) for point in points],
        "loss": [typed(point["loss"]) for point in points],
        **{side: [_cell(point[side]) for point in points] for side in ("chosen", "rejected")},
    }
    if summary["counts"]:
        columns["displaced"] = [percent(point["displaced"]) for point in points]
    columns["accuracy"] = [percent(point["accuracy"]) for point in points]
    if "held_out" in points[-1]:
        columns["held-out"] = [_cell(point["held_out"]["chosen"]) for point in points]
    for group in points[-1].get("texts", {}):
        columns[one_line(group, LONGEST_GROUP)] = [_cell(point["texts"][group]) for point in points]
    _table(console, f"\nThe run, changes in nats. {words.curve_says(summary)}", that_fit(columns, console.width))


def _pairs(console: Console, run: ForecastRun, chosen: NDArray[np.intp], names: Mapping[str, str], title: str) -> None:
    """Some pairs with their numbers (titles to columns), and the beginnings of their prompts where there is room."""
    pairs = run.pairs(chosen)
    if not pairs:
        return
    columns = {"row": [typed(pair["row"]) for pair in pairs]}
    shown = {name: column for name, column in names.items() if column != "curvature_chosen" or run.counts}
    columns |= {name: [_cell(pair[column]) for pair in pairs] for name, column in shown.items()}
    if run.several_orders and run.counts:
        columns["falls in"] = [percent(pair["forecast_displaced"]) for pair in pairs]
    if any(pair["step"] for pair in pairs):
        columns["step"] = [typed(pair["step"]) for pair in pairs]
    fitting = dict(that_fit(columns, console.width))
    room = console.width - CELL_BORDER
    room -= sum(max(map(len, (name, *cells))) + CELL_BORDER for name, cells in fitting.items())
    texts = read_texts(run.folder, [pair["row"] for pair in pairs])
    if room >= LEAST_TEXT and texts:
        prompts = [texts[pair["row"]]["prompt"] if pair["row"] in texts else "" for pair in pairs]
        fitting["prompt"] = [one_line(prompt, room) for prompt in prompts]
    _table(console, f"\n{len(pairs)} {title}", fitting)


def _groups(console: Console, run: ForecastRun) -> None:
    """Each group of texts in a sentence, and which pairs move it most."""
    groups = run.groups()
    if groups:
        console.print("\nTexts", style="bold")
    for group in groups:
        said = words.group_says(one_line(group.name, LONGEST_GROUP), group.change, group.start)
        console.print(_indented(f"{said} {words.movers_say(group.rows, group.pushes)}"))


def _table(console: Console, title: str, columns: Mapping[str, Sequence[str]]) -> None:
    table = Table(title=Text(title), title_justify="left", show_edge=False)
    for name in columns:
        table.add_column(Text(name), justify="left" if name in ("prompt", "pairs", "arm") else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))
    console.print(table)


def _indented(text: str) -> Padding:
    """A sentence that keeps its indentation on its further lines."""
    return Padding(Text(visible(text)), (0, 0, 0, 2))


def _cell(value: float | None) -> str:
    """A change for a cell, its sign always there."""
    return signed(value).replace("−", "-")


def print_arms(folder: Path, summary: Mapping[str, Any], page: Path) -> None:
    """Simulated arms side by side, those that displace least at an equal margin first."""
    console, rows = Console(highlight=False), list(summary["arms"])
    console.print(remedies.best_says(summary), style="bold", markup=False)
    far = [row for row in rows if row["equal"]]
    far.sort(key=lambda row: row["equal"]["displaced_everywhere"])
    rows = [*far, *(row for row in rows if not row["equal"])]
    columns = {
        "arm": [one_line(row["arm"], LONGEST_ARM) for row in rows],
        "at equal margin": [percent(row["equal"]["displaced"]) if row["equal"] else "" for row in rows],
        **(
            {"by a look": [percent(row["looked"]["displaced"]) if row.get("looked") else "" for row in rows]}
            if any(row.get("looked") for row in rows)
            else {}
        ),
        "all": [percent(row["displaced"]) for row in rows],
        **{
            name: [percent(row[key]["displaced"]) if row[key]["pairs"] else "" for row in rows]
            for key, name in (("kept", "trained on"), ("left_out", "left out"), ("held_out", "held out"))
            if key in rows[0]
        },
        "chosen": [_cell(row["chosen_change"]) for row in rows],
        "margin": [_cell(row["margin_change"]) for row in rows],
    }
    _table(console, "\nShares displaced; mean changes of all pairs, in nats", dict(that_fit(columns, console.width)))
    console.print(remedies.margin_says(summary), markup=False)
    console.print(summary["assumed"], markup=False)
    print_report(console, page)


def print_simulation(summary: Mapping[str, Any]) -> None:
    """What a simulated run comes to, each number beside the one of the forecast that it was simulated from."""
    console, before = Console(highlight=False), summary["forecast"]
    found = words.simulation_verdict(summary)
    console.print(found.headline, style="bold", markup=False)
    if found.sentences:
        console.print(" ".join(found.sentences), markup=False)
    names = {"kept": "trained on", "left_out": "left out", "held_out": "held out", "all": "all"}
    shown = [name for name in names if summary.get(name, {}).get("pairs")]
    columns = {"pairs": [names[name] for name in shown], "count": [f"{summary[name]['pairs']:,}" for name in shown]}
    for side in ("chosen", "rejected"):
        columns[side] = [f"{_cell(before[name][side])} → {_cell(summary[name][side])}" for name in shown]
    if summary["counts"]:
        shares = [[part[name]["displaced"]["value"] for part in (before, summary)] for name in shown]
        columns["displaced"] = [" → ".join(map(percent, both)) for both in shares]
    _table(console, "\nForecast → this run, mean changes in nats", columns)
    for group, change in summary.get("texts", {}).items():
        name = one_line(group, LONGEST_GROUP)
        console.print(f"{name}: {_cell(before['texts'][group])} → {_cell(change)} nats on average", markup=False)
    console.print(summary["assumed"], markup=False)

"""The report of a forecast: what a training run will do, before it is trained."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undertow.errors import InputError
from undertow.reporting.audit.charts import POINTS, histogram, scatter
from undertow.reporting.forecast import charts
from undertow.reporting.forecast.reading import ForecastRun, read_forecast_run
from undertow.reporting.page.explains import explains
from undertow.reporting.page.settings import flat
from undertow.reporting.page.shell import Figure, render
from undertow.reporting.training import charts as course
from undertow.reporting.training.reading import spread
from undertow.runs.texts import PAIR_TEXTS, read_beginnings
from undertow.scoring.columns import PUSH, RANDOM
from undertow.wording import forecast as words
from undertow.wording.commands import filter_command, simulate_command, sweep_command
from undertow.wording.losses import written
from undertow.wording.names import data_name
from undertow.wording.numbers import MISSING, counted, interval, number, of_all, percent, signed, signed_nats
from undertow.wording.visible import LONGEST, shown

__all__ = ["figures", "report"]

LEAST_PAIRS, SHOWN_PAIRS = 5, 10
TABLE_STEPS = 12
LABEL = 28
"""Characters of a group's name."""
LIVE_FILTERS = {
    PUSH: "what pushes others down",
    "forecast_chosen": "what falls itself",
    RANDOM: "the yardstick",
}
LEFT_OUT = "10"
"""Percent of the pairs, in the commands that are proposed."""


def report(
    folder: str | Path, *, pairs_url: str | None = None, audit_url: str | None = None, arms_url: str | None = None
) -> str:
    """The page of a finished forecast.

    Args:
        folder: of the forecast, and of the audit that it goes on from.
        pairs_url: where its table of all pairs is served, if it is.
        audit_url: where the audit's page is, if it is anywhere.
        arms_url: where the page of the arms is that were simulated on it, if any were.

    Raises:
        DataError: the folder holds none.
    """
    run = read_forecast_run(folder)
    summary, arguments = run.summary, run.summary["arguments"]
    reading = {**arguments, "reading": arguments["training"]["reading"]}
    live, command = _live(run), shlex.join(["undertow", "simulate", str(run.folder)])
    return render(
        "forecast.html.j2",
        title=f"Forecast: {run.folder.resolve().name}",
        figures=[*figures_of(run), *([_anew(run)] if live else [])],
        data={"live": live and {**live, "command": command}},
        scripts=["linearised.js"],
        live_filters=LIVE_FILTERS,
        live_cards=dict(_live_cards(run)),
        live_command=command,
        pairs_url=pairs_url,
        explains=explains(run.folder, served=bool(pairs_url)),
        other=("Audit", audit_url) if audit_url else None,
        data_name=data_name(arguments["data"]),
        model=arguments["model"],
        anew=live,
        arms_url=arms_url,
        verdict=words.forecast_verdict(summary),
        means=words.curve_says(summary),
        cards=list(_cards(run)),
        risk=_listed(run, run.at_risk(LEAST_PAIRS, SHOWN_PAIRS)),
        risk_title=words.at_risk(run.none_falls).capitalize(),
        pushing=_listed(run, run.pushing(SHOWN_PAIRS)),
        pushing_title=words.pushing(run.none_pushes).capitalize(),
        protected=words.protected_says(summary),
        groups=[
            {
                "name": group.name,
                "texts": group.texts,
                "start": signed_nats(group.start),
                "change": signed_nats(group.change),
                "movers": words.movers_say(group.rows, group.pushes),
            }
            for group in run.groups()
        ],
        assumptions=words.assumptions(summary),
        commands=[
            sweep_command(run.folder),
            simulate_command(run.folder, "push", LEFT_OUT),
            filter_command(reading, run.folder, "push", LEFT_OUT),
        ],
        facts=list(_facts(run)),
        settings=flat(arguments),
    )


def _live(run: ForecastRun) -> dict[str, Any] | None:
    """What the page simulates with; None where it cannot, or where what was kept of the features is gone."""
    from undertow.forecasting.live import live_data  # torch: pages of other kinds do without

    try:
        return live_data(run.folder)
    except InputError:
        return None


def _anew(run: ForecastRun) -> Figure:
    """The chart that the page draws anew."""
    chart = course.live(charts.looks(run.summary["curve"]))
    says = "Mean changes of the chosen and the rejected responses and of their margin, in nats, step by step."
    return Figure("live", "What if", chart, says)


def _live_cards(run: ForecastRun) -> Iterator[tuple[str, str]]:
    """What stands on a card of a run that is simulated here."""
    if run.counts:
        yield "displaced", "Displaced"
    yield "chosen", "Chosen"
    yield "rejected", "Rejected"
    yield "accuracy", "Reward accuracy"
    if "held_out" in run.summary:
        if run.counts:
            yield "held-displaced", "Held-out displaced"
        yield "held-chosen", "Held-out chosen"


def figures(folder: str | Path) -> tuple[Figure, ...]:
    """The charts of that page.

    Raises:
        DataError: the folder holds no finished forecast.
    """
    return tuple(figures_of(read_forecast_run(folder)))


def figures_of(run: ForecastRun) -> list[Figure]:
    """The charts that the forecast has the numbers for."""
    return [*_curves(run), *_of_pairs(run), *_fact(run)]


def _fact(run: ForecastRun) -> Iterator[Figure]:
    """Forecast against fact, where the run was trained."""
    fact, said = run.fact(), run.column("forecast_chosen")
    if fact is None or not np.isfinite(said).all():
        return
    both = np.concatenate([said, fact.chosen])
    low, high = float(both.min()), float(both.max())
    chart = scatter(
        said,
        fact.chosen,
        run.rows,
        titles=("forecast_chosen (nats)", "what training did (nats)"),
        falls=fact.chosen < 0,
        line=[(low, low), (high, high)],
    )
    says = words.fact_says(said.tolist(), fact.chosen.tolist(), fact.rejected.tolist(), fact.made_on)
    yield Figure("fact", "Forecast and fact", chart, says)


def _curves(run: ForecastRun) -> Iterator[Figure]:
    """What is drawn over the steps."""
    curve, last = run.summary["curve"], run.summary["curve"][-1]
    drawn = charts.looks(curve)
    says = f"At step {last['step']:,}: chosen {signed(last['chosen'])}, rejected {signed(last['rejected'])} nats."
    if run.counts:
        says += f" Below, the share of chosen responses that lie lower than at the start: {percent(last['displaced'])}."
        wide, narrow = (course.course(drawn, narrow=narrow) for narrow in (False, True))
        yield Figure("course", "Mean changes, step by step", wide, says, narrow=narrow, numbers=_numbers(run))
    else:
        names = {"chosen_change": "chosen", "rejected_change": "rejected"}
        chart = course.several(drawn, names, course.CHANGE)
        says += " By the straight line: the order counts, not the size."
        yield Figure("course", "Mean changes, step by step", chart, says, numbers=_numbers(run))
    losses = [point for point in curve if point["batch_loss"] is not None]
    if len(losses) > 1:
        first, end = losses[0], losses[-1]
        says = (
            f"Mean loss of the batches, each before its step, as training logs it: {number(first['batch_loss'])} up to "
            f"step {first['step']:,}, {number(end['batch_loss'])} up to step {end['step']:,}."
        )
        yield Figure("loss", "Loss", course.logged(losses, "batch_loss", "loss"), says)
    if "held_out" in last:
        names = {"chosen": "chosen", "rejected": "rejected"}
        rows = _from_start([{"step": point["step"], **point["held_out"]} for point in curve], names)
        chart = course.several(rows, names, course.CHANGE)
        yield Figure("held-out", "Pairs that are not trained on", chart, words.held_out_says(run.summary) or "")
    if "texts" in last:
        names = _labels(last["texts"])
        rows = _from_start([{"step": point["step"], **point["texts"]} for point in curve], names)
        chart = course.several(rows, names, course.CHANGE)
        ends = ", ".join(f"{name} {signed(last['texts'][group])}" for group, name in names.items())
        yield Figure("texts-course", "Groups of texts", chart, f"Mean changes at the end, in nats: {ends}.")


def _of_pairs(run: ForecastRun) -> Iterator[Figure]:
    """What is drawn a pair."""
    changes = run.column("forecast_chosen")
    finite = np.isfinite(changes)
    found = changes[finite]
    if not len(found):
        return
    falls = found < 0 if run.counts else None
    low, median, high = np.quantile(found, (0, 0.5, 1))
    says = (
        f"What each chosen response's log-probability will have changed by: median {signed(float(median))} nats, from "
        f"{signed(float(low))} to {signed(float(high))}."
    )
    if falls is not None:
        said = of_all(int(falls.sum()), len(found), "pair")
        says += f" Below zero{' on average over the orders' if run.several_orders else ''}: {said}."
    if len(found) > 100:
        says += " The outer bars also hold the 1% that lies beyond, at each end."
    if len(found) < len(changes):
        says += f" {counted(len(changes) - len(found), 'pair')} without a gradient left out."
    title = "forecast_chosen (nats)"
    yield Figure("changes", "How far each will move", histogram(found, title=title, falls=falls, zero=run.counts), says)
    own, rows = run.column("own_chosen")[finite], run.rows[finite]
    rest = found - own
    if len(found) > 1:
        titles = ("its own training gives (nats)", "all else gives (nats)")
        says = (
            f"Across: what training on the pair gives its own chosen response (mean {signed(float(own.mean()))}); up: "
            f"what all other pairs give{' and curvature' if run.counts else ''} (mean {signed(float(rest.mean()))}). "
            f"Below the dashed line the two come to less than nothing.{_drawn(len(found))}"
        )
        chart = charts.parts(own, rest, rows, titles=titles, falls=falls)
        yield Figure("parts", "Own training and all others", chart, says)
    steps = run.column("step")[finite]
    timed = np.isfinite(steps)
    if timed.sum() > 1 and np.ptp(steps[timed]) > 0:
        titles = (f"step at which the pair is {'first ' if run.again else ''}trained", title)
        says = (
            f"Each pair's forecast by when it is {'first ' if run.again else ''}trained; the line joins the medians of "
            f"stripes with equally many pairs.{_drawn(int(timed.sum()))}"
        )
        mine = None if falls is None else falls[timed]
        chart = scatter(steps[timed], found[timed], rows[timed], titles=titles, falls=mine)
        yield Figure("when", "When a pair is trained", chart, says)


def _drawn(pairs: int) -> str:
    sampled = f" {POINTS:,} of {pairs:,} pairs are drawn, by chance." if pairs > POINTS else ""
    return sampled + (" What lies beyond the outer 1% is drawn at the edge." if pairs > 100 else "")


def _from_start(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows with the start before them, where nothing has changed."""
    return [{"step": 0, **dict.fromkeys(names, 0.0)}, *map(dict, rows)]


def _labels(groups: Mapping[str, object]) -> dict[str, str]:
    """What each group is called in a legend, no two alike."""
    found: dict[str, str] = {}
    for n, group in enumerate(groups, 1):
        name = shown(group, LABEL)
        found[group] = name if name not in found.values() else f"{name} ({n})"
    return found


def _numbers(run: ForecastRun) -> list[list[str]]:
    """The curve as a table, some steps of it."""
    counted_too = ["displaced"] if run.counts else []
    header = ["step", "loss", "chosen", "rejected", *counted_too, "reward accuracy"]
    rows = [
        [
            f"{point['step']:,}",
            number(point["loss"]),
            signed(point["chosen"]),
            signed(point["rejected"]),
            *[percent(point[name]) for name in counted_too],
            percent(point["accuracy"]),
        ]
        for point in spread(run.summary["curve"], TABLE_STEPS)
    ]
    return [header, *rows]


def _cards(run: ForecastRun) -> Iterator[tuple[str, str, str, str]]:
    """Label, value, note and tone."""
    summary, end = run.summary, run.summary["end"]
    if run.counts:  # else the means too are those of the straight line: no card makes a number of them
        share = end["displaced"]
        within = interval(share, "percent")
        note = "chosen responses that lose probability" + (f"; 95%: {within}" if within != MISSING else "")
        yield "Displaced", percent(share["value"]), note, "bad" if share["value"] else "good"
        yield "Chosen", signed_nats(end["chosen"]), "nats, mean change of ln π(chosen)", ""
        yield "Rejected", signed_nats(end["rejected"]), "nats, mean change of ln π(rejected)", ""
        yield "Reward accuracy", percent(end["accuracy"]), "pairs whose margin is above the reference's", ""
        yield (
            "Loss",
            number(end["end_loss"]),
            f"mean over the pairs at the end; {number(end['loss'])} over all steps",
            "",
        )
    if run.counts and "held_out" in summary:
        held = summary["held_out"]
        share, of = held["displaced"]["value"], counted(summary["data"]["held_out"], "pair")
        note = f"of {of} displaced; {signed_nats(held['chosen'])} nats on average"
        yield "Held-out", percent(share), note, "bad" if share else "good"


def _listed(run: ForecastRun, chosen: NDArray[np.intp]) -> list[dict[str, Any]]:
    """These pairs with their numbers, their texts and why."""
    pairs = run.pairs(chosen)
    texts = read_beginnings([run.folder], [pair["row"] for pair in pairs], LONGEST)
    found = []
    for pair in pairs:
        there = texts.get(pair["row"])
        said = {
            name: shown(there[name].text, characters=there[name].characters) if there else None for name in PAIR_TEXTS
        }
        chance = pair["forecast_displaced"] if run.several_orders and run.counts else None
        found.append(
            {
                "row": pair["row"],
                "chosen_change": signed_nats(pair["forecast_chosen"]),
                "rejected_change": signed_nats(pair["forecast_rejected"]),
                "push": signed_nats(pair["push"]),
                "known": pair["forecast_chosen"] is not None,
                "why": words.why(pair, run.steps, again=run.again),
                "chance": None if chance is None else percent(chance),
                **said,
            }
        )
    return found


def _facts(run: ForecastRun) -> Iterator[tuple[str, object]]:
    summary, arguments = run.summary, run.summary["arguments"]
    training, data = arguments["training"], summary["data"]
    yield "Data", data_name(arguments["data"])
    yield "Model", summary["model"]["name"]
    yield "Loss", written(training["loss"])
    yield "Reference", training["ref"] or "the model at the start"
    adapter = f", adapter of rank {training['lora_r']}" if training["lora_r"] else ""
    yield "Trained with", f"{training['optimiser']}, learning rate {training['lr']:g}, {training['schedule']}{adapter}"
    each = training["batch_size"] * training["accumulate"] * arguments["world_size"]
    yield (
        "Length",
        f"{words.run_length(summary)}: {counted(summary['end']['steps'], 'step')} of {counted(each, 'pair')}",
    )
    yield "Pairs", f"{data['pairs']:,}; {data['trained']:,} trained on, {data['sample']:,} with gradients"
    yield "Cost", words.cost_says(summary["cost"])
    yield "Forecast with", f"Undertow {summary['undertow']}"
    yield "Fingerprint of the data", str(summary["fingerprints"]["data"])[:16]

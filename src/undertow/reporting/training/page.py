"""The report of a training run: where the probability of the probe set went, in words, numbers and charts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from undertow.maths.displacement import largest_decrease
from undertow.reporting.page import theme
from undertow.reporting.page.explains import explains
from undertow.reporting.page.settings import flat
from undertow.reporting.page.shell import Figure, render
from undertow.reporting.training import charts
from undertow.reporting.training.reading import CASE, GRADIENT, WATCH, Run, read_run, spread
from undertow.scoring.columns import PRODUCT_PARTS
from undertow.wording.names import CASE_LABELS
from undertow.wording.numbers import MISSING, counted, nats, number, percent, rose, signed, times

__all__ = ["cards", "fallen", "figures", "gaining", "headline", "notes", "report", "run_charts"]

HELD_OUT = "held_out/"
"""Before the names of tracked values of the pairs that are not trained on."""
MOST_LOOKS, TABLE_LOOKS, MOST_FIRINGS, MOST_PAIRS = 600, 12, 100, 64
"""Looks in a chart, looks in the table of tokens, firings in the guards' log, pairs that fell, at most."""


def report(folder: str | Path) -> str:
    """The page of a training run, finished or not.

    Raises:
        DataError: the folder holds no training run.
    """
    run = read_run(folder)
    return render(
        "training.html.j2",
        title=f"Training: {run.name}",
        figures=list(run_charts(run)),
        run=run,
        headline=headline(run),
        strong=percent(run.final["displaced"]) if run.final else MISSING,
        notes=notes(run),
        cards=cards(run),
        sections=_sections(run),
        fallen=fallen(run),
        tokens=gaining(run),
        firings=[{**firing, "number": n} for n, firing in enumerate(run.firings[:MOST_FIRINGS], start=1)],
        settings=flat(run.arguments),
        explains=explains(Path(folder), served=False),
    )


def figures(folder: str | Path) -> tuple[Figure, ...]:
    """The charts of a training run's page.

    Raises:
        DataError: the folder holds no training run.
    """
    return tuple(run_charts(read_run(folder)))


def headline(run: Run) -> str:
    """What happened, in a sentence."""
    final = run.final
    after = f"After {counted(run.steps, 'step')}"
    if final is None:
        return f"{after} nothing is known of the probe pairs: they were not looked at."
    if final["margin_change"] is None or final["chosen_change"] is None:
        return f"{after} the log-probabilities of the probe pairs are no finite numbers any more."
    margin, share = final["margin_change"], final["displaced"]
    chosen = f"the mean chosen log-probability {rose(final['chosen_change'])}"
    if not run.steps or (margin == 0 and final["chosen_change"] == 0):
        return f"{after} the probe pairs are as they were."
    if margin <= 0:
        less = f"fell by more than {nats(run.displaced_by)}" if run.displaced_by else "is less likely than before"
        fell = f"; the chosen response {less} in {percent(share)} of the probe pairs"
        stood = rose(margin, up="grew", still="is what it was")
        return f"{after} the margin {stood}: the preferences were not learned{fell}."
    grew = f"{after} the margin grew by {nats(margin)}"
    if not share:
        return f"{grew}, and no probe pair is displaced: {chosen}."
    if final["chosen_change"] < 0:
        return f"{grew}, but {percent(share)} of the probe pairs are displaced: {chosen}."
    return f"{grew} and {chosen}; {percent(share)} of the probe pairs are displaced all the same."


def notes(run: Run) -> list[str]:
    """What else a reader has to know before the numbers."""
    found = []
    if run.callback is not None:
        found.append(
            "Trained by another library and tracked by DisplacementCallback: the page shows what was tracked. Loss and "
            "rewards are in that library's own logs."
        )
    if run.unfinished:
        found.append("This run is not finished: the page shows what stood in its folder when it was made.")
    stops = [firing for firing in run.firings if firing["action"] in ("stop", "rollback")]
    if stops:
        found.append(f"A guard ended the run at step {stops[-1]['step']:,}: {stops[-1]['guard']}.")
    if run.rolled_back_to is not None:
        found.append(
            f"The weights were put back to those of step {run.rolled_back_to:,}: headline and cards speak of these, "
            "the charts also of what was undone."
        )
    elif "rolled_back_to" in (run.summary or {}):
        found.append("No checkpoint was inside the guards' limits: the weights stayed as they were.")
    if run.filtered:
        found.append(f"{counted(run.filtered, 'pair')} had been left out before training (filtered.jsonl).")
    return found


def cards(run: Run) -> list[dict[str, str]]:
    """The numbers that count, at the end."""
    final = run.final
    if final is None:
        return []
    summary = run.summary or {}
    pairs = summary.get("data", {}).get("trained")
    left = f"; {run.filtered:,} left out" if run.filtered else ""
    by = run.displaced_by
    less = f"fell by more than {nats(by)}" if by else "is less likely than before"
    found = [
        _card("Displaced", percent(final["displaced"]), f"probe pairs whose chosen response {less}"),
        _card("Margin", signed(final["margin_change"]), "nats, chosen minus rejected, against step 0"),
        _card("Chosen", signed(final["chosen_change"]), "nats, mean ln π(chosen), against step 0"),
        _card("Rejected", signed(final["rejected_change"]), "nats, mean ln π(rejected), against step 0"),
        _card("Reward accuracy", percent(final.get("reward_accuracy")), "probe pairs whose margin grew"),
        _card("Largest decrease", number(final["largest_decrease"]), "nats, of mean ln π(chosen) between two looks"),
    ]
    if run.callback is not None:
        likelier = "probe pairs whose chosen response is the more probable one"
        return [
            *found,
            _card("Likelihood accuracy", percent(final.get("likelihood_accuracy")), likelier),
            _card("Steps", number(run.steps), "of the optimiser, at the last look"),
        ]
    return [
        *found,
        _card("Mean loss", number(summary.get("loss")), "over all steps of the run"),
        _card("Pairs", number(pairs), f"trained on{left}"),
    ]


def fallen(run: Run) -> dict[str, Any]:
    """The probe pairs whose chosen responses are less likely than before, the worst first, with their texts."""
    known = [row for row in run.probe if row["chosen_change"] is not None]
    fell = sorted(
        (row for row in known if row["chosen_change"] < 0), key=lambda row: (row["chosen_change"], row["row"])
    )
    pairs = [
        {
            **{name: row[name] for name in ("row", "displaced", "prompt", "chosen", "rejected", "chosen_tokens")},
            "chosen_change": signed(row["chosen_change"]),
            "rejected_change": signed(row["rejected_change"]),
            "margin_change": signed(_difference(row["chosen_change"], row["rejected_change"])),
        }
        for row in fell[:MOST_PAIRS]
    ]
    return {"pairs": pairs, "says": _fallen_says(run, known, fell), "known": bool(run.probe)}


def _fallen_says(run: Run, known: Sequence[Mapping[str, Any]], fell: Sequence[Mapping[str, Any]]) -> str:
    of = counted(len(known), "probe pair")
    if not fell:
        return f"Of {of}, none has a chosen response that is less likely than before."
    said = f"{len(fell):,} of {of} have a chosen response that is less likely than at step 0, the worst first"
    counts = sum(bool(row["displaced"]) for row in fell)
    if run.displaced_by:
        said += f"; {counts:,} fell by more than {nats(run.displaced_by)} and count as displaced"
    more = f" The first {MOST_PAIRS} are shown." if len(fell) > MOST_PAIRS else ""
    return f"{said}.{more}"


def _difference(one: float | None, two: float | None) -> float | None:
    return None if one is None or two is None else one - two


def _sections(run: Run) -> list[tuple[str, str]]:
    """The sections that the page has: what another library's trainer did besides is not known here."""
    ours = run.callback is None
    found = {
        "tracked": ("Probe pairs", True),
        "fallen": ("Pairs that fell", bool(run.looks)),
        "tokens": ("Tokens", True),
        "guards": ("Guards", ours),
        "log": ("Loss and rewards", ours),
        "settings": ("Settings", bool(run.arguments)),
    }
    return [(name, title) for name, (title, there) in found.items() if there]


def run_charts(run: Run) -> Iterator[Figure]:
    """The charts that the run has the numbers for."""
    if run.looks:
        yield from _tracked(run, spread(run.looks, MOST_LOOKS, [firing["step"] for firing in run.firings]))
    log = spread([entry for entry in run.log if entry.get("loss") is not None], MOST_LOOKS)
    if len(log) > 1:
        first, last = log[0], log[-1]
        says = (
            f"The loss went from {number(first['loss'])} at step {first['step']:,} to {number(last['loss'])} at step "
            f"{last['step']:,}."
        )
        yield Figure("loss", "Loss", charts.logged(log, "loss", "loss"), says)
        if last.get("rewards/margins") is not None:
            says = (
                f"Implicit rewards of the batches: at step {last['step']:,} {number(last['rewards/chosen'])} for "
                f"chosen, {number(last['rewards/rejected'])} for rejected responses."
            )
            yield Figure("rewards", "Implicit rewards", charts.rewards(log), says)


def _tracked(run: Run, looks: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    thinned = "" if len(looks) == len(run.looks) else f" {len(looks):,} of {len(run.looks):,} looks are drawn."
    marks = _marks(run)
    yield Figure(
        "course",
        "Where the probability went",
        charts.course(looks, marks),
        _course_says(run) + thinned,
        narrow=charts.course(looks, marks, narrow=True),
        numbers=_numbers(run),
    )
    fall = _fall(run.looks)
    yield Figure("levels", "Mean log-probabilities", charts.levels(looks, fall), _fall_says(fall) + thinned)
    if run.columns(HELD_OUT):
        names = {f"{HELD_OUT}chosen_change": "chosen", f"{HELD_OUT}rejected_change": "rejected"}
        foretold = {f"{charts.FORECAST}{name}": f"{what}, forecast" for name, what in names.items()}
        names |= {name: what for name, what in foretold.items() if name in run.columns(charts.FORECAST)}
        chart = charts.several(looks, names, charts.CHANGE)
        yield Figure("held-out", "Pairs that are not trained on", chart, _held_out_says(run))
    watched = {name: name.removeprefix(WATCH) for name in run.columns(WATCH)}
    if watched:
        chart = charts.several(looks, watched, "probability gained")
        yield Figure("watched", "Watched groups of words", chart, _watched_says(run, watched))
    for prefix, where in (("", ""), ("full_", ", over all parameters")):
        named = {f"{prefix}{CASE}{number}": shown for number, shown in CASE_LABELS.items()}
        cases = {name: shown for name, shown in named.items() if any(row.get(name) for row in run.looks)}
        if cases:
            colours = {CASE_LABELS[number]: colour for number, colour in theme.CASE_COLOURS.items()}
            chart = charts.shares(looks, cases, colours, "probe pairs")
            says = _cases_says(run, cases, prefix)
            yield Figure(f"{prefix}cases".replace("_", "-"), f"What one step on a pair does to it{where}", chart, says)
        if run.columns(f"{prefix}{GRADIENT}"):
            chart = charts.gradients(looks, prefix)
            says = _gradients_says(run, prefix)
            yield Figure(f"{prefix}gradients".replace("_", "-"), f"Inner products of the gradients{where}", chart, says)


def gaining(run: Run) -> list[dict[str, Any]]:
    """The tokens that gained most at some of the looks, for a table; the first, where nothing has moved, is out."""
    looks = [row for row in run.looks[1:] if any((gain or 0) > 0 for gain in row.get("gaining") or ())]
    table = [
        {
            "step": row["step"],
            "tokens": [
                {"text": text, "gain": gain}
                for text, gain in zip(row["gaining_tokens"], row["gaining"], strict=True)
                if (gain or 0) > 0
            ],
        }
        for row in spread(looks, TABLE_LOOKS)
    ]
    tokens = [token for row in table for token in row["tokens"]]
    most = max((token["gain"] for token in tokens), default=1.0)
    for token in tokens:
        token["share"] = token["gain"] / most
    return table


def _marks(run: Run) -> list[dict[str, Any]]:
    """Where guards fired, once a step; numbered as in the guards' log."""
    numbered = enumerate(run.firings, start=1)
    found = []
    for step, group in itertools.groupby(numbered, key=lambda item: item[1]["step"]):
        several = list(group)
        label = str(several[0][0]) + ("" if len(several) == 1 else f"–{several[-1][0]}")
        found.append({"step": step, "number": label, "what": "; ".join(str(one["guard"]) for _, one in several)})
    return found


def _numbers(run: Run) -> list[list[str]]:
    """The course as a table, some looks of it."""
    names = ("chosen_change", "rejected_change", "margin_change")
    header = ["step", "chosen", "rejected", "margin", "displaced"]
    rows = [
        [f"{row['step']:,}", *(signed(row[name]) for name in names), percent(row["displaced"])]
        for row in spread(run.looks, TABLE_LOOKS)
    ]
    return [header, *rows]


def _course_says(run: Run) -> str:
    last = run.looks[-1]
    fired = f" Guards fired {times(len(run.firings))} (dashed)." if run.firings else ""
    return (
        f"At step {last['step']:,}, against step {run.looks[0]['step']:,}: chosen {signed(last['chosen_change'])}, "
        f"rejected {signed(last['rejected_change'])}, margin {signed(last['margin_change'])} nats. Below, the "
        f"displaced share: {percent(last['displaced'])} at the end.{_forecast_says(last)}{fired}"
    )


def _forecast_says(last: Mapping[str, Any]) -> str:
    """What the forecast had said of the same pairs at the same step."""
    chosen, rejected, share = (
        last.get(f"{charts.FORECAST}{n}") for n in ("chosen_change", "rejected_change", "displaced")
    )
    if chosen is None or rejected is None:
        return ""
    displaced = f", displaced {percent(share)} (dashed)" if share is not None else ""
    return f" The forecast (pale): chosen {signed(chosen)}, rejected {signed(rejected)}{displaced}."


def _held_out_says(run: Run) -> str:
    last = run.looks[-1]
    foretold = last.get(f"{charts.FORECAST}{HELD_OUT}displaced")
    beside = f"; {percent(foretold)} by the forecast" if foretold is not None else ""
    return (
        f"At step {last['step']:,}: chosen {signed(last[f'{HELD_OUT}chosen_change'])}, rejected "
        f"{signed(last[f'{HELD_OUT}rejected_change'])} nats; {percent(last[f'{HELD_OUT}displaced'])} displaced{beside}."
    )


def _fall(looks: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The two looks between which the mean chosen log-probability fell most."""
    values = [float("nan") if row["chosen_logp"] is None else row["chosen_logp"] for row in looks]
    drop, start, end = largest_decrease(values)
    return (looks[start], looks[end]) if drop > 0 else None


def _fall_says(fall: tuple[Mapping[str, Any], Mapping[str, Any]] | None) -> str:
    if fall is None:
        return "The mean log-probability of the chosen responses never fell from one look to a later one."
    start, end = fall
    return (
        f"The largest decrease of the chosen responses, marked: {nats(start['chosen_logp'] - end['chosen_logp'])} from "
        f"step {start['step']:,} to step {end['step']:,}."
    )


def _watched_says(run: Run, names: Mapping[str, str]) -> str:
    last = run.looks[-1]
    parts = [f"{shown} {signed(last[name])}" for name, shown in names.items()]
    return f"Probability that the words' first tokens gained where the responses part, at the end: {', '.join(parts)}."


def _cases_says(run: Run, names: Mapping[str, str], prefix: str) -> str:
    last = run.looks[-1]
    shares = [f"{shown} {percent(last[name])}" for name, shown in names.items() if last[name]]
    said = ", ".join(shares)
    return f"Predicted cases of {_whose(prefix)}, to first order and under the run's loss. At the end: {said}."


def _whose(prefix: str) -> str:
    """Of which pairs such a figure is."""
    return "some of the probe pairs, by the gradients of all trained weights" if prefix else "the probe pairs"


def _gradients_says(run: Run, prefix: str) -> str:
    last = run.looks[-1]
    chosen, cross, rejected = (number(last.get(f"{prefix}{GRADIENT}{part}")) for part in PRODUCT_PARTS)
    rises = percent(last.get(f"{prefix}{GRADIENT}condition"))
    return (
        f"At the end: chosen with itself {chosen}, with rejected {cross}, rejected with itself {rejected}. One step on "
        f"a pair alone raises the chosen response of {rises} of {_whose(prefix)}."
    )


def _card(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}

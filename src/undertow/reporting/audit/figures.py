"""The charts of an audit with what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from undertow.filtering.by_loss import LossEffect
from undertow.filtering.what_if import MEASURES, PERCENTS, Dropping
from undertow.maths.statistics import spearman_of
from undertow.reporting.audit import charts
from undertow.reporting.audit.reading import AuditRun
from undertow.reporting.page.shell import Figure
from undertow.wording.losses import written
from undertow.wording.names import AXES, CASE_LABELS, LABELS, MEASURE_LABELS, WHAT
from undertow.wording.numbers import MINUS, counted, number, of_all, percent

__all__ = ["FIRST", "SCORE", "figures_of", "measure_of"]

FIRST = PERCENTS.index("10")
"""Where the slider stands at first: the share that the terminal proposes."""
SCORE = "score-"
"""What the names of the figures of distributions begin with."""
LENGTH_SCORES = ("ches", "ln_ches")


def figures_of(run: AuditRun, leaving: Mapping[str, Dropping]) -> Iterator[Figure]:
    """The charts of an audit, in the page's order.

    Args:
        run: the audit.
        leaving: what leaving pairs out by each score would do.
    """
    for by in run.predictors:
        if (figure := _distribution(run, by)) is not None:
            yield figure
    if run.exact:
        yield _by_loss(run.losses[0])
    for by in LENGTH_SCORES:
        if by in run.predictors and (figure := _length(run, by)) is not None:
            yield figure
    measure = measure_of(run)
    if measure and run.falls[measure].any():
        yield _curves(run, leaving, measure)
    if measure:
        for index, name in enumerate(run.groups):
            yield _group(run, name, index, measure)


def _distribution(run: AuditRun, by: str) -> Figure | None:
    values = run.column(by)
    finite = np.isfinite(values)
    if not finite.any():
        return None
    fall = _falls(run)
    found = values[finite]
    low, quarter, median, three, high = np.quantile(found, (0, 0.25, 0.5, 0.75, 1))
    says = (
        f"{WHAT[by]} Median {number(float(median))}, the middle half from {number(float(quarter))} to "
        f"{number(float(three))}, all from {number(float(low))} to {number(float(high))}."
    )
    if by.endswith("dlogp_chosen"):
        says += f" Below zero: {of_all(int((found < 0).sum()), len(found), 'pair')}."
    if len(found) > 100:
        says += " The outer bars also hold the 1% that lies beyond, at each end."
    if len(found) < len(values):
        says += f" {counted(len(values) - len(found), 'pair')} without a finite score left out."
    chart = charts.histogram(
        found,
        title=AXES.get(by, by),
        falls=None if fall is None else fall[finite],
        zero=by.endswith("dlogp_chosen"),
        height=240 if by == run.predictors[0] else 170,
    )
    return Figure(f"{SCORE}{_slug(by)}", f"{LABELS[by][0].upper()}{LABELS[by][1:]}", chart, says)


def _length(run: AuditRun, by: str) -> Figure | None:
    """A score against the difference of the two lengths: what of it is only length."""
    difference = run.column("chosen_tokens") - run.column("rejected_tokens")
    values = run.column(by)
    finite = np.isfinite(values)
    if finite.sum() < 2:
        return None
    fall = _falls(run)
    x, y = difference[finite], values[finite]
    rows = run.table["row"].to_numpy()[finite]
    correlation = float(spearman_of(x, y)(np.ones(len(x)))[0])
    says = (
        f"Rank correlation of {LABELS[by]} with the length difference: {_correlation(correlation)}. "
        f"The line joins the medians of stripes with equally many pairs."
    )
    if len(x) > charts.POINTS:
        says += f" {charts.POINTS:,} of {len(x):,} pairs are drawn, by chance; correlation and line are of all."
    if len(x) > 100:
        says += " What lies beyond the outer 1% is drawn at the edge."
    titles = ("chosen tokens − rejected tokens", by)
    chart = charts.scatter(x, y, rows, titles=titles, falls=None if fall is None else fall[finite])
    return Figure(f"length-{_slug(by)}", f"{LABELS[by][0].upper()}{LABELS[by][1:]} and length", chart, says)


def _by_loss(effects: list[LossEffect]) -> Figure:
    ours, *others = effects
    ordered = [ours, *sorted(others, key=lambda one: (one.share, one.name))]
    names = [_name(one) for one in ordered]
    counts = [_cases(one.cases) for one in ordered]
    pairs = len(ours.cases)
    header = ("loss", *CASE_LABELS.values(), "chosen falls", "… hidden states free")
    rows = [
        (
            f"{name} [{written(one.loss)}]" if not one.audited else name,
            *(by_case.get(case, 0) for case in CASE_LABELS),
            percent(one.share),
            percent(float(one.free_falls.mean())),
        )
        for name, by_case, one in zip(names, counts, ordered, strict=True)
    ]
    says = f"Cases of {counted(pairs, 'pair')}, the audited loss first; warm colours: the chosen response falls. "
    says += f"{written(ours.loss)}: {of_all(int(ours.falls.sum()), pairs, 'pair')}."
    if others and ordered[1].share == ordered[-1].share:
        says += f" The {len(others)} others, at their usual parameters: {percent(ordered[1].share)} each."
    elif others:
        says += (
            f" The {len(others)} others, at their usual parameters: from {percent(ordered[1].share)} "
            f"({ordered[1].name}) to {percent(ordered[-1].share)} ({ordered[-1].name})."
        )
    return Figure(
        "losses",
        "Cases by loss",
        charts.case_bars(names, counts),
        says,
        narrow=charts.case_bars(names, counts, narrow=True),
        numbers=[header, *rows],
    )


def _curves(run: AuditRun, leaving: Mapping[str, Dropping], measure: str) -> Figure:
    def points(one: Dropping) -> list[tuple[float, float]]:
        kept = run.pairs - one.dropped
        return [
            (float(text) / 100, falling / stay)
            for text, falling, stay in zip(PERCENTS[::2], one.falling[measure][::2], kept[::2], strict=True)
            if stay
        ]

    series = [charts.Lines(by, points(one)) for by, one in leaving.items()]
    at = {by: one.falling[measure][FIRST] / max(run.pairs - one.dropped[FIRST], 1) for by, one in leaving.items()}
    best, worst = min(at, key=lambda by: at[by]), max(at, key=lambda by: at[by])
    says = (
        f"How many of the kept chosen responses still fall, by {MEASURE_LABELS[measure]}. With all pairs kept "
        f"{percent(float(run.falls[measure].mean()))}; with the worst 10% left out "
        f"{percent(float(at[best]))} by {best}, {percent(float(at[worst]))} by {worst}."
    )
    titles = ("pairs left out", "displaced among the kept")
    mark = float(PERCENTS[FIRST]) / 100
    return Figure(
        "what-if",
        "Which score finds them",
        charts.lines(series, titles=titles, mark=mark),
        says,
        narrow=charts.lines(series, titles=titles, mark=mark, narrow=True),
    )


def _group(run: AuditRun, name: str, index: int, measure: str) -> Figure:
    """The share of falling chosen responses for each value of a column."""
    group = run.groups[name]
    sizes = np.bincount(group.index, minlength=len(group.labels))
    falling = np.bincount(group.index, weights=run.falls[measure], minlength=len(group.labels))
    shares = falling / np.maximum(sizes, 1)
    scores = run.column(run.by)
    medians = [_median(scores[group.index == n]) for n in range(len(group.labels))]
    worst = np.argsort(-shares, kind="stable")
    rows = [(group.labels[n], int(sizes[n]), percent(float(shares[n])), number(medians[n])) for n in worst]
    says = (
        f"The share of pairs of each {name} whose chosen response falls, by {MEASURE_LABELS[measure]}: most in "
        f"{rows[0][0]} ({rows[0][2]} of {counted(int(rows[0][1]), 'pair')})."
        if falling.any()
        else f"In no {name} does a chosen response fall, by {MEASURE_LABELS[measure]}."
    )
    chart = charts.group_bars([str(group.labels[n]) for n in worst], shares[worst], sizes[worst], title="displaced")
    header = (name, "pairs", "displaced", f"median {run.by}")
    return Figure(f"group-{index + 1}", f"By {name}", chart, says, numbers=[header, *rows])


def _median(values: NDArray[np.float64]) -> float:
    """Of the values that are known; NaN where none is: a forecast may be of a sample only."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def measure_of(run: AuditRun) -> str | None:
    """By which change displacement is counted at first: the pair's own step, unless only another one finds any."""
    return next((name for name in MEASURES if name in run.falls and run.falls[name].any()), None) or (
        "own" if "own" in run.falls else None
    )


def _falls(run: AuditRun) -> NDArray[np.bool_] | None:
    """Whose chosen response falls, by that measure."""
    measure = measure_of(run)
    return None if measure is None else run.falls[measure]


def _cases(cases: NDArray[np.int8]) -> dict[int, int]:
    codes, counts = np.unique(cases, return_counts=True)
    return {int(code): int(count) for code, count in zip(codes, counts, strict=True)}


def _name(effect: LossEffect) -> str:
    return f"{written(effect.loss)}, audited" if effect.audited else effect.name


def _correlation(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS) if np.isfinite(value) else "none"


def _slug(name: str) -> str:
    return name.replace("_", "-")

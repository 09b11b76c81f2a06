"""Charts of an audit: how the scores are distributed, what they depend on, what the losses would do.

Each function takes numpy vectors, one value a pair, and bins or samples them before they become a chart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import altair as alt
import numpy as np
from numpy.typing import NDArray

from undertow.maths.statistics import equal_groups
from undertow.reporting.page import theme
from undertow.reporting.page.ticks import WHOLE, number_format
from undertow.wording.names import CASE_LABELS

__all__ = ["POINTS", "Lines", "case_bars", "group_bars", "histogram", "inner_range", "lines", "scatter"]

Vector: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

POINTS = 2_000
"""More pairs than this are drawn as a sample: further points would hide each other and make the page large."""
BINS, STRIPES = 40, 8
OUTER = 0.01
"""The share of pairs at each end that a histogram of many pairs puts into its outer bars."""
FALLING, RISING, ANY = "chosen falls", "chosen rises", "all pairs"


def histogram(
    values: Vector, *, title: str, falls: Mask | None = None, zero: bool = False, height: int = 200
) -> alt.TopLevelMixin:
    """How many pairs have which score, those whose chosen response falls in a colour of their own.

    Args:
        values: the score, finite.
        title: of the axis.
        falls: whose chosen response falls, where that is known.
        zero: whether the axis is to hold 0.
        height: in pixels.
    """
    low, high = inner_range(values)
    edges = _edges(min(low, 0.0), max(high, 0.0)) if zero else _edges(low, high)
    domain, colours, kind_of = _kinds(falls, len(values))
    kinds = {kind: kind_of == kind for kind in domain}
    bars = []
    below = np.zeros(len(edges) - 1, dtype=np.int64)
    for kind, mask in kinds.items():
        counts = np.histogram(np.clip(values[mask], edges[0], edges[-1]), edges)[0]
        for n, count in enumerate(counts):
            if count:
                begin, end = below[n], below[n] + count
                bars.append(
                    {"from": edges[n], "to": edges[n + 1], "begin": begin, "end": end, "pairs": count, "kind": kind}
                )
        below += counts
    legend = alt.Legend(title=None) if len(domain) > 1 else None
    chart: alt.TopLevelMixin = (
        _chart(bars)
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("from:Q", title=title, bin=alt.BinParams(binned=True), axis=_axis(edges)),
            x2="to:Q",
            y=alt.Y("begin:Q", title="pairs", axis=alt.Axis(tickCount=4, **WHOLE)),
            y2="end:Q",
            color=alt.Color("kind:N", legend=legend, scale=alt.Scale(domain=domain, range=colours)),
            tooltip=[
                alt.Tooltip("kind:N", title="pairs"),
                alt.Tooltip("pairs:Q", title="count", format=","),
                alt.Tooltip("from:Q", format=".4~g"),
                alt.Tooltip("to:Q", format=".4~g"),
            ],
        )
        .properties(width="container", height=height)
    )
    return chart


def inner_range(values: Vector) -> tuple[float, float]:
    """From where to where a histogram's bars reach: all values of few pairs, else all but the outermost."""
    low, high = np.quantile(values, (OUTER, 1 - OUTER)) if len(values) > 100 else (values.min(), values.max())
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def scatter(
    x: Vector,
    y: Vector,
    rows: NDArray[np.int64],
    *,
    titles: tuple[str, str],
    falls: Mask | None = None,
    line: Sequence[tuple[float, float]] | None = None,
) -> alt.TopLevelMixin:
    """One score against another, a point a pair, with the medians of stripes of equally many pairs.

    Args:
        x: the one, finite.
        y: the other, finite.
        rows: the pairs' rows, for the tooltip.
        titles: of the two axes.
        falls: whose chosen response falls, where that is known.
        line: another line than that of the medians: two points, or none.
    """
    shown = sample(len(x))
    low, high = inner_range(y)
    domain, colours, kinds = _kinds(falls, len(x))
    points = [
        {"x": x[n], "y": float(np.clip(y[n], low, high)), "row": rows[n], "value": y[n], "kind": kinds[n]}
        for n in shown
    ]
    axis_x = alt.X("x:Q", title=titles[0], axis=_axis(x), scale=alt.Scale(zero=False))
    axis_y = alt.Y("y:Q", title=titles[1], axis=_axis([low, high], grid=True), scale=alt.Scale(zero=False))
    legend = alt.Legend(title=None, symbolType="circle", symbolOpacity=1) if len(domain) > 1 else None
    dots = (
        _chart(points)
        .mark_circle(size=26, opacity=0.5)
        .encode(
            x=axis_x,
            y=axis_y,
            color=alt.Color("kind:N", legend=legend, scale=alt.Scale(domain=domain, range=colours)),
            tooltip=[
                alt.Tooltip("row:Q"),
                alt.Tooltip("x:Q", title=titles[0], format=",.4~g"),
                alt.Tooltip("value:Q", title=titles[1], format=",.4~g"),
            ],
        )
    )
    ends = [{"x": a, "y": float(np.clip(b, low, high))} for a, b in (stripes(x, y) if line is None else line)]
    mark: dict[str, Any] = (
        {"strokeWidth": 2, "point": alt.OverlayMarkDef(color=theme.INK, size=28)}
        if line is None
        else {"strokeWidth": 1.5, "strokeDash": [5, 4]}
    )
    drawn = _chart(ends).mark_line(color=theme.INK, **mark).encode(x="x:Q", y="y:Q")
    chart: alt.TopLevelMixin = (dots + drawn).properties(width="container", height=280)
    return chart


def sample(count: int) -> NDArray[np.intp]:
    """Which pairs are drawn: all, or as many as are drawn at most, by chance and always the same."""
    if count <= POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, POINTS, replace=False))


def stripes(x: Vector, y: Vector) -> list[tuple[float, float]]:
    """Medians of ``x`` and ``y`` over stripes of ``x`` with about equally many pairs each."""
    parts = equal_groups(x, most=STRIPES, least=5)
    found = {float(np.median(x[part])): float(np.median(y[part])) for part in parts}
    return sorted(found.items())


@dataclass(frozen=True, slots=True)
class Lines:
    """One line: its name, and its points ``(x, y)``."""

    name: str
    points: Sequence[tuple[float, float]]


def lines(series: Sequence[Lines], *, titles: tuple[str, str], mark: float, narrow: bool = False) -> alt.TopLevelMixin:
    """Shares over shares, a line a series; a rule stands at ``mark``, and moves with the signal ``share``.

    Args:
        series: their points are shares from 0 to 1.
        titles: of the two axes.
        mark: where the rule stands at first.
        narrow: for a phone.
    """
    points = [{"line": one.name, "x": x, "y": y} for one in series for x, y in one.points]
    names = [one.name for one in series]
    # Equal shares at equal steps are common: the first of the scores is drawn last, over the others.
    points.reverse()
    dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3]]
    drawn = (
        _chart(points)
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X("x:Q", title=titles[0], axis=alt.Axis(format="%", tickCount=6)),
            y=alt.Y("y:Q", title=titles[1], axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(zero=True)),
            color=alt.Color("line:N", sort=names, scale=alt.Scale(domain=names, range=list(theme.LINES[: len(names)])),
                            legend=alt.Legend(title="left out by", symbolType="stroke", columns=2 if narrow else 6)),
            strokeDash=alt.StrokeDash("line:N", sort=names, scale=alt.Scale(domain=names, range=dashes[: len(names)])),
            tooltip=[
                alt.Tooltip("line:N", title="left out by"),
                alt.Tooltip("x:Q", title=titles[0], format=".1%"),
                alt.Tooltip("y:Q", title=titles[1], format=".1%"),
            ],
        )
    )  # fmt: skip
    share = alt.param(name="share", value=mark)
    rule = _chart([{}]).transform_calculate(x="share").mark_rule(color=theme.SOFT, strokeWidth=1.5).encode(x="x:Q")
    chart: alt.TopLevelMixin = (drawn + rule).add_params(share).properties(width="container", height=250)
    return chart


def case_bars(names: Sequence[str], counts: Sequence[Mapping[int, int]], *, narrow: bool = False) -> alt.TopLevelMixin:
    """For each loss a bar of the cases of all pairs, those in which the chosen response falls at its beginning.

    Args:
        names: the losses, in the order of the bars.
        counts: pairs by case, for each loss.
        narrow: for a phone.
    """
    there = [case for case in CASE_LABELS if any(case in one for one in counts)]
    bars = []
    for name, by_case in zip(names, counts, strict=True):
        total, begin = sum(by_case.values()), 0
        for case in there:
            if by_case.get(case):
                end = begin + by_case[case]
                bars.append(
                    {
                        "loss": name,
                        "case": CASE_LABELS[case],
                        "begin": begin / total,
                        "end": end / total,
                        "pairs": by_case[case],
                        "share": by_case[case] / total,
                    }
                )
                begin = end
    scale = alt.Scale(domain=[CASE_LABELS[case] for case in there], range=[theme.CASE_COLOURS[case] for case in there])
    label = alt.Axis(
        labelLimit=150 if narrow else 260, labelFontSize=12, labelColor=theme.INK, ticks=False, domain=False
    )
    chart: alt.TopLevelMixin = (
        _chart(bars)
        .mark_bar(height={"band": 0.72}, stroke=theme.CARD, strokeWidth=1)
        .encode(
            y=alt.Y("loss:N", sort=list(names), title=None, axis=label),
            x=alt.X("begin:Q", title="share of pairs", axis=alt.Axis(format="%", tickCount=5)),
            x2="end:Q",
            color=alt.Color("case:N", scale=scale, legend=alt.Legend(title=None, columns=2 if narrow else 0)),
            tooltip=[
                alt.Tooltip("loss:N"),
                alt.Tooltip("case:N"),
                alt.Tooltip("pairs:Q", format=","),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
        .properties(width="container", height=22 * len(names))
    )
    return chart


def group_bars(labels: Sequence[str], shares: Vector, sizes: NDArray[np.int64], *, title: str) -> alt.TopLevelMixin:
    """A share for each group of pairs, the groups in the given order."""
    bars = [
        {"group": label, "share": float(share), "pairs": int(size)}
        for label, share, size in zip(labels, shares, sizes, strict=True)
    ]
    axis = alt.Axis(labelLimit=160, labelFontSize=12, labelColor=theme.INK, ticks=False, domain=False)
    base = _chart(bars).encode(y=alt.Y("group:N", sort=list(labels), title=None, axis=axis))
    x = alt.X("share:Q", title=title, axis=alt.Axis(format="%", tickCount=4), scale=alt.Scale(domain=[0, 1]))
    drawn = base.mark_bar(color=theme.FALLS, height={"band": 0.62}).encode(
        x=x,
        tooltip=[alt.Tooltip("group:N"), alt.Tooltip("share:Q", format=".1%"), alt.Tooltip("pairs:Q", format=",")],
    )
    text = base.mark_text(align="left", dx=5, color=theme.SOFT, fontSize=11).encode(
        x=x, text=alt.Text("share:Q", format=".0%")
    )
    chart: alt.TopLevelMixin = (drawn + text).properties(width="container", height=26 * len(labels))
    return chart


def _edges(low: float, high: float) -> Vector:
    """Edges of bars of one width; 0 is one of them where it lies inside, so that no bar holds both signs."""
    if not low < 0 < high:
        return np.linspace(low, high, BINS + 1)
    width = (high - low) / BINS
    return np.arange(np.floor(low / width), np.ceil(high / width) + 1) * width


def _kinds(falls: Mask | None, count: int) -> tuple[list[str], list[str], NDArray[np.str_]]:
    """The kinds of pairs that occur, their colours, and which each pair is."""
    if falls is None:
        return [ANY], [theme.MARGIN], np.full(count, ANY)
    there = {FALLING: (theme.FALLS, falls.any()), RISING: (theme.RISES, not falls.all())}
    named = {kind: colour for kind, (colour, any_of_it) in there.items() if any_of_it}
    return list(named), list(named.values()), np.where(falls, FALLING, RISING)


def _axis(values: Sequence[float] | Vector, *, grid: bool = False) -> alt.Axis:
    """Ticks of numbers as people write them: large ones with k and M."""
    low, high = float(np.min(values)), float(np.max(values))
    large = max(abs(low), abs(high)) >= 1e4
    return alt.Axis(tickCount=6, grid=grid, **({"format": "~s"} if large else number_format(low, high)))


def _chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=_as_drawn(rows)))


def _as_drawn(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without more digits than can be seen: a column's range keeps five of them, however narrow it is."""
    columns = {name: _rounded([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return [{name: values[n] for name, values in columns.items()} for n in range(len(rows))]


def _rounded(values: list[Any]) -> list[Any]:
    if not isinstance(values[0], float | np.floating):
        return [int(value) if isinstance(value, np.integer) else value for value in values]
    finite = [float(value) for value in values if math.isfinite(value)] or [0.0]
    spread = max(finite) - min(finite) or abs(finite[0]) or 1.0
    decimals = 4 - math.floor(math.log10(spread))
    return [round(float(value), decimals) if math.isfinite(value) else float(value) for value in values]

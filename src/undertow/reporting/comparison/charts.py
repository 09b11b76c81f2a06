"""Charts of a comparison of two models: what moved, and whether an audit had predicted it.

Each function takes columns as numpy vectors, one value a pair, and bins or samples them before they become a chart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from undertow.maths.statistics import equal_groups
from undertow.reporting.page import theme
from undertow.reporting.page.panels import LEFT, beside, panels
from undertow.reporting.page.ticks import WHOLE, number_format

Vector = NDArray[np.float64]
Row = Mapping[str, Any]

POINTS = 2000
"""More pairs than this are drawn as a map of counts: points would hide each other, and make the page large."""
CELLS = 40
BINS = 40
COLOURS = {"chosen": theme.CHOSEN, "rejected": theme.REJECTED, "margin": theme.MARGIN}
_EQUAL = 1e-9
"""Numbers that differ by less than this part of themselves are drawn as one."""
OUTER = 0.005
"""The share of pairs at each end that maps and histograms draw at their edge."""
_FELL = {"forecast": "foretold to fall", "realised": "fell"}


def before_after(
    sides: Mapping[str, tuple[Vector, Vector]], rows: NDArray[np.int64], *, narrow: bool = False
) -> alt.TopLevelMixin:
    """Log-probabilities after against before, a panel for the chosen and one for the rejected responses.

    Args:
        sides: ``chosen`` and ``rejected``: ln π(y|x) before and after.
        rows: the pairs' rows, for the tooltip.
        narrow: for a phone.
    """
    low, high = _range(np.concatenate([value for pair in sides.values() for value in pair]))
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    axis = alt.Axis(tickCount=5, grid=False, **number_format(low, high))
    x = alt.X("x:Q", title="ln π before (nats)", scale=scale, axis=axis)
    y = alt.Y("y:Q", title="ln π after (nats)", scale=scale, axis=axis)
    colour = alt.Color("side:N", legend=None, scale=_scale(sides))
    if len(rows) > POINTS:
        cells = [
            {"side": side, **cell}
            for side, (before, after) in sides.items()
            for cell in heat(before, after, (low, high), (low, high))
        ]
        drawn = _heat(cells, x, y, "ln π before", "ln π after", colour)
    else:
        points = [
            {"side": side, "row": int(row), "x": old, "y": new, "change": new - old}
            for side, (before, after) in sides.items()
            for row, old, new in zip(rows.tolist(), before.tolist(), after.tolist(), strict=True)
        ]
        drawn = _dots_of_pairs(
            points, x, y, colour, [_tip("x", "before"), _tip("y", "after"), _tip("change", "change")]
        )
    line = (
        alt.Chart()
        .mark_rule(color=theme.SOFT, strokeDash=[4, 3])
        .encode(x=alt.datum(low), x2=alt.datum(high), y=alt.datum(low), y2=alt.datum(high))
        .transform_aggregate(pairs="count()")
    )
    layered = alt.layer(drawn, line, data=drawn.data).properties(height=260)
    return panels(layered, by="side", order=[*sides], most=2, narrow=narrow)


def moves(changes: Mapping[str, Vector]) -> alt.TopLevelMixin:
    """How far the log-probabilities moved: counts of pairs, as steps, for chosen and rejected responses."""
    return _histogram(changes, "after minus before (nats)", zero=True)


def divergences(found: Mapping[str, Vector]) -> alt.TopLevelMixin:
    """KL(after ‖ before) of the next token: counts of pairs, for chosen and rejected responses."""
    return _histogram(found, "KL(after ‖ before) a token (nats)", zero=False)


def _histogram(columns: Mapping[str, Vector], title: str, *, zero: bool) -> alt.TopLevelMixin:
    low, high = _range(np.concatenate([*columns.values()]))
    rows = []
    for what, values in columns.items():
        counts, edges = np.histogram(np.clip(values, low, high), bins=BINS, range=(low, high))
        rows += [
            {"what": what, "from": left, "to": right, "pairs": count}
            for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
    bars = (
        alt.Chart(_data(rows))
        .mark_rect(opacity=0.5)
        .encode(
            x=alt.X(
                "from:Q",
                title=title,
                scale=alt.Scale(domain=[low, high], nice=False),
                axis=alt.Axis(grid=False, tickCount=10, **number_format(low, high)),
            ),
            x2="to:Q",
            y=alt.Y("pairs:Q", title="pairs", axis=alt.Axis(**WHOLE)),
            y2=alt.Y2Datum(0),
            color=alt.Color("what:N", title=None, scale=_scale(columns)),
            tooltip=["what:N", _tip("from", "from"), _tip("to", "to"), alt.Tooltip("pairs:Q", format=",")],
        )
    )
    rule = alt.Chart(_data([{}])).mark_rule(color=theme.SOFT).encode(x=alt.datum(0))
    return alt.layer(bars, *([rule] if zero and low < 0 < high else [])).properties(width="container", height=220)


def predicted(
    predictors: Mapping[str, Vector], change: Vector, rows: NDArray[np.int64], *, narrow: bool = False, seed: int = 0
) -> alt.TopLevelMixin:
    """Realised change of the chosen response against each predictor's ranking, a panel a predictor.

    Ranks, since what is claimed and what is tested is an order: on the left the pairs that the predictor holds safest.
    The line joins the medians of ten equal groups.

    Args:
        predictors: by name; values that rise where the response is said to fall, NaN where a pair has none.
        change: after minus before, in nats.
        rows: the pairs' rows, for the tooltip.
        narrow: for a phone.
        seed: of the sample that is drawn where the pairs are many.
    """
    low, high = _range(change)
    most = max(POINTS // len(predictors), 100)
    points, medians = [], []
    for name, values in predictors.items():
        known = np.flatnonzero(np.isfinite(values))
        rank = ranks(values[known])
        shown = _sample(len(known), most, seed)
        points += [
            {"score": name, "row": int(row), "x": at, "y": min(max(moved, low), high), "change": moved}
            for at, row, moved in zip(
                rank[shown].tolist(), rows[known[shown]], change[known[shown]].tolist(), strict=True
            )
        ]
        medians += [{"score": name, **group} for group in group_medians(rank, change[known])]
    x = alt.X(
        "x:Q",
        title="predicted to fall: rank",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", values=[0, 0.5, 1], grid=False),
    )
    scale, axis = alt.Scale(domain=[low, high], nice=False), alt.Axis(**number_format(low, high))
    y = alt.Y("y:Q", title="what happened (nats)", scale=scale, axis=axis)
    dots = (
        alt.Chart()
        .mark_point(filled=True, size=40 if len(change) < 200 else 18, opacity=0.55, color=theme.CHOSEN)
        .encode(x=x, y=y, tooltip=["row:Q", alt.Tooltip("x:Q", title="rank", format=".0%"), _tip("change", "change")])
        .transform_filter("!datum.median")
    )
    line = (
        alt.Chart()
        .mark_line(color=theme.FOURTH, strokeWidth=2.5, point=alt.OverlayMarkDef(size=24, color=theme.FOURTH))
        .encode(x=x, y=y)
        .transform_filter("datum.median")
    )
    zero = alt.Chart().mark_rule(color=theme.SOFT).encode(y=alt.datum(0)).transform_aggregate(pairs="count()")
    data = _data([*points, *({**group, "median": True} for group in medians)])
    return panels(
        alt.layer(dots, zero, line, data=data).properties(height=190),
        by="score",
        order=[*predictors],
        narrow=narrow,
        most=4,
    )


def calibration(
    points: Mapping[str, tuple[Vector, Vector]],
    bins: Mapping[str, Sequence[Row]],
    rows: NDArray[np.int64],
    *,
    narrow: bool = False,
) -> alt.TopLevelMixin:
    """What happened against what a forecast foretold, both in nats: a panel for each side, on a scale of its own.

    Args:
        points: by side, the change foretold (NaN where none was) and the one that happened; of none where the single
            pairs' are not known any more.
        bins: by side, means of groups of pairs: ``forecast``, ``realised``, ``pairs`` and ``displaced``.
        rows: the pairs' rows, for the tooltip.
        narrow: for a phone.
    """
    none, colours = np.array([]), _scale(bins)
    drawn = [_foretold(side, points.get(side, (none, none)), groups, rows, colours) for side, groups in bins.items()]
    return beside(drawn, narrow=narrow, left=LEFT)


def _foretold(
    side: str, points: tuple[Vector, Vector], groups: Sequence[Row], rows: NDArray[np.int64], colours: alt.Scale
) -> Any:
    known = np.flatnonzero(np.isfinite(points[0]))
    foretold, fact = (values[known] for values in points)
    means = np.array([[one["forecast"], one["realised"]] for one in groups])
    low, high = _range(np.concatenate([foretold, fact, means.ravel()]))
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    axis = alt.Axis(tickCount=5, grid=False, **number_format(low, high))
    x = alt.X("x:Q", title="foretold (nats)", scale=scale, axis=axis)
    y = alt.Y("y:Q", title="what happened (nats)", scale=scale, axis=axis)
    colour = alt.Color("side:N", legend=None, scale=colours)
    layers = []
    if len(known) > POINTS:
        cells = [{"side": side, **cell} for cell in heat(foretold, fact, (low, high), (low, high))]
        layers.append(_heat(cells, x, y, "foretold", "happened", colour))
    elif len(known):
        dots = [
            {"side": side, "row": int(row), "x": said, "y": moved}
            for row, said, moved in zip(rows[known], foretold.tolist(), fact.tolist(), strict=True)
        ]
        layers.append(_dots_of_pairs(dots, x, y, colour, [_tip("x", "foretold"), _tip("y", "happened")]))
    if low < 0 < high:
        zero = alt.Chart(_data([{}])).mark_rule(color=theme.LINE)
        layers = [zero.encode(x=alt.datum(0)), zero.encode(y=alt.datum(0)), *layers]
    diagonal = alt.Chart(_data([{}])).mark_rule(color=theme.SOFT, strokeDash=[4, 3])
    layers.append(diagonal.encode(x=alt.datum(low), x2=alt.datum(high), y=alt.datum(low), y2=alt.datum(high)))
    shares = [alt.Tooltip(f"{name}:Q", title=title, format=".0%") for name, title in _FELL.items()]
    data = [
        {
            "x": one["forecast"],
            "y": one["realised"],
            "pairs": one["pairs"],
            **{name: one["displaced"][name] for name in _FELL},
        }
        for one in groups
    ]
    line = (
        alt.Chart(_data(data))
        .mark_line(color=theme.FOURTH, strokeWidth=2.5, point=alt.OverlayMarkDef(size=50, color=theme.FOURTH))
        .encode(x=x, y=y, tooltip=["pairs:Q", _tip("x", "foretold"), _tip("y", "happened"), *shares])
    )
    return alt.layer(*layers, line).properties(height=280, title=alt.TitleParams(side, frame="group", fontSize=12))


def skill(found: Sequence[Row], *, narrow: bool = False) -> alt.TopLevelMixin:
    """Each predictor's rank correlation and area under the curve, with their 95% intervals; guessing is marked.

    Args:
        found: ``score``, whether it is a ``baseline``, and ``value``, ``low`` and ``high`` of ``spearman`` and ``auc``.
        narrow: for a phone.
    """
    order = [row["score"] for row in found]
    wanted = (("spearman", "Spearman correlation", [-1.0, 1.0], 0.0), ("auc", "AUC of displaced", [0.0, 1.0], 0.5))
    known = [one for one in wanted if any(row[one[0]]["value"] is not None for row in found)]
    return beside([_dots(found, order, *one) for one in known or wanted[:1]], narrow=narrow, left=130)


def _dots(found: Sequence[Row], order: list[str], name: str, title: str, domain: list[float], guess: float) -> Any:
    rows = [{"score": row["score"], "plain": bool(row.get("baseline")), **row[name]} for row in found]
    colour = alt.Color(
        "plain:N", legend=None, scale=alt.Scale(domain=[False, True], range=[theme.CHOSEN, theme.MARGIN])
    )
    x = alt.X("value:Q", title=title, scale=alt.Scale(domain=domain), axis=alt.Axis(tickCount=5))
    y = alt.Y("score:N", title=None, sort=order, axis=alt.Axis(labelLimit=120, minExtent=115, maxExtent=115))
    tips = [alt.Tooltip("score:N"), _tip("value", title), _tip("low", "95% from"), _tip("high", "to")]
    base = alt.Chart(_data(rows)).encode(y=y, color=colour, tooltip=tips)
    guessing = alt.Chart(_data([{}])).mark_rule(color=theme.SOFT, strokeDash=[4, 3]).encode(x=alt.datum(guess))
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    return alt.layer(guessing, bars, base.mark_point(filled=True, size=70).encode(x=x)).properties(
        height=28 * len(found)
    )


def gained(tokens: Sequence[Row]) -> alt.TopLevelMixin:
    """The tokens whose probability rose most where the responses part, on average over the pairs.

    Args:
        tokens: ``token`` as text to show, each another one, ``mean_increase`` and ``pairs_in_top``.
    """
    order = [row["token"] for row in tokens]
    axis = alt.Axis(**number_format(0, max(row["mean_increase"] for row in tokens)))
    chart: alt.TopLevelMixin = (
        alt.Chart(_data(tokens))
        .mark_bar(color=theme.FOURTH)
        .encode(
            x=alt.X("mean_increase:Q", title="mean increase of probability", axis=axis),
            y=alt.Y("token:N", title=None, sort=order, axis=alt.Axis(labelLimit=160, labelFont="monospace")),
            tooltip=["token:N", _tip("mean_increase", "mean increase"), alt.Tooltip("pairs_in_top:Q", title="pairs")],
        )
        .properties(width="container", height=22 * len(tokens))
    )
    return chart


def heat(x: Vector, y: Vector, wide: tuple[float, float], high: tuple[float, float]) -> list[dict[str, float]]:
    """Counts of pairs on a grid, the empty cells left out; what lies outside counts in the outermost cells."""
    counts, right, up = np.histogram2d(np.clip(x, *wide), np.clip(y, *high), bins=CELLS, range=[wide, high])
    return [
        {
            "x": float(right[i]),
            "x2": float(right[i + 1]),
            "y": float(up[j]),
            "y2": float(up[j + 1]),
            "pairs": int(counts[i, j]),
        }
        for i, j in np.argwhere(counts > 0).tolist()
    ]


def ranks(values: Vector) -> Vector:
    """Ranks from 0, the lowest, to 1, the highest; equal values have their mean rank."""
    if len(values) < 2:
        return np.full(len(values), 0.5)
    group, sizes = np.unique(values, return_inverse=True, return_counts=True)[1:]
    middle: Vector = (np.cumsum(sizes) - (sizes + 1) / 2)[group] / (len(values) - 1)
    return middle


def group_medians(rank: Vector, change: Vector, groups: int = 10) -> list[dict[str, float]]:
    """Medians of equal groups by rank; none where the groups would have fewer than five pairs."""
    if len(rank) < 5 * groups:
        return []
    parts = equal_groups(rank, most=groups)
    return [{"x": float(rank[part].mean()), "y": float(np.median(change[part]))} for part in parts]


def _dots_of_pairs(
    points: Sequence[Row], x: alt.X, y: alt.Y, colour: alt.Color, tips: Sequence[alt.Tooltip]
) -> alt.Chart:
    """A point a response, smaller where there are many of a side."""
    sides = {point["side"] for point in points}
    chart: alt.Chart = (
        alt.Chart(_data(points))
        .mark_point(filled=True, size=44 if len(points) < 200 * len(sides) else 22, opacity=0.6)
        .encode(x=x, y=y, color=colour, tooltip=["row:Q", *tips])
    )
    return chart


def _heat(cells: Sequence[Row], x: alt.X, y: alt.Y, across: str, up: str, colour: alt.Color) -> alt.Chart:
    """Counts as how solid a cell is: the colour stays that of the side, in light and in dark."""
    tips = [_tip("x", f"{across} from"), _tip("x2", "to"), _tip("y", f"{up} from"), _tip("y2", "to")]
    solid = alt.Opacity("pairs:Q", legend=None, scale=alt.Scale(type="log", range=[0.12, 1]))
    chart: alt.Chart = (
        alt.Chart(_data(cells))
        .mark_rect()
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=colour,
            opacity=solid,
            tooltip=[*tips, alt.Tooltip("pairs:Q", format=",")],
        )
    )
    return chart


def _sample(count: int, most: int, seed: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, most, replace=False).tolist())


def _range(values: Vector) -> tuple[float, float]:
    """What an axis shows: all of few values, and of many all but the outermost."""
    if len(values) > POINTS:
        low, high = (float(edge) for edge in np.quantile(values, [OUTER, 1 - OUTER]))
    else:
        low, high = float(values.min()), float(values.max())
    if high - low <= _EQUAL * max(abs(low), abs(high)):
        return low - 0.5, high + 0.5
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def _scale(names: Iterable[str]) -> alt.Scale:
    return alt.Scale(domain=[*names], range=[COLOURS[name] for name in names])


def _data(rows: Sequence[Row]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _tip(name: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(f"{name}:Q", title=title, format=".4~g")

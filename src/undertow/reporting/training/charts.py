"""Charts of training runs: where the log-probabilities of the probe set went, step by step.

Each function takes looks at the probe set (rows of ``tracking.parquet``, already thinned) and returns a chart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from undertow.reporting.page import theme
from undertow.reporting.page.panels import panels, stacked
from undertow.reporting.page.ticks import SIGNED, WHOLE

Row = Mapping[str, Any]

CHANGES = {"chosen_change": "chosen", "rejected_change": "rejected", "margin_change": "margin"}
LEVELS = {"chosen_logp": "chosen", "rejected_logp": "rejected"}
COLOURS = {
    "chosen": theme.CHOSEN,
    "rejected": theme.REJECTED,
    "margin": theme.MARGIN,
    "chosen with rejected": theme.MARGIN,
}
DASHES = {"chosen": [1, 0], "rejected": [6, 3], "margin": [2, 2], "chosen with rejected": [2, 2]}
LIVE = "live"
"""The data of a chart that its page draws anew."""
FORECAST = "forecast/"
"""Before the names of tracked values: what a forecast says of them."""
DOTTED = 30
"""More looks than this are drawn without a dot each."""
LABELLED = 12
"""More guards' marks than this stand without their numbers: these would cover each other."""
CHANGE = "change since step 0 (nats)"
STROKES = alt.Legend(symbolType="stroke", symbolSize=300, symbolStrokeWidth=2.5)
Y = alt.Y("value:Q")
STEP = alt.Axis(grid=False, **WHOLE)


def course(looks: Sequence[Row], marks: Sequence[Row] = (), *, narrow: bool = False) -> alt.TopLevelMixin:
    """Changes of chosen, rejected and margin over steps; the displaced share below, on the same steps.

    Args:
        looks: the history.
        marks: where guards fired: ``step``, ``number`` and ``what``.
        narrow: for a phone.
    """
    above = _lines(looks, CHANGES, CHANGE).encode(x=_step(labelled=False)).properties(height=260)
    foretold = [row for row in looks if row.get(f"{FORECAST}chosen_change") is not None]
    below = (
        alt.Chart(_data([{"step": row["step"], "share": row["displaced"]} for row in looks]))
        .mark_area(line={"color": theme.FOURTH}, color=theme.FOURTH, opacity=0.25, point=len(looks) < 3)
        .encode(
            x=_step(),
            y=alt.Y("share:Q", title="displaced", scale=alt.Scale(domain=[0, 1]), axis=_axis(format="%", tickCount=3)),
            tooltip=[_tip("step", "step", "d"), _tip("share", "displaced", ".1%")],
        )
        .properties(height=90)
    )
    layers = [
        alt.layer(_zero(), *_foretold(foretold, labelled=False), above, *_marks(marks, labelled=False)),
        alt.layer(below, *_foretold_share(foretold), *_marks(marks, numbered=False)),
    ]
    return stacked(layers, narrow=narrow)


def live(looks: Sequence[Row]) -> alt.TopLevelMixin:
    """Changes over steps, wide and pale as they stand here; on them lines that the page draws anew, whose data are
    called :data:`LIVE`: ``step``, ``what`` and ``value``.

    Args:
        looks: the history.
    """
    lines = _lines(looks, CHANGES, CHANGE)
    lines.data.name = LIVE
    below = _foretold([{"step": row["step"]} | {f"{FORECAST}{name}": row[name] for name in CHANGES} for row in looks])
    return alt.layer(_zero(), *below, lines).properties(width="container", height=260)


def _foretold(looks: Sequence[Row], *, labelled: bool = True) -> list[alt.Chart]:
    """The forecast's lines, wide and pale, so that the run's own lie on them where it is right."""
    if not looks:
        return []
    rows = _long(looks, {f"{FORECAST}{name}": what for name, what in CHANGES.items()})
    domain = [*CHANGES.values()]
    scale = alt.Scale(domain=domain, range=[COLOURS[name] for name in domain])
    return [
        alt.Chart(_data(rows))
        .mark_line(strokeWidth=9, opacity=0.25, strokeCap="round")
        .encode(
            x=_step(labelled=labelled),
            y=Y,
            color=alt.Color("what:N", title=None, scale=scale, legend=STROKES),
            tooltip=[_tip("what", "forecast", None), _tip("step", "step", "d"), _tip("value", CHANGE, ",.3f")],
        )
    ]


def _foretold_share(looks: Sequence[Row]) -> list[alt.Chart]:
    """The share that is foretold, where one is."""
    rows = [{"step": row["step"], "share": row[f"{FORECAST}displaced"]} for row in looks if _told(row)]
    if not rows:
        return []
    return [
        alt.Chart(_data(rows))
        .mark_line(color=theme.SOFT, strokeWidth=2, strokeDash=[4, 3])
        .encode(
            x=_step(),
            y=alt.Y("share:Q"),
            tooltip=[_tip("step", "step", "d"), _tip("share", "displaced, by the forecast", ".1%")],
        )
    ]


def _told(row: Row) -> bool:
    return row.get(f"{FORECAST}displaced") is not None


def levels(looks: Sequence[Row], fall: tuple[Row, Row] | None = None) -> alt.TopLevelMixin:
    """Mean log-probabilities themselves, with the largest decrease of the chosen one between two looks marked."""
    lines = _lines(looks, LEVELS, "mean ln π(y|x) (nats)")
    if fall is None:
        return lines.properties(width="container", height=220)
    (start, high), (end, low) = ((row["step"], row["chosen_logp"]) for row in fall)
    place = alt.Chart(_data([{"step": start, "end": end, "value": high, "low": low, "says": f"−{high - low:,.1f}"}]))
    level = place.mark_rule(color=theme.FOURTH, strokeDash=[2, 3], strokeWidth=1.5).encode(x=_step(), x2="end:Q", y=Y)
    drop = place.mark_rule(color=theme.FOURTH, strokeWidth=3).encode(x=alt.X("end:Q"), y=Y, y2="low:Q")
    text = place.mark_text(color=theme.FOURTH, align="right", dx=-8, dy=-9, fontWeight="bold").encode(
        x=alt.X("end:Q"), y=Y, text="says:N"
    )
    return alt.layer(lines, level, drop, text).properties(width="container", height=220)


def several(looks: Sequence[Row], names: Mapping[str, str], title: str) -> alt.TopLevelMixin:
    """Tracked columns as lines of different colours, such as watched groups of words.

    Args:
        looks: the history.
        names: columns, and what each is called in the legend.
        title: of the y-axis, whose values are changes.
    """
    rows = _long(looks, names)
    chart = (
        alt.Chart(_data(rows))
        .mark_line(strokeWidth=2.5, point=alt.OverlayMarkDef(size=24) if len(looks) <= DOTTED else False)
        .encode(
            x=_step(),
            y=alt.Y("value:Q", title=title, axis=_axis(format=SIGNED)),
            color=alt.Color("what:N", title=None, scale=_colours(names.values()), legend=STROKES),
            strokeDash=alt.StrokeDash("what:N", title=None, scale=alt.Scale(domain=[*names.values()]), legend=STROKES),
            tooltip=[_tip("what", "", None), _tip("step", "step", "d"), _tip("value", title, "+.4~g")],
        )
    )
    return alt.layer(_zero(), chart).properties(width="container", height=220)


def shares(looks: Sequence[Row], names: Mapping[str, str], colours: Mapping[str, str], title: str) -> alt.TopLevelMixin:
    """Shares that add up to one, such as those of the cases, on each other; ``colours`` by the names shown."""
    scale = alt.Scale(domain=[*names.values()], range=[colours[name] for name in names.values()])
    chart: alt.Chart = (
        alt.Chart(_data(_long(looks, names)))
        .mark_area(opacity=0.85)
        .encode(
            x=_step(),
            y=alt.Y("value:Q", title=title, stack="normalize", axis=_axis(format="%")),
            color=alt.Color("what:N", title=None, scale=scale, legend=alt.Legend(columns=2)),
            order=alt.Order("place:O"),
            tooltip=[_tip("what", "", None), _tip("step", "step", "d"), _tip("value", title, ".1%")],
        )
        .properties(width="container", height=200)
    )
    return chart


def gradients(looks: Sequence[Row], prefix: str = "") -> alt.TopLevelMixin:
    """Mean inner products of the probe pairs' gradients: chosen and rejected with themselves, and with each other;
    ``prefix``: of the columns' names."""
    parts = {"chosen": "chosen", "cross": "chosen with rejected", "rejected": "rejected"}
    names = {f"{prefix}gradient/{part}": shown for part, shown in parts.items()}
    rows = _long(looks, names)
    lines = _lines_of(
        alt.Chart(_data(rows)), names.values(), "mean inner product", dots=len(looks) <= DOTTED, form=",.4~g"
    )
    return alt.layer(_zero(), lines).properties(width="container", height=220)


def logged(log: Sequence[Row], name: str, title: str) -> alt.TopLevelMixin:
    """One value that the trainer logged, such as the loss."""
    rows = [{"step": row["step"], "value": row[name]} for row in log if row.get(name) is not None]
    chart: alt.Chart = (
        alt.Chart(_data(rows))
        .mark_line(
            color=theme.MARGIN, point=alt.OverlayMarkDef(size=24, color=theme.MARGIN) if len(rows) < 30 else False
        )
        .encode(
            x=_step(),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=_axis()),
            tooltip=[_tip("step", "step", "d"), _tip("value", title, ".4f")],
        )
        .properties(width="container", height=180)
    )
    return chart


def rewards(log: Sequence[Row]) -> alt.TopLevelMixin:
    """The implicit rewards that the trainer logged."""
    names = {"rewards/chosen": "chosen", "rewards/rejected": "rejected", "rewards/margins": "margin"}
    known = [row for row in log if all(row.get(name) is not None for name in names)]
    lines = _lines(known, names, "implicit reward")
    return alt.layer(_zero(), lines).properties(width="container", height=180)


def small_multiples(runs: Mapping[str, Sequence[Row]], *, narrow: bool = False) -> alt.TopLevelMixin:
    """One panel a run on the same axes: changes of the chosen and of the rejected log-probability.

    The comparison of Yuan et al. 2024, Figure 2, where both lines fall together under one loss and part under another.
    """
    names = {name: CHANGES[name] for name in ("chosen_change", "rejected_change")}
    rows = [{"run": run, **row} for run, looks in runs.items() for row in _long(looks, names)]
    dots = all(len(looks) <= DOTTED for looks in runs.values())
    lines = _lines_of(alt.Chart(), names.values(), CHANGE, dots=dots)
    # One line a panel, not one on another for every look.
    zero = alt.Chart().mark_rule(color=theme.SOFT).encode(y=alt.datum(0)).transform_aggregate(looks="count()")
    layered = alt.layer(zero, lines, data=_data(rows)).properties(height=200)
    return panels(layered, by="run", order=[*runs], narrow=narrow)


def _lines(looks: Sequence[Row], names: Mapping[str, str], title: str) -> alt.Chart:
    return _lines_of(alt.Chart(_data(_long(looks, names))), names.values(), title, dots=len(looks) <= DOTTED)


def _lines_of(chart: alt.Chart, names: Iterable[str], title: str, *, dots: bool, form: str = ",.3f") -> alt.Chart:
    """Chosen, rejected and margin: told apart by colour and by dashes."""
    domain = list(names)
    colours, dashes = ([table[name] for name in domain] for table in (COLOURS, DASHES))
    lines: alt.Chart = chart.mark_line(strokeWidth=2.5, point=alt.OverlayMarkDef(size=24) if dots else False).encode(
        x=_step(),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=_axis()),
        color=alt.Color("what:N", title=None, scale=alt.Scale(domain=domain, range=colours), legend=STROKES),
        strokeDash=alt.StrokeDash("what:N", title=None, scale=alt.Scale(domain=domain, range=dashes), legend=STROKES),
        tooltip=[_tip("what", "", None), _tip("step", "step", "d"), _tip("value", title, form)],
    )
    return lines


def _marks(marks: Sequence[Row], *, numbered: bool = True, labelled: bool = True) -> list[alt.Chart]:
    if not marks:
        return []
    base = alt.Chart(_data(marks)).encode(
        x=_step(labelled=labelled), tooltip=[_tip("step", "step", "d"), _tip("what", "guard", None)]
    )
    rules = base.mark_rule(color=theme.SOFT, strokeDash=[3, 3], strokeWidth=1.5)
    if not numbered or len(marks) > LABELLED:
        return [rules]
    return [
        rules,
        base.mark_text(dx=7, dy=6, align="left", fontWeight="bold", color=theme.SOFT).encode(
            y=alt.value(0), text="number:N"
        ),
    ]


def _zero() -> alt.Chart:
    rule: alt.Chart = alt.Chart(_data([{}])).mark_rule(color=theme.SOFT, strokeWidth=1).encode(y=alt.datum(0))
    return rule


def _long(looks: Sequence[Row], names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"step": row["step"], "what": what, "value": row.get(name), "place": place}
        for place, (name, what) in enumerate(names.items())
        for row in looks
    ]


def _data(rows: Sequence[Row]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _step(*, labelled: bool = True) -> alt.X:
    axis = STEP if labelled else alt.Axis(labels=False, ticks=False, grid=False)
    return alt.X("step:Q", title="step" if labelled else None, axis=axis, scale=alt.Scale(nice=False))


def _axis(**options: Any) -> alt.Axis:
    # One width for every y-axis, so that charts above each other have their steps above each other.
    return alt.Axis(minExtent=44, maxExtent=44, **options)


def _colours(names: Iterable[str]) -> alt.Scale:
    domain = list(names)
    return alt.Scale(domain=domain, range=[theme.LINES[n % len(theme.LINES)] for n in range(len(domain))])


def _tip(name: str, title: str, form: str | None) -> alt.Tooltip:
    if form is None:
        return alt.Tooltip(f"{name}:N", title=title or name)
    return alt.Tooltip(f"{name}:Q", title=title or name, format=form)

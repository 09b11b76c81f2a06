"""Charts of several panels, in a wide and in a narrow form: such a chart cannot adapt its width by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

WIDE, NARROW = 1000, 320
"""Pixels of a whole chart: on a desk, and on a phone. What is between is scaled by the page."""
LEFT, GAP = 62, 22
"""Pixels left of the first panel, for its axis, and between two."""


def total(narrow: bool) -> int:
    """The width of a whole chart."""
    return NARROW if narrow else WIDE


def stacked(charts: Sequence[Any], *, narrow: bool) -> alt.VConcatChart:
    """Charts above each other, with one x-axis."""
    wide = [chart.properties(width=total(narrow) - LEFT) for chart in charts]
    one: alt.VConcatChart = alt.vconcat(*wide, spacing=14)
    resolved: alt.VConcatChart = one.resolve_scale(x="shared", color="independent", strokeDash="independent")
    return resolved


def panels(chart: Any, *, by: str, order: Sequence[str], narrow: bool, most: int = 3) -> alt.FacetChart:
    """One panel for every value of a field, on the same axes.

    Args:
        chart: drawn once a value.
        by: the field.
        order: its values, in the panels' order.
        narrow: one below the other.
        most: panels in a row, in the wide form.
    """
    rows = -(-len(order) // most)
    columns = 1 if narrow else max(-(-len(order) // rows), 2)  # rows as equally full as they can be
    header = alt.Header(title=None, labelAnchor="start", labelLimit=280)
    facet = alt.Facet(f"{by}:N", sort=[*order], header=header)
    width = (total(narrow) - LEFT) // columns - GAP
    faceted: alt.FacetChart = chart.properties(width=width).facet(facet=facet, columns=columns, spacing=GAP)
    return faceted


def beside(charts: Sequence[Any], *, narrow: bool, left: int) -> alt.ConcatChart:
    """Charts beside each other, or below each other when narrow; ``left``: pixels of each one's axis."""
    columns = 1 if narrow else len(charts)
    width = total(narrow) // columns - left - GAP
    return alt.concat(*[chart.properties(width=width) for chart in charts], columns=columns, spacing=GAP)

"""No axis of a chart has two labels that read the same, whatever range the numbers have."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pytest

from axes import axis_labels, repeated
from undertow.reporting.comparison import charts as comparison
from undertow.reporting.training import charts as training

ROWS = np.arange(30)


def test_repeated_labels_are_found() -> None:
    """The reader of labels sees what it is there for: a fixed number of decimals over a small range."""
    rows = alt.InlineData(values=[{"x": 0.0}, {"x": 1e-6}])
    chart = alt.Chart(rows).mark_point().encode(x=alt.X("x:Q", axis=alt.Axis(format="+.3f")))
    assert axis_labels(chart)[0].count("+0.000") > 1
    assert repeated(chart)


def comparison_charts(size: float) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    sides = {side: size * draw.normal(size=30) for side in ("chosen", "rejected")}
    tokens = [{"token": f"“{n}”", "mean_increase": size * (n + 1), "pairs_in_top": 1} for n in range(3)]
    return {
        "before-after": comparison.before_after({side: (x, x[::-1]) for side, x in sides.items()}, ROWS),
        "moves": comparison.moves(sides),
        "divergences": comparison.divergences({side: np.abs(x) for side, x in sides.items()}),
        "predicted": comparison.predicted({"ln_ches": draw.normal(size=30)}, sides["chosen"], ROWS),
        "gained": comparison.gained(tokens),
    }


@pytest.mark.parametrize("size", [1e3, 1.0, 1e-3, 1e-9, 1e-20])
def test_axes_of_a_comparison(size: float) -> None:
    for name, chart in comparison_charts(size).items():
        assert axis_labels(chart), name
        assert repeated(chart) == [], name


def test_changes_that_are_all_but_one_are_drawn() -> None:
    """Rounding noise around one number is one bar, not an error."""
    values = -300 + 1e-13 * np.arange(30.0)
    assert repeated(comparison.moves({"chosen": values, "rejected": values})) == []


def test_one_pair_is_counted_in_whole_numbers() -> None:
    for labels in axis_labels(comparison.moves({"chosen": np.array([1.0]), "rejected": np.array([2.0])})):
        assert len(set(labels)) == len(labels)


def training_charts(size: float, looks: int) -> dict[str, Any]:
    names = ("chosen_change", "rejected_change", "margin_change", "chosen_logp", "rejected_logp", "loss", "watch")
    rows = [
        {"step": n, "displaced": 0.5, **{name: size * n * (1 + k) for k, name in enumerate(names)}}
        for n in range(looks)
    ]
    return {
        "course": training.course(rows),
        "levels": training.levels(rows),
        "several": training.several(rows, {"watch": "a group"}, "probability gained"),
        "logged": training.logged(rows, "loss", "loss"),
        "runs": training.small_multiples({"one": rows, "two": rows}),
    }


@pytest.mark.parametrize("looks", [1, 2, 4, 40])
@pytest.mark.parametrize("size", [1e3, 1e-3, 1e-9])
def test_axes_of_a_training_run(size: float, looks: int) -> None:
    for name, chart in training_charts(size, looks).items():
        assert repeated(chart) == [], name

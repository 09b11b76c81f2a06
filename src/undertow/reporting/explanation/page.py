"""The page of one pair: its tokens coloured by what moves them, its heat map, its layers, and who pulls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from undertow.errors import OptionError
from undertow.explaining.explanation import Explanation, Foretold, Influence, Side
from undertow.files import write_atomically
from undertow.reporting.page import theme
from undertow.reporting.page.shell import Figure, render
from undertow.runs.targets import Input, Target, check_targets
from undertow.wording import explanation as words
from undertow.wording.names import CASE_LABELS, data_name
from undertow.wording.numbers import nats_of
from undertow.wording.visible import cut, visible

__all__ = ["check_out", "explanation_html", "figures", "page_names", "write_explanations"]

LONGEST = 20_000
"""Characters of a text on the page."""
_DIGITS = 5
"""Of numbers in the heat map: more than a colour or a reader tells apart."""


def explanation_html(
    found: Explanation, *, home: tuple[str, str] | None = None, link: Callable[[int], str | None] | None = None
) -> str:
    """The page.

    Args:
        found: what is told.
        home: name and address of the page that the reader came from.
        link: where the page of another row is, if there is one.
    """
    told = found.foretold
    return render(
        "explanation.html.j2",
        title=f"{found.name}: why it goes where it goes",
        figures=figures(found),
        data=_data(found),
        other=home,
        eyebrow=_eyebrow(found),
        headline=words.headline(found),
        sentences=words.sentences(found),
        prompt=cut(visible(found.prompt), LONGEST),
        measures=_measures(found),
        numbers=words.numbers(found),
        parting=found.parting,
        shares=words.parting_sentence(found) if found.parting is not None else "",
        heat=words.heat_sentence(found.heat) if found.heat is not None else "",
        cases=words.case_rows(found),
        left_out=sorted(found.left_out.items()),
        foretold=told,
        influence=words.influence_sentence(told) if told is not None else "",
        influences=_influences(told, link) if told is not None else [],
        notes=found.notes,
        case_labels=CASE_LABELS,
    )


def figures(found: Explanation) -> tuple[Figure, ...]:
    """Its charts: layers, and when the named pairs act."""
    made = [_layers(found)]
    if found.foretold is not None and any(one.steps for one in _named(found.foretold)):
        made.append(_when(found.foretold))
    return tuple(made)


def page_names(found: Sequence[Explanation], out: Path) -> list[Path]:
    """The files of pages: ``out`` itself for one pair and a name that ends in .html; of several, names beside it that
    say the row; else names in the folder ``out``."""
    if out.suffix.lower() not in (".html", ".htm"):
        return [out / f"{one.name.replace(' ', '-')}.html" for one in found]
    if len(found) == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{one.name.replace(' ', '-')}{out.suffix}") for one in found]


def check_out(out: Path, inputs: Iterable[Input]) -> None:
    """Refuse a target that cannot or must not be written, before any work.

    Raises:
        OptionError: it is a file of the data, or stands in the way.
    """
    page = out.suffix.lower() in (".html", ".htm")
    if page and out.is_dir():
        raise OptionError(f"--out {out} is a folder; name a file, or a folder whose name does not end in .html.")
    if not page and out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; name one that ends in .html, or a folder.")
    check_targets([Target("--out", out, "file" if page else "folder")], inputs)


def write_explanations(found: Sequence[Explanation], out: Path, home: tuple[str, str] | None = None) -> list[Path]:
    """Write a page a pair, each linked to the others; returns the files.

    Raises:
        OutputError: one cannot be written.
    """
    paths = page_names(found, out)
    rows = {one.row: path.name for one, path in zip(found, paths, strict=True) if one.row is not None}
    for one, path in zip(found, paths, strict=True):
        page = explanation_html(one, home=home, link=rows.get)
        with write_atomically(path) as file:
            file.write(page.encode("utf-8"))
    return paths


def _eyebrow(found: Explanation) -> str:
    parts = [found.name, found.model, found.loss]
    return " · ".join([*parts, data_name(found.data)] if found.data else parts)


def _measures(found: Explanation) -> list[tuple[str, str, str]]:
    """What tokens can be coloured by: name, label, what it says; the last the most telling."""
    measures = [
        ("own", "own step", "a plain gradient step on this pair alone, per unit of the learning rate"),
        ("logps", "log-probability", "the log-probability at the start, in nats"),
    ]
    if found.chosen.trained is not None:
        measures.insert(0, ("trained", "own training", "this pair's own steps in the simulated run, in nats"))
    if found.chosen.looked is not None:
        measures.insert(0, ("looked", "end of the run", "the end of the simulated run less the start, in nats"))
    return measures


def _data(found: Explanation) -> dict[str, Any]:
    names = [name for name, _, _ in _measures(found)]
    heat = None
    if found.heat is not None:
        heat = {"level": found.heat.level, "values": _rounded(found.heat.products.values.numpy())}
    return {
        "sides": [_side(side, names) for side in (found.chosen, found.rejected)],
        "measures": [{"name": name, "label": label, "says": says} for name, label, says in _measures(found)],
        "heat": heat,
    }


def _side(side: Side, names: Sequence[str]) -> dict[str, Any]:
    return {"pieces": [visible(piece) for piece in side.pieces]} | {
        name: [float(value) for value in getattr(side, name)] for name in names
    }


def _rounded(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[list[float]]:
    return [[float(f"{value:.{_DIGITS}g}") for value in row] for row in values.tolist()]


def _named(told: Foretold) -> list[Influence]:
    return [*told.down, *told.up]


def _influences(told: Foretold, link: Callable[[int], str | None] | None) -> list[dict[str, Any]]:
    return [
        {
            "row": one.row,
            "nats": nats_of(one.nats),
            "falls": one.nats < 0,
            "steps": words.steps_of(one.steps),
            "prompt": cut(visible(one.prompt), 2000),
            "chosen": cut(visible(one.chosen), 4000),
            "rejected": cut(visible(one.rejected), 4000),
            "link": link(one.row) if link is not None else None,
        }
        for one in _named(told)
    ]


def _layers(found: Explanation) -> Figure:
    """The product of the two gradients by block, and by kind of weight."""
    names = {True: "attention", False: "feed-forward"}
    blocks: dict[tuple[str, str], float] = {}
    for layer in found.layers:
        kind = str(layer["kind"])
        attention, norm = "attn" in kind or "attention" in kind, "norm" in kind or "ln_" in kind
        group = "norms" if norm else "embeddings" if layer["block"] is None else names[attention]
        where = "outside" if layer["block"] is None else str(layer["block"])
        blocks[where, group] = blocks.get((where, group), 0.0) + float(layer["cross"])
    rows = [{"block": where, "kind": kind, "product": value} for (where, kind), value in blocks.items()]
    order = [*dict.fromkeys(where for where, _ in blocks if where != "outside"), "outside"]
    chart = (
        alt.Chart(alt.Data(values=rows))  # type: ignore[no-untyped-call]
        .mark_bar()
        .encode(
            x=alt.X("block:N", sort=order, title="block", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("product:Q", title="inner product of the two gradients"),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(
                    domain=["attention", "feed-forward", "norms", "embeddings"],
                    range=[theme.CHOSEN, theme.THIRD, theme.FOURTH, theme.REVERSED],
                ),
            ),
            tooltip=["block:N", "kind:N", alt.Tooltip("product:Q", format=".4g")],
        )
        .properties(width="container", height=220)
    )
    table: list[Sequence[object]] = [["block", "kind", "chosen", "cross", "rejected"]] + [
        ["outside" if one["block"] is None else one["block"], one["kind"]]
        + [f"{float(one[part]):.4g}" for part in ("chosen", "cross", "rejected")]
        for one in found.layers
    ]
    return Figure("layers", "Where the two gradients meet", chart, words.layers_sentence(found), numbers=table)


def _when(told: Foretold) -> Figure:
    """When each named pair acts, and how much."""
    rows = [
        {"step": step, "nats": one.nats / len(one.steps), "row": one.row, "way": "down" if one.nats < 0 else "up"}
        for one in _named(told)
        for step in one.steps
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))  # type: ignore[no-untyped-call]
        .mark_point(size=70)
        .encode(
            x=alt.X(
                "step:Q",
                title="step of the run",
                scale=alt.Scale(domain=[1, max(told.steps, 2)]),
                axis=alt.Axis(tickMinStep=1, format="d"),
            ),
            y=alt.Y("nats:Q", title="nats it adds (shared over its steps)"),
            color=alt.Color(
                "way:N",
                title=None,
                scale=alt.Scale(domain=["down", "up"], range=[theme.FALLS, theme.RISES]),
            ),
            shape=alt.Shape(
                "way:N",
                title=None,
                scale=alt.Scale(domain=["down", "up"], range=["triangle-down", "triangle-up"]),
            ),
            tooltip=["row:Q", "step:Q", alt.Tooltip("nats:Q", format="+.3f")],
        )
        .properties(width="container", height=220)
    )
    table: list[Sequence[object]] = [
        ["row", "step", "nats"],
        *([row["row"], row["step"], f"{row['nats']:+.4f}"] for row in rows),
    ]
    return Figure("when", "When they act", chart, words.when_sentence(told), numbers=table)

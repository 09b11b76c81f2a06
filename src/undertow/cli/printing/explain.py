"""What ``undertow explain`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from undertow.cli.printing.common import print_report
from undertow.explaining.explanation import Explanation, Influence
from undertow.wording import explanation as words
from undertow.wording.numbers import signed_nats
from undertow.wording.visible import one_line, visible

__all__ = ["print_explanations", "record"]

_EXCERPT = 48
_SHOWN = 5


def print_explanations(found: Sequence[Explanation], pages: Sequence[Path]) -> None:
    """Each pair in a few sentences, the pairs that pull it, and where its page stands."""
    console = Console(highlight=False)
    for one, page in zip(found, pages, strict=True):
        console.print(f"\n{one.name}: {words.headline(one)}", markup=False, soft_wrap=True)
        for sentence in words.sentences(one):
            console.print(sentence, markup=False, soft_wrap=True)
        if one.foretold is not None:
            table = Table(box=None, pad_edge=False)
            for title in ("row", "nats", "when", "chosen"):
                table.add_column(title, justify="right" if title in ("row", "nats") else "left", no_wrap=True)
            for other in (*one.foretold.down[:_SHOWN], *one.foretold.up[:_SHOWN]):
                text = one_line(visible(other.chosen), _EXCERPT).replace("[", r"\[")
                table.add_row(str(other.row), signed_nats(other.nats), words.steps_of(other.steps), text)
            console.print(table)
        print_report(console, page)


def record(found: Sequence[Explanation], pages: Sequence[Path]) -> dict[str, Any]:
    """The machine-readable summary: what is told of each pair, but for texts and the heat map."""
    return {"pairs": [_pair(one, page) for one, page in zip(found, pages, strict=True)]}


def _pair(one: Explanation, page: Path) -> dict[str, Any]:
    told = one.foretold
    return {
        "row": one.row,
        "pair_id": one.pair_id,
        "page": visible(str(page)),
        "numbers": dict(one.numbers),
        "cases": {case.loss: case.case for case in one.cases},
        "looked": None if one.chosen.looked is None else float(one.chosen.looked.sum()),
        "foretold": None
        if told is None
        else {
            "own": told.own,
            "others": told.others,
            "stood_in": told.stood_in,
            "trained_at": list(told.trained_at),
            "down": [_influence(other) for other in told.down],
            "up": [_influence(other) for other in told.up],
        },
    }


def _influence(other: Influence) -> dict[str, Any]:
    return {"row": other.row, "pair_id": other.pair_id, "nats": other.nats, "steps": list(other.steps)}

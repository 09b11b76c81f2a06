"""What if the most displacing pairs were left out: how many of those that stay would still be displaced.

From a table alone. A pair counts as displaced when the first-order change of its chosen response's log-probability, for
a step on this pair, is below zero: leaving out other pairs changes neither that number nor its sign, so no further
forward pass is needed. The pull of the *other* pairs does change with the pairs that are left out; it would take a pass
over the data for every point of the curve, and is not part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pyarrow as pa

from undertow.errors import OptionError
from undertow.filtering.selection import Kind, Selector

End = Literal["highest", "lowest"]

PREDICTORS: dict[str, End] = {
    "dlogp_chosen": "lowest",
    "free_dlogp_chosen": "lowest",
    "ln_ches": "highest",
    "ches": "highest",
    "last_hidden_ip": "highest",
    "edit_distance": "lowest",
}
"""Scores that say which pairs displace, best first, and at which of their ends those pairs are."""

CHANGES = {"own": "dlogp_chosen", "free": "free_dlogp_chosen"}
SHARES = tuple(q / 100 for q in range(0, 51, 5))


def best_predictor(columns: Iterable[str]) -> str:
    """The score to rank pairs by, of those that a table has."""
    there = set(columns)
    return next(name for name in PREDICTORS if name in there)


def what_if(table: pa.Table, by: str, *, change: str = "dlogp_chosen", shares: Iterable[float] = SHARES) -> list[float]:
    """The predicted share of displaced pairs among those that stay, for every share left out.

    Args:
        table: scores of level ``unembedding``.
        by: the score to leave pairs out by: one of :data:`PREDICTORS`, whose displacing end goes first.
        change: the first-order change that decides, ``dlogp_chosen`` or ``free_dlogp_chosen``.
        shares: the shares of pairs left out, each in [0, 1].

    Returns:
        One number for every share, in [0, 1]; NaN where no pair stays. Pairs whose change is NaN count as pairs that
        stay, not as displaced.

    Raises:
        OptionError: a score that is no predictor, or a column that the table does not have.
    """
    if by not in PREDICTORS:
        raise OptionError(f"by={by!r}: expected one of {', '.join(PREDICTORS)}.")
    for column in (by, change):
        if column not in table.column_names:
            raise OptionError(f"these scores have no column {column}; it comes with --level unembedding.")
    scores, falls = table[by].to_numpy(), table[change].to_numpy() < 0
    kind: Kind = "drop-highest" if PREDICTORS[by] == "highest" else "drop-lowest"
    stays = [~Selector(kind, float(share)).drops(scores) for share in shares]
    return [float(falls[stay].mean()) if stay.any() else float("nan") for stay in stays]


def curves(table: pa.Table) -> dict[str, object]:
    """All curves of a table, for ``audit.json``."""
    found = {
        name: {by: what_if(table, by, change=change) for by in PREDICTORS if by in table.column_names}
        for name, change in CHANGES.items()
    }
    return {"shares": list(SHARES), **found}


def displaced(table: pa.Table) -> dict[str, int]:
    """How many chosen responses fall, to first order: by their own pair, also with free hidden embeddings, and, where
    the pull is known, under the whole data set."""
    counts = {name: int(np.sum(table[change].to_numpy() < 0)) for name, change in CHANGES.items()}
    if "pull_own" in table.column_names:
        counts["pull"] = int(np.sum(table["pull_own"].to_numpy() + table["pull_others"].to_numpy() < 0))
    return counts

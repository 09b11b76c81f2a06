"""Filtering before training in the same command: audit the pairs, leave some out, and record which."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa

from undertow.errors import OptionError
from undertow.files import write_atomically
from undertow.filtering.selection import KINDS, LINKS, Kind, Selector, judge, numeric_columns
from undertow.scoring.columns import COLUMNS, LEVELS, numbers_of
from undertow.scoring.levels import schema

if TYPE_CHECKING:
    from undertow.maths.losses import PairLoss
    from undertow.models.model import Model
    from undertow.runs.progress import Watcher
    from undertow.runs.token_file import TokenFile

RECORD = "filtered.jsonl"
_FORM = "expected 'SCORE SELECTOR AMOUNT', for example 'dlogp_chosen drop-lowest 10%'"
_KINDS = tuple(kind for kind in KINDS if kind not in LINKS)
_PART = 512


@dataclass(frozen=True, slots=True)
class Rule:
    """One filter: a score, and what is left out by it."""

    by: str
    selector: Selector

    @classmethod
    def parse(cls, text: str, scores: Sequence[str] | None = None) -> Rule:
        """What was typed after ``--filter``.

        Args:
            text: the rule.
            scores: the numeric columns there are; those that an audit while training begins can have, where None.

        Raises:
            OptionError: it is no such rule; the message shows one.
        """
        found = re.fullmatch(r"\s*(\S+)\s+(\S+)\s+(\S+)\s*", text)
        if not found or found[2] not in _KINDS:
            raise OptionError(f"--filter {text!r}: {_FORM}; selectors: {', '.join(_KINDS)}.")
        known = numeric_columns(schema(LEVELS[-1])) if scores is None else scores
        if found[1] not in known:
            why = _why_not(found[1]) if scores is None else f"there is no score {found[1]}"
            raise OptionError(f"--filter {text!r}: {why}; scores: {', '.join(known)}.")
        return cls(found[1], Selector.parse(cast(Kind, found[2]), found[3]))

    @property
    def level(self) -> str:
        """The cheapest level that has the score, and the cases where they are asked for."""
        wanted = {self.by} | ({"case"} if self.selector.kind == "drop-case" else set())
        return next(level for level in LEVELS if wanted <= set(schema(level).names))


def _why_not(name: str) -> str:
    """Why pairs cannot be left out by a column while training begins."""
    column = next((column for column in COLUMNS if column.name == name.partition(":")[0]), None)
    if column is None:
        return f"there is no score {name}"
    if column.option == "forecast":
        return f"{name} is a forecast's: use `undertow forecast`, then `undertow filter --scores`"
    if column.option:
        return f"{name} takes a pass over all data: use `undertow audit … --{column.option}`, then `undertow filter`"
    return f"{name} holds no numbers"


def left_out(table: pa.Table, rules: Sequence[Rule]) -> dict[int, str]:
    """The numbers of the pairs that rules leave out of a table of scores, each with the reason.

    Raises:
        OptionError: no pair stays.
    """
    reasons: dict[int, str] = {}
    cases = table["case"].to_numpy() if "case" in table.column_names else None
    for rule in rules:
        verdict = judge(numbers_of(table, rule.by), [rule.selector], by=rule.by, cases=cases)
        reasons |= {int(n): verdict.reason(int(n)) for n in np.flatnonzero(~verdict.keep)}
    if len(reasons) == len(table):
        raise OptionError(f"--filter: no pair stays of {len(table)}.")
    return reasons


def kept_pairs(
    spool: TokenFile,
    model: Model,
    loss: PairLoss,
    rules: list[Rule],
    folder: Path,
    watch: Watcher,
    *,
    reference: Model | None = None,
) -> list[int]:
    """The numbers of the pairs that stay, in the spool's order; ``filtered.jsonl`` says which go, and why.

    ``reference``: what the loss compares the model with; None: the model itself.

    Raises:
        OptionError: no pair stays.
    """
    from undertow.scoring.scorer import Scorer, score_parts  # torch: not to be waited for when a rule is refused

    level = max((rule.level for rule in rules), key=LEVELS.index)
    watch.phase("filtering", pairs=spool.pairs, tokens=spool.tokens)
    scorer = Scorer(level, model, loss, reference)
    table = pa.concat_tables(score_parts(spool, scorer, part_pairs=_PART, watch=watch))
    rows = table["row"].to_numpy()
    reasons = left_out(table, rules)
    drop = np.isin(np.arange(len(table)), list(reasons))
    with write_atomically(folder / RECORD) as file:
        for n in np.flatnonzero(drop):
            file.write(json.dumps({"row": int(rows[n]), "reason": reasons[int(n)]}).encode() + b"\n")
    watch.note(f"{int(drop.sum())} of {spool.pairs} pairs left out: {folder / RECORD}.")
    return [int(n) for n in np.flatnonzero(~drop)]

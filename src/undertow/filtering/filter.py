"""A new data set without some pairs: the rows of the input as they were, in their order.

The input is gone through twice: once as pairs, to match each with its score and decide; once as rows, to write those
that stay. Only the scores' columns and one byte a row are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from undertow.data.pairs import BadRow, Pair
from undertow.data.reading import Pairs, open_pairs
from undertow.errors import DataError, OptionError
from undertow.filtering.rewriting import Decision, check_target, write_decisions, write_rows
from undertow.filtering.selection import Selector, Verdict, judge, make_selectors
from undertow.scoring.shards import read_scores

LENGTHS = ("prompt_tokens", "chosen_tokens", "rejected_tokens")
UNSCORED = "has no score: the audit set it aside, or did not look at it"


@dataclass(frozen=True, slots=True)
class FilterSummary:
    """What a filter did. Rows are input rows; tokens are those of prompt, chosen and rejected of the scored pairs."""

    by: str
    rows: int
    kept: int
    dropped: int
    unscored: int
    kept_tokens: int
    dropped_tokens: int
    selectors: dict[str, int]


class Judged:
    """Scores with the verdict on each, found by input row."""

    def __init__(self, table: pa.Table, by: str, selectors: Sequence[Selector]) -> None:
        table = table.sort_by("row")
        self._rows = table["row"].to_numpy()
        self._ids = table["pair_id"]
        self.scores = _numbers(table, by)
        cases = table["case"].to_numpy() if "case" in table.column_names else None
        if cases is None and any(selector.kind == "drop-case" for selector in selectors):
            raise OptionError("--drop-case: these scores have no column `case`; it comes with --level unembedding.")
        self.verdict: Verdict = judge(self.scores, selectors, by=by, cases=cases)
        self.keep = self.verdict.keep
        tokens = sum((table[name].to_numpy().astype(np.int64) for name in LENGTHS), np.zeros(len(table), np.int64))
        self.kept_tokens = int(tokens[self.keep].sum())
        self.dropped_tokens = int(tokens.sum()) - self.kept_tokens

    def find(self, pair: Pair) -> int | None:
        """Where the pair's score stands, or None where it has none.

        Raises:
            DataError: the score at this row belongs to another pair.
        """
        index = int(np.searchsorted(self._rows, pair.row))
        if index == len(self._rows) or self._rows[index] != pair.row:
            return None
        if self._ids[index].as_py() != pair.pair_id:
            raise DataError(
                f"{pair.file}, line {pair.line} (row {pair.row}) is not the pair that was scored as row {pair.row}: "
                "these scores belong to other data. Audit this data first, or give the data that was audited."
            )
        return index


def filter_pairs(
    pairs: Pairs | Iterable[Pair],
    table: pa.Table,
    *,
    by: str = "ln_ches",
    drop_highest: float | int | None = None,
    drop_lowest: float | int | None = None,
    keep_highest: float | int | None = None,
    keep_lowest: float | int | None = None,
    drop_above: float | None = None,
    drop_below: float | None = None,
    drop_case: int | Sequence[int] | None = None,
) -> list[Pair]:
    """The pairs that stay, by their scores in a table that :func:`undertow.audit` made of them.

    ``highest`` and ``lowest`` take a share of the pairs as a float (``0.10``) or a number of pairs as an int. Several
    selectors may be given: a pair is dropped when any of them drops it, each judged over all pairs. A pair without a
    score is dropped.

    Raises:
        OptionError: no selector, one out of its range, or a column that is not there.
        DataError: the scores belong to other pairs.
    """
    selectors = make_selectors(
        {
            "drop-highest": drop_highest,
            "drop-lowest": drop_lowest,
            "keep-highest": keep_highest,
            "keep-lowest": keep_lowest,
            "drop-above": drop_above,
            "drop-below": drop_below,
            "drop-case": drop_case,
        }
    )
    judged = Judged(table, by, selectors)
    return [pair for pair in pairs if (index := judged.find(pair)) is not None and judged.keep[index]]


def filter_file(
    data: str | Path,
    scores: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    by: str,
    selectors: Sequence[Selector],
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    name: str | None = None,
    decisions: str | Path | None = None,
) -> FilterSummary:
    """Write the rows of a data set that stay, as ``undertow filter`` does.

    Raises:
        InputError: the data, the scores, the options or the output cannot be used.
    """
    judged = Judged(read_scores(scores), by, selectors)
    pairs = open_pairs(data, format=format, columns=columns, split=split, name=name, on_bad_row="skip")
    check_target(pairs.source, Path(out))
    kept = bytearray()  # one byte an input row: a pair's rows stay when the pair stays
    for row in (row for rows, keep, _ in _decided(pairs, judged) for row in rows if keep):
        kept.extend(bytes(max(0, row + 1 - len(kept))))
        kept[row] = 1
    total = write_rows(pairs.source, Path(out), kept)
    if decisions is not None:
        write_decisions(Path(decisions), (decision for *_, decision in _decided(pairs, judged)))
    scored = len(judged.scores)
    stay = int(sum(kept))
    return FilterSummary(
        by=by,
        rows=total,
        kept=stay,
        dropped=total - stay,
        unscored=max(0, total - scored) if pairs.format != "unpaired" else max(0, total - 2 * scored),
        kept_tokens=judged.kept_tokens,
        dropped_tokens=judged.dropped_tokens,
        selectors=judged.verdict.counts(),
    )


def _decided(pairs: Pairs, judged: Judged) -> Iterator[tuple[tuple[int, ...], bool, Decision]]:
    """For every pair or bad row: its input rows, whether they stay, and what to say of it."""
    for entry in pairs.entries():
        if isinstance(entry, BadRow):
            yield (entry.row,), False, Decision(entry.row, None, None, False, entry.reason)
            continue
        index = judged.find(entry)
        if index is None:
            yield entry.source_rows, False, Decision(entry.row, entry.pair_id, None, False, UNSCORED)
            continue
        keep, score = bool(judged.keep[index]), float(judged.scores[index])
        yield entry.source_rows, keep, Decision(entry.row, entry.pair_id, score, keep, judged.verdict.reason(index))


def _numbers(table: pa.Table, by: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    numeric = [field.name for field in table.schema if _is_numeric(field.type)]
    if by not in numeric:
        raise OptionError(f"--by {by}: the scores have no such numeric column. They have {', '.join(numeric)}.")
    return np.asarray(pc.fill_null(table[by].cast(pa.float64()), float("nan")).to_numpy(), dtype=np.float64)


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))

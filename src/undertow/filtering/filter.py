"""A new data set without some pairs: the rows of the input as they were, in their order.

The input is gone through twice: once as pairs, to match each with its score and decide; once as rows, to write those
that stay. Only the scores' columns and one byte a row are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from undertow.data.pairs import BadRow, Pair
from undertow.data.reading import Pairs, open_pairs
from undertow.errors import DataError, OptionError
from undertow.filtering.rewriting import Decision, Rewriter, check_endings, open_decisions
from undertow.filtering.selection import LINKS, Selector, Verdict, judge, make_selectors, numeric_columns
from undertow.runs.targets import Target, check_targets, data_input, score_inputs
from undertow.scoring.columns import PREDICTORS, numbers_of, tokens_of
from undertow.scoring.shards import read_scores, where_from

UNSCORED = "has no score: the audit set it aside, or did not look at it"


@dataclass(frozen=True, slots=True)
class FilterSummary:
    """What a filter did. Rows are input rows; tokens are those of prompt, chosen and rejected of the scored pairs;
    ``by`` is None where no selector looks at a score."""

    by: str | None
    rows: int
    kept: int
    dropped: int
    unscored: int
    kept_tokens: int
    dropped_tokens: int
    selectors: dict[str, int]


class Judged:
    """Scores with the verdict on each, found by input row."""

    def __init__(self, table: pa.Table, by: str | None, selectors: Sequence[Selector]) -> None:
        _check_columns(table, by, selectors)
        table = table.sort_by("row")
        self._rows = table["row"].to_numpy()
        self._ids = table["pair_id"]
        self._found = np.zeros(len(table), dtype=bool)
        self.scores = numbers_of(table, by) if by is not None else np.full(len(table), np.nan)
        self.verdict: Verdict = judge(
            self.scores,
            selectors,
            by=by,
            cases=table["case"].to_numpy() if "case" in table.column_names else None,
            links={name: table[name].is_valid().to_numpy() for name in LINKS.values() if name in table.column_names},
        )
        self.keep = self.verdict.keep
        tokens = tokens_of(table)
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
        self._found[index] = True
        return index

    def check_all_found(self, data: str) -> None:
        """Refuse scores of more pairs than :meth:`find` was asked for: shares would be of pairs that are not there.

        Raises:
            DataError: there are such scores.
        """
        missing = np.flatnonzero(~self._found)
        if missing.size:
            raise DataError(
                f"{missing.size:,} of the {len(self._found):,} pairs that were scored are not in {data} (first row "
                f"{self._rows[missing[0]]}). The scores are of more data: a share or a count would be one of pairs "
                "that are not there. Audit this data by itself, or filter the whole data that was audited."
            )


def filter_pairs(
    pairs: Pairs | Iterable[Pair],
    table: pa.Table,
    *,
    by: str | None = None,
    drop_highest: float | int | None = None,
    drop_lowest: float | int | None = None,
    keep_highest: float | int | None = None,
    keep_lowest: float | int | None = None,
    drop_above: float | None = None,
    drop_below: float | None = None,
    drop_case: int | Sequence[int] | None = None,
    drop_duplicates: bool = False,
    drop_contradictions: bool = False,
) -> list[Pair]:
    """The pairs that stay, by their scores in a table that :func:`undertow.audit` made of them.

    ``highest`` and ``lowest`` take a share of the pairs as a float (``0.10``) or a number of pairs as an int. Several
    selectors may be given: a pair is dropped when any of them drops it, each judged over all pairs. A pair without a
    score is dropped. ``by`` may be left out where no selector looks at a score: ``drop_case``, ``drop_duplicates`` (a
    pair that stands further up already) and ``drop_contradictions`` (both sides) do not.

    Raises:
        OptionError: no selector, one out of its range, no score to select by, or a column that is not there.
        DataError: the scores belong to other pairs, or to more than these.
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
            "drop-duplicates": drop_duplicates,
            "drop-contradictions": drop_contradictions,
        }
    )
    judged = Judged(table, by, selectors)
    kept = [pair for pair in pairs if (index := judged.find(pair)) is not None and judged.keep[index]]
    judged.check_all_found("the given pairs")
    return kept


def filter_file(
    data: str | Path,
    scores: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    by: str | None,
    selectors: Sequence[Selector],
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    empty_prompt: bool = False,
    split: str | None = None,
    name: str | None = None,
    decisions: str | Path | None = None,
    table: pa.Table | None = None,
) -> FilterSummary:
    """Write the rows of a data set that stay, as ``undertow filter`` does.

    ``table``: the scores as they were read from there, with columns added.

    Raises:
        InputError: the data, the scores, the options or the output cannot be used.
    """
    targets = [Target("--out", Path(out))]
    if decisions is not None:
        targets.append(Target("--decisions", Path(decisions)))
    check_endings(*(target.path for target in targets))
    check_targets(targets, [*data_input(data, split, name), *score_inputs(scores)])
    judged = Judged(read_scores(scores) if table is None else table, by, selectors)
    pairs = open_pairs(
        data,
        format=format,
        columns=columns,
        split=split,
        name=name,
        on_bad_row="skip",
        empty_prompt=empty_prompt,
    )
    rewriter = Rewriter(pairs.source, Path(out))
    kept = bytearray()  # one byte an input row: a pair's rows stay when the pair stays
    # The decisions stand at their place only when this ends well: after the rows do.
    with open_decisions(Path(decisions)) if decisions is not None else nullcontext(_say_nothing) as decide:
        for rows, keep, decision in _decided(pairs, judged):
            decide(decision)
            for row in rows if keep else ():
                kept.extend(bytes(max(0, row + 1 - len(kept))))
                kept[row] = 1
        judged.check_all_found(pairs.source.name)
        total = rewriter.write(kept)
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
        keep, score = bool(judged.keep[index]), float(judged.scores[index]) if judged.verdict.by else None
        yield entry.source_rows, keep, Decision(entry.row, entry.pair_id, score, keep, judged.verdict.reason(index))


def _say_nothing(_: Decision) -> None:
    """For a filter whose decisions nobody wants."""


def _check_columns(table: pa.Table, by: str | None, selectors: Sequence[Selector]) -> None:
    """Refuse selectors that these scores cannot answer."""
    numeric = numeric_columns(table.schema)
    if by is not None and by not in numeric:
        raise OptionError(
            f"--by {by}: the scores have no such numeric column{where_from(by)}. They have {', '.join(numeric)}."
        )
    kinds = {selector.kind for selector in selectors}
    if by is None and (wanting := [str(selector) for selector in selectors if selector.by_score]):
        ranking = [name for name in PREDICTORS if name in numeric]
        best = f"--by {ranking[0]} is the best there is to tell which pairs displace" if ranking else "--by NAME"
        raise OptionError(f"--{wanting[0]}: say by which score. {best}. The scores have {', '.join(numeric)}.")
    if "drop-case" in kinds and "case" not in table.column_names:
        raise OptionError("--drop-case: these scores have no column `case`; it comes with --level unembedding.")
    for kind, column in LINKS.items():
        if kind in kinds and column not in table.column_names:
            raise OptionError(
                f"--{kind}: these scores have no column `{column}`, as an earlier version of Undertow wrote them. "
                "Audit the data again; --level text is enough and runs no model."
            )

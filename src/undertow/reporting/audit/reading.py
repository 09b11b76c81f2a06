"""An audit as its page needs it: the scores, the summary, and the groups that the user asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from undertow.filtering.by_loss import LossEffect, under_losses
from undertow.filtering.what_if import Groups, best_predictor, falls
from undertow.reporting.kinds import audit_folders
from undertow.runs.parts import read_part
from undertow.runs.texts import BY, TEXTS
from undertow.scoring.columns import PREDICTORS, numbers_of, tokens_of
from undertow.scoring.shards import part_path, read_scores, read_summary, with_forecast, with_pull
from undertow.wording.visible import shown

__all__ = ["AuditRun", "read_audit_run"]

MOST_LABELS = 8
LABEL = 60
"""Characters of a group's label."""


@dataclass(frozen=True)
class AuditRun:
    """A finished audit, of one folder or of all shards of one. What is derived is made once, when it is asked for."""

    folder: Path
    runs: Sequence[Path]
    summary: Mapping[str, Any]
    table: pa.Table

    @property
    def pairs(self) -> int:
        """How many pairs were scored."""
        return len(self.table)

    @property
    def level(self) -> str:
        """``text``, ``hidden`` or ``unembedding``."""
        return str(self.summary["arguments"]["level"])

    @property
    def exact(self) -> bool:
        """Whether the scores say which way the log-probabilities go."""
        return "case" in self.table.column_names

    @property
    def loss(self) -> str:
        """The audit's loss, as an expression."""
        return str(self.summary["arguments"]["loss"])

    @property
    def by(self) -> str:
        """The best score there is to rank the pairs by."""
        return best_predictor(self.table.column_names)

    @property
    def predictors(self) -> list[str]:
        """All scores to rank by, the best first."""
        return [name for name in PREDICTORS if name in self.table.column_names]

    @property
    def shard(self) -> str | None:
        """``I/N``, where this is one shard of several."""
        found = str(self.summary["arguments"].get("shard", "1/1"))
        return found if len(self.runs) == 1 and not found.endswith("/1") else None

    @functools.cached_property
    def tokens(self) -> int:
        """Of all prompts and responses, after truncation."""
        return int(tokens_of(self.table).sum())

    @functools.cached_property
    def falls(self) -> dict[str, NDArray[np.bool_]]:
        """Whose chosen response falls, by measure."""
        return falls(self.table)

    @functools.cached_property
    def losses(self) -> tuple[list[LossEffect], dict[str, str]]:
        """What every loss would do; nothing below level ``unembedding``."""
        if not self.exact:
            return [], {}
        return under_losses(self.table, self.loss, other_reference=bool(self.summary["arguments"].get("ref")))

    @functools.cached_property
    def groups(self) -> dict[str, Groups]:
        """The pairs by the values of each column that was asked for: the most frequent ones, and all others."""
        return {name: _grouped(values) for name, values in _by_columns(self.runs, self.table["row"].to_numpy()).items()}

    def column(self, name: str) -> NDArray[np.float64]:
        """A score of all pairs; NaN where there is none."""
        return numbers_of(self.table, name)

    def worst_first(self) -> NDArray[np.intp]:
        """The pairs in the order of the best score, the most displacing first; those without a score come last."""
        values = self.column(self.by)
        return np.argsort(values if PREDICTORS[self.by] == "lowest" else -values, kind="stable")


def read_audit_run(folder: str | Path) -> AuditRun:
    """What stands in the folder of an audit, or in a folder of all shards of one.

    Raises:
        DataError: no finished audit stands there.
    """
    folder = Path(folder)
    runs = audit_folders(folder)
    first = read_summary(runs[0])
    if list(runs) == [folder]:
        # Not read_scores: one shard alone has a page too.
        table = with_pull(pa.concat_tables(read_part(part_path(folder, i)) for i in range(len(first["parts"]))))
        table = with_forecast(table, folder)
    else:
        table = read_scores(folder)
    return AuditRun(folder, runs, first, table)


def _by_columns(runs: Sequence[Path], rows: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Values of the columns that were asked for, in the order of ``rows``; none where a run has no texts."""
    tables = list(_by_tables(runs))
    if len(tables) < len(runs) or any(one.column_names != tables[0].column_names for one in tables):
        return {}
    table = pa.concat_tables(tables)
    known = table["row"].to_numpy()
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known[order], rows), len(known) - 1)]
    if not np.array_equal(known[at], rows):
        return {}
    names = [name for name in table.column_names if name.startswith(BY)]
    return {name.removeprefix(BY): table[name].take(pa.array(at)).combine_chunks() for name in names}


def _by_tables(runs: Sequence[Path]) -> Iterator[pa.Table]:
    for run in runs:
        if (run / TEXTS).exists():
            with pq.ParquetFile(run / TEXTS) as file:
                names = [name for name in file.schema_arrow.names if name == "row" or name.startswith(BY)]
                table = file.read(names)
            if len(table):
                yield table


def _grouped(values: pa.Array) -> Groups:
    encoded = pc.dictionary_encode(pc.fill_null(values, ""))
    index, labels = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
    sizes = np.bincount(index, minlength=len(labels))
    # The most frequent first; of equally many the one that was there first.
    order = np.argsort(-sizes, kind="stable")
    most = order[:MOST_LABELS] if len(order) > MOST_LABELS + 1 else order
    place = np.full(len(labels), len(most), dtype=np.int64)
    place[most] = np.arange(len(most))
    named = [shown(str(labels[n]), LABEL) or "(empty)" for n in most]
    if len(most) < len(labels):
        named.append(f"{len(labels) - len(most):,} other values")
    return Groups(named, place[index])

"""A finished comparison as its page needs it: numbers of pairs, the predictions made of them, and the worst ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from undertow.comparing.continuations import worst
from undertow.comparing.folder import PAIRS, CompareFolder
from undertow.comparing.pairs import DIVERGENCES, NUMBERS
from undertow.comparing.prediction import Predictions, joined, read_predictions, rising
from undertow.errors import InputError
from undertow.reporting.texts import texts_of
from undertow.wording.numbers import signed

__all__ = ["Moved", "read_moved", "realised", "skills", "worst_pairs"]

Vector = NDArray[np.float64]

WORST = 8


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """A finished comparison as the page needs it: the numeric columns of pairs whose numbers are all finite."""

    folder: Path
    summary: Mapping[str, Any]
    rows: NDArray[np.int64]
    columns: Mapping[str, Vector]

    @property
    def pairs(self) -> int:
        """Pairs in the charts."""
        return len(self.rows)


def read_moved(folder: str | Path) -> Moved:
    """A finished comparison's summary, and the numbers of its pairs.

    Raises:
        DataError: none stands there.
    """
    found = CompareFolder(Path(folder))
    summary = found.summary()
    table = found.table(["row", *NUMBERS, *DIVERGENCES])
    columns = {name: table[name].to_numpy() for name in (*NUMBERS, *DIVERGENCES)}
    good = np.logical_and.reduce([np.isfinite(values) for values in columns.values()])
    return Moved(
        found.folder, summary, table["row"].to_numpy()[good], {name: values[good] for name, values in columns.items()}
    )


def realised(moved: Moved) -> tuple[dict[str, Vector], str | None]:
    """Each predictor's values for the pairs, rising where a score says that the response falls; or why there are none.

    The comparison keeps how well the scores foretold, not the scores: these are read where they still stand.
    """
    folders = moved.summary["arguments"].get("scores")
    if not folders or not moved.pairs:
        return {}, None
    try:
        scores = read_predictions(folders)
        if scores.fingerprint == moved.summary["fingerprints"]["scores"]:
            return falling(scores, moved), None
    except InputError:
        pass  # they were moved, or are those of other data by now
    shown = ", ".join(map(str, folders))
    return {}, f"The scores are not at {shown} any more, so that single pairs' predictions are not shown."


def falling(scores: Predictions, moved: Moved) -> dict[str, Vector]:
    """The predictors in the order of their correlation, turned so that a higher value says: this response falls."""
    ids = CompareFolder(moved.folder).table(["row", "pair_id"])
    ids = ids.filter(pa.array(np.isin(ids["row"].to_numpy(), moved.rows)))
    index = joined(scores, moved.rows, np.array(ids["pair_id"].to_pylist(), dtype=np.str_))
    found = {}
    for row in skills(moved.summary):
        values = -rising(row["score"], scores.values[row["score"]])
        found[row["score"]] = np.where(index >= 0, values[np.maximum(index, 0)], np.nan)
    return found


def skills(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The predictors' rank correlations and areas, the best correlation first."""
    found = (summary.get("prediction") or {}).get("predictors", {})
    rows = [{"score": name, **values} for name, values in found.items()]
    known = [row for row in rows if row["spearman"]["value"] is not None]
    return sorted(known, key=lambda row: -row["spearman"]["value"]) + [row for row in rows if row not in known]


def worst_pairs(moved: Moved) -> list[dict[str, Any]]:
    """The pairs whose chosen response fell most: numbers, texts, and what both models say where they were asked."""
    table = CompareFolder(moved.folder).table(["row", "dlogp_chosen"])
    found = worst(table, max(WORST, len(moved.summary["continuations"])))
    if not found:
        return []
    numbers = table["row"].take(found).to_pylist()
    # Only these rows are read whole: the others' tokens stay on disk.
    read = ds.dataset(moved.folder / PAIRS, format="parquet").to_table(filter=ds.field("row").isin(numbers))
    rows = sorted(read.to_pylist(), key=lambda row: numbers.index(row["row"]))
    texts = texts_of(moved.folder, numbers)
    said = {one["row"]: one for one in moved.summary["continuations"]}
    return [_pair(row, texts.get(row["row"]) or said.get(row["row"]), said.get(row["row"])) for row in rows]


def _pair(row: Mapping[str, Any], texts: Mapping[str, str] | None, said: Mapping[str, str] | None) -> dict[str, Any]:
    """One of the worst pairs; its texts as None where the folder has none of them."""
    return {
        "row": row["row"],
        **{name: signed(row[name]) for name in ("dlogp_chosen", "dlogp_rejected", "dmargin")},
        **{name: list(zip(row[f"{name}_tokens"] or (), row[name] or (), strict=True)) for name in ("gained", "lost")},
        **{name: texts[name] if texts else None for name in ("prompt", "chosen", "rejected")},
        "said": {name: said[name] for name in ("before", "after")} if said else None,
    }

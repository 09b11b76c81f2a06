"""A finished comparison as its page needs it: numbers of pairs, the predictions made of them, and the worst ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from undertow.comparing.calibration import SIDES
from undertow.comparing.continuations import worst
from undertow.comparing.folder import PAIRS, CompareFolder
from undertow.comparing.pairs import DIVERGENCES, NUMBERS
from undertow.comparing.prediction import Predictions, placed, read_predictions, rising
from undertow.errors import InputError
from undertow.runs.texts import PAIR_TEXTS, read_texts
from undertow.wording.comparison import answer_changed
from undertow.wording.numbers import signed

__all__ = ["ComparisonRun", "Predicted", "read_comparison_run", "read_predicted", "skills", "worst_pairs"]

Vector = NDArray[np.float64]

WORST = 8


@dataclass(frozen=True, slots=True, eq=False)
class ComparisonRun:
    """A finished comparison as the page needs it: the numeric columns of pairs whose numbers are all finite."""

    folder: Path
    summary: Mapping[str, Any]
    rows: NDArray[np.int64]
    columns: Mapping[str, Vector]

    @property
    def pairs(self) -> int:
        """Pairs in the charts."""
        return len(self.rows)


def read_comparison_run(folder: str | Path) -> ComparisonRun:
    """A finished comparison's summary, and the numbers of its pairs.

    Raises:
        DataError: none stands there.
    """
    found = CompareFolder(Path(folder))
    summary = found.summary()
    table = found.table(["row", *NUMBERS, *DIVERGENCES])
    columns = {name: table[name].to_numpy() for name in (*NUMBERS, *DIVERGENCES)}
    good = np.logical_and.reduce([np.isfinite(values) for values in columns.values()])
    return ComparisonRun(
        found.folder, summary, table["row"].to_numpy()[good], {name: values[good] for name, values in columns.items()}
    )


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """What was predicted of each pair, one value a pair, NaN where nothing was.

    Attributes:
        scores: each predictor's values, the best first, higher where it says that the response falls.
        forecast: the changes that a forecast foretold, in nats, of the ``chosen`` and of the ``rejected`` responses.
        without: why there is none of it, where scores were given.
    """

    scores: Mapping[str, Vector] = field(default_factory=dict)
    forecast: Mapping[str, Vector] = field(default_factory=dict)
    without: str | None = None


def read_predicted(run: ComparisonRun) -> Predicted:
    """The predictions of the pairs, from where the scores still stand: the comparison keeps how well they predicted."""
    folders = run.summary["arguments"].get("scores")
    if not folders or not run.pairs:
        return Predicted()
    try:
        scores = read_predictions(folders)
        if scores.fingerprint == run.summary["fingerprints"]["scores"]:
            return _of_pairs(scores, run)
    except InputError:
        pass  # they were moved, or are those of other data by now
    shown = ", ".join(map(str, folders))
    why = f"The scores are not at {shown} any more, so that single pairs' predictions are not shown."
    return Predicted(without=why)


def _of_pairs(scores: Predictions, run: ComparisonRun) -> Predicted:
    ids = CompareFolder(run.folder).table(["row", "pair_id"])
    index = scores.index_of(ids.filter(pa.array(np.isin(ids["row"].to_numpy(), run.rows))))
    names = [row["score"] for row in skills(run.summary)]
    return Predicted(
        {name: -placed(rising(name, scores.values[name]), index) for name in names},
        {
            side: placed(scores.forecast[name], index)
            for side in SIDES
            if (name := f"forecast_{side}") in scores.forecast
        },
    )


def skills(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The predictors' rank correlations and areas, the best correlation first."""
    found = (summary.get("prediction") or {}).get("predictors", {})
    rows = [{"score": name, **values} for name, values in found.items()]
    known = [row for row in rows if row["spearman"]["value"] is not None]
    return sorted(known, key=lambda row: -row["spearman"]["value"]) + [row for row in rows if row not in known]


def worst_pairs(run: ComparisonRun) -> list[dict[str, Any]]:
    """The pairs whose chosen response fell most: numbers, texts, and what both models say where they were asked.

    Those to which the model after answers something else than the one before come first.
    """
    table = CompareFolder(run.folder).table(["row", "dlogp_chosen"])
    found = worst(table, max(WORST, len(run.summary["continuations"])))
    if not found:
        return []
    numbers = table["row"].take(found).to_pylist()
    # Only these rows are read whole: the others' tokens stay on disk.
    read = ds.dataset(run.folder / PAIRS, format="parquet").to_table(filter=ds.field("row").isin(numbers))
    rows = sorted(read.to_pylist(), key=lambda row: numbers.index(row["row"]))
    texts = read_texts(run.folder, numbers)
    said = {one["row"]: one for one in run.summary["continuations"]}
    found_pairs = [_pair(row, texts.get(row["row"]) or said.get(row["row"]), said.get(row["row"])) for row in rows]
    return sorted(found_pairs, key=lambda pair: not pair["changed"])


def _pair(row: Mapping[str, Any], texts: Mapping[str, str] | None, said: Mapping[str, str] | None) -> dict[str, Any]:
    """One of the worst pairs; its texts as None where the folder has none of them."""
    return {
        "row": row["row"],
        **{name: signed(row[name]) for name in ("dlogp_chosen", "dlogp_rejected", "dmargin")},
        **{name: list(zip(row[f"{name}_tokens"] or (), row[name] or (), strict=True)) for name in ("gained", "lost")},
        **{name: texts[name] if texts else None for name in PAIR_TEXTS},
        "said": {name: said[name] for name in ("before", "after")} if said else None,
        "changed": said is not None and answer_changed(said),
    }

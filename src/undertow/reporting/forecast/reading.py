"""A finished forecast as terminal and page need it: its tables, the pairs at risk, those that push, the texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from undertow.errors import DataError
from undertow.runs.folder import read_summary
from undertow.runs.names import FACT, FORECAST, PAIR_FORECAST, SUMMARIES, TEXTS_FORECAST
from undertow.scoring.columns import PUSH, numbers_of

__all__ = ["TRAINED_WITH", "Fact", "ForecastRun", "TextGroup", "read_forecast_run"]

Vector = NDArray[np.float64]

TRAINED_WITH = (
    "loss",
    "lr",
    "batch_size",
    "accumulate",
    "epochs",
    "max_steps",
    "optimiser",
    "schedule",
    "lora_r",
    "seed",
)
"""Options of training that a fact must share with a forecast."""
MOVERS = 3
"""Pairs that are named for each group of texts."""


@dataclass(frozen=True, slots=True, eq=False)
class TextGroup:
    """A group of texts: how many, the mean of their log-probabilities and of its change, and which pairs move it most.

    ``rows`` and ``pushes``: of those pairs, the strongest first; a push is in nats, on the group's mean.
    """

    name: str
    texts: int
    start: float
    change: float | None
    rows: list[int]
    pushes: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """Realised changes of the pairs, ``[n]`` in nats, in the order of the forecast's rows; where that was."""

    chosen: Vector
    rejected: Vector
    made_on: str


@dataclass(frozen=True, slots=True, eq=False)
class ForecastRun:
    """A finished forecast: ``forecast.json``, and the rows of ``forecast.parquet`` and of ``texts-forecast.parquet``
    (None where no texts were given)."""

    folder: Path
    summary: Mapping[str, Any]
    table: pa.Table
    texts: pa.Table | None

    def fact(self) -> Fact | None:
        """What the foretold run has done, where that stands beside and is of these data and this loss."""
        try:
            found = json.loads((self.folder / FACT).read_text(encoding="utf-8"))
            known = {int(row): (chosen, rejected) for row, chosen, rejected in found["pairs"]}
            if found["data"] != self.summary["fingerprints"]["data"] or found["trained_with"] != self._trained_with():
                return None
            pairs = [known[row] for row in self.rows.tolist()]
            chosen, rejected = np.array(pairs, dtype=np.float64).T
            return Fact(chosen, rejected, str(found["made_on"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _trained_with(self) -> dict[str, Any]:
        training = self.summary["arguments"]["training"]
        return {name: training[name] for name in TRAINED_WITH}

    @property
    def counts(self) -> bool:
        """Whether a look was taken, so that shares and counts may be told."""
        return bool(self.summary["counts"])

    @property
    def steps(self) -> int:
        """Of the simulated run."""
        return int(self.summary["end"]["steps"])

    @property
    def again(self) -> bool:
        """Whether a pair is trained more than once."""
        training, trained = self.summary["arguments"]["training"], self.summary["data"]["trained"]
        if not training["max_steps"]:
            return bool(training["epochs"] > 1)
        step = training["batch_size"] * training["accumulate"] * self.summary["arguments"]["world_size"]
        return bool(self.steps * step > trained)

    @property
    def several_orders(self) -> bool:
        """Whether the numbers are means over several orders."""
        arguments = self.summary["arguments"]
        return bool(arguments["order"] == "unknown" and arguments["orders"] > 1)

    @property
    def none_falls(self) -> bool:
        """Whether the forecast counts, and no chosen response falls."""
        return self.counts and not (self.column("forecast_chosen") < 0).any()

    @property
    def none_pushes(self) -> bool:
        """Whether no pair pushes the protected responses down."""
        return not (self.column(PUSH) < 0).any()

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of all pairs."""
        return np.asarray(self.table["row"].to_numpy(), dtype=np.int64)

    def column(self, name: str) -> Vector:
        """A column of all pairs; NaN where there is no number."""
        return numbers_of(self.table, name)

    def lowest(self, name: str, count: int) -> NDArray[np.intp]:
        """Which pairs have the lowest values of a column, the lowest first; of equal ones the earlier row."""
        values = self.column(name)
        order = np.argsort(values, kind="stable")
        return order[np.isfinite(values[order])][:count]

    def at_risk(self, least: int, most: int) -> NDArray[np.intp]:
        """The pairs that fall, the deepest first, within so many; where fewer fall, the next lowest fill the least.
        Without a look it is not known how many fall: the most."""
        falling = int((self.column("forecast_chosen") < 0).sum()) if self.counts else most
        return self.lowest("forecast_chosen", min(max(falling, least), most))

    def pushing(self, most: int) -> NDArray[np.intp]:
        """The pairs that push the protected responses down, strongest first; where none does, those nearest to it."""
        found = self.lowest(PUSH, most)
        return found if self.none_pushes else found[self.column(PUSH)[found] < 0]

    def pairs(self, chosen: NDArray[np.intp]) -> list[dict[str, Any]]:
        """These pairs as they stand in the table; what is not finite as None."""
        found = self.table.take(pa.array(chosen)).to_pylist()
        return [{name: _finite(value) for name, value in pair.items()} for pair in found]

    def groups(self) -> list[TextGroup]:
        """The groups of texts, in the order of the file."""
        if self.texts is None:
            return []
        names, starts = np.array(self.texts["group"].to_pylist()), numbers_of(self.texts, "logp")
        return [
            TextGroup(
                name, int((names == name).sum()), float(starts[names == name].mean()), change, *self._movers(name)
            )
            for name, change in self.summary["texts"].items()
        ]

    def _movers(self, group: str) -> tuple[list[int], list[float]]:
        name = f"{PUSH}:{group}"
        if name not in self.table.column_names:
            return [], []
        values = np.nan_to_num(self.column(name), posinf=0.0, neginf=0.0)
        most = np.argsort(-np.abs(values), kind="stable")[:MOVERS]
        most = most[values[most] != 0]
        return self.rows[most].tolist(), values[most].tolist()


def read_forecast_run(folder: str | Path) -> ForecastRun:
    """What a finished forecast left in a folder.

    Raises:
        DataError: none stands there, or a file of it cannot be read.
    """
    folder = Path(folder)
    summary = read_summary(folder, FORECAST, SUMMARIES[FORECAST])
    texts = folder / TEXTS_FORECAST
    return ForecastRun(folder, summary, _table(folder / PAIR_FORECAST), _table(texts) if "texts" in summary else None)


def _table(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}. Give the `undertow forecast` command again.") from error


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value

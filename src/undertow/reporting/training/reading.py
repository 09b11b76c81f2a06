"""What stands in the folder of a training run, finished or not, for the pages that show it.

Also in a folder that ``undertow.integrations.trl.DisplacementCallback`` wrote: what was tracked, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from undertow.errors import DataError
from undertow.files import without_nonfinite
from undertow.filtering.rules import RECORD
from undertow.runs.folder import SETTINGS, is_callback_folder
from undertow.runs.names import TRACKING
from undertow.training.folder import COMMAND, SUMMARY
from undertow.training.guards.callback import LOG
from undertow.training.tracking.tracker import PROBE
from undertow.training.tracking.tracker import RECORD as CALLBACK_RECORD
from undertow.training.trainer import complete_checkpoints

__all__ = ["CASE", "GRADIENT", "WATCH", "Run", "read_run", "renamed", "spread"]

WATCH, CASE, GRADIENT = "watch/", "case/", "gradient/"
"""What the names of columns begin with that a run may have or not."""

RENAMED = {"accuracy": "reward_accuracy"}
"""Columns that earlier versions called otherwise."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A training run as its folder tells it.

    ``looks``: the rows of ``tracking.parquet``, NaN and infinities as None. ``summary``: ``train.json``, None while the
    run is not finished. ``filtered``: how many pairs were left out before training, None where nothing was filtered.
    ``log``: what the trainer logged, up to the last checkpoint. ``probe``: the rows of ``probe.parquet``, what the last
    look found of each pair. ``callback``: of a run of another library's trainer, what its folder says of it
    (``tracking.json``, which may be empty); None for a run of ours.
    """

    name: str
    looks: Sequence[Row]
    settings: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    firings: Sequence[Row]
    filtered: int | None
    log: Sequence[Row]
    probe: Sequence[Row] = ()
    callback: Mapping[str, Any] | None = None

    @property
    def final(self) -> Row | None:
        """The look at the weights that the run ended with; those of an earlier step where a guard rolled it back."""
        if self.summary and self.summary.get("tracked"):
            return renamed(self.summary["tracked"])
        return self.looks[-1] if self.looks else None

    @property
    def steps(self) -> int:
        """Steps taken; up to the last look where the run is not finished."""
        if self.summary:
            return int(self.summary["steps"])
        return int(self.looks[-1]["step"]) if self.looks else 0

    @property
    def rolled_back_to(self) -> int | None:
        """The step whose weights were put back, if a guard did so."""
        step = (self.summary or {}).get("rolled_back_to")
        return None if step is None else int(step)

    @property
    def unfinished(self) -> bool:
        """Whether more is to come, as far as the folder tells."""
        if self.callback is not None:
            return not self.callback.get("finished", True)
        return self.summary is None

    @property
    def displaced_by(self) -> float:
        """By more than so many nats a chosen response must have fallen to count as displaced."""
        return float((self.final or {}).get("displaced_by") or 0.0)

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the run was asked to do; also that of one that is not finished."""
        if self.callback is not None:
            found = self.callback.get("arguments")
        else:
            found = self.summary["arguments"] if self.summary else self.settings.get("settings")
        return found if isinstance(found, dict) else {}

    def columns(self, prefix: str) -> list[str]:
        """The tracked columns with such a beginning, in their order."""
        first = self.looks[0] if self.looks else {}
        return [name for name in first if name.startswith(prefix)]


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """A training run's folder, finished or not, or one that a callback wrote.

    Raises:
        DataError: it is no training run's folder, or a file of it cannot be read.
    """
    folder = Path(folder)
    if is_callback_folder(folder):
        record = _json(folder / CALLBACK_RECORD)
        callback = record if isinstance(record, dict) else {}
        looks, probe = _table(folder / TRACKING), _table(folder / PROBE)
        return Run(name or folder.resolve().name, looks, {}, None, [], None, [], probe, callback)
    settings = _json(folder / SETTINGS)
    if not isinstance(settings, dict) or settings.get("command") != COMMAND:
        raise DataError(f"{folder} holds no training run: name the folder that `undertow train … --out` wrote.")
    checkpoints = complete_checkpoints(folder)
    state = _json(checkpoints[-1] / "trainer_state.json") if checkpoints else None
    filtered = folder / RECORD
    return Run(
        name=name or folder.resolve().name,
        looks=_table(folder / TRACKING),
        settings=settings,
        summary=_json(folder / SUMMARY),
        firings=list(_lines(folder / LOG)),
        filtered=sum(1 for _ in _lines(filtered)) if filtered.exists() else None,
        log=[renamed(entry) for entry in (state or {}).get("log_history", [])],
        probe=_table(folder / PROBE),
    )


def renamed(row: Mapping[str, Any]) -> Row:
    """A row as it is written today: its numbers finite or None, and its columns by their names of today."""
    found = without_nonfinite(row)
    assert isinstance(found, dict)
    return {RENAMED.get(str(name), str(name)): value for name, value in found.items()}


def spread(rows: Sequence[Row], most: int, keep: Sequence[int] = ()) -> list[Row]:
    """At most so many rows, evenly spread, the first and the last among them, and besides those of the steps named."""
    if len(rows) <= most:
        return list(rows)
    chosen = {round(n * (len(rows) - 1) / max(most - 1, 1)) for n in range(most)}
    wanted = set(keep)
    return [row for n, row in enumerate(rows) if n in chosen or row["step"] in wanted]


def _table(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        return [renamed(row) for row in pq.ParquetFile(path).read().to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _lines(path: Path) -> Iterator[Row]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.strip())


def _json(path: Path) -> Any:
    """A JSON file's value; None where it is not there or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

"""The folder of a training run.

DIR/settings.json            written first: whose run this is
DIR/reference-HASH.npy       reference log-probabilities, for this and later runs on the same data and model
DIR/filtered.jsonl           with --filter: the pairs left out, and why
DIR/token-weights.parquet    with --token-weights: what each response token counts
DIR/sft/                     with --sft-epochs: the first phase, its own checkpoints, and at its end its model
DIR/checkpoint-N/            each whole or absent
DIR/tracking.parquet         one row a look at the probe set
DIR/probe.parquet            one row a probe pair: what the last look found of it
DIR/guard.jsonl              one line a guard that fired
DIR/skipped.jsonl            where rows were skipped
DIR/model/                   the trained model
DIR/train.json               written last: only with it the run is finished
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from undertow.filtering.rules import RECORD
from undertow.runs.folder import RunFolder
from undertow.runs.identity import JSON
from undertow.runs.names import SUMMARIES, TOKEN_WEIGHTS, TRACKING, TRAIN
from undertow.training.guards.callback import LOG
from undertow.training.settings import TrainSettings
from undertow.training.tracking.tracker import PROBE, START

COMMAND, SUMMARY = TRAIN, SUMMARIES[TRAIN]
MODEL, SFT = "model", "sft"


class TrainFolder(RunFolder):
    """The folder of a training run; of several processes that train together, the main one holds it."""

    command, summary_name = COMMAND, SUMMARY
    own = (TRACKING, START, PROBE, LOG, RECORD, TOKEN_WEIGHTS, "checkpoint-*", MODEL, SFT)
    work = ("checkpoint-*", MODEL, f"{SFT}/checkpoint-*", f"{SFT}/{MODEL}")

    def _differences(self, there: Mapping[str, JSON], here: Mapping[str, JSON]) -> str:
        """An option that the run in the folder did not know yet had its default's effect there."""
        defaults = json.loads(json.dumps(TrainSettings().record(), default=str))
        since = {name: defaults.get(name.removeprefix("option ")) for name in here if name.startswith("option ")}
        return super()._differences(since | dict(there), here)

    @contextlib.contextmanager
    def held(
        self,
        identity: Mapping[str, JSON],
        settings: Mapping[str, Any],
        *,
        overwrite: bool,
        processes: PartialState,
    ) -> Iterator[None]:
        """Take the folder for a run, see :meth:`RunFolder.begin`; the other processes wait until that is done."""
        with contextlib.closing(self):
            if processes.is_main_process:
                self.begin(identity, settings, overwrite=overwrite)
            processes.wait_for_everyone()
            yield


def trained_model(folder: Path) -> Path | None:
    """The model that a phase ended with, or None where it has not ended."""
    return folder / MODEL if (folder / MODEL).is_dir() else None

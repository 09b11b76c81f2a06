"""The folder of a training run.

DIR/settings.json            written first: whose run this is
DIR/reference-HASH.npy       reference log-probabilities, for this and later runs on the same data and model
DIR/filtered.jsonl           with --filter: the pairs left out, and why
DIR/sft/                     with --sft-epochs: the first phase, its own checkpoints, and at its end its model
DIR/checkpoint-N/            each whole or absent
DIR/tracking.parquet         one row a look at the probe set
DIR/guard.jsonl              one line a guard that fired
DIR/skipped.jsonl            where rows were skipped
DIR/model/                   the trained model
DIR/train.json               written last: only with it the run is finished
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from undertow.filtering.rules import RECORD
from undertow.runs.folder import JSON, RunFolder
from undertow.training.guards.callback import LOG
from undertow.training.tracking.tracker import START, TRACKING

COMMAND, SUMMARY = "train", "train.json"
MODEL, SFT = "model", "sft"


class TrainFolder(RunFolder):
    """The folder of a training run; of several processes that train together, the main one holds it."""

    command, summary_name = COMMAND, SUMMARY
    own = (TRACKING, START, LOG, RECORD, "checkpoint-*", MODEL, SFT)

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

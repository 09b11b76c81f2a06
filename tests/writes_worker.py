"""Started on each of several processes by test_training_processes.py: ``undertow train``, with what it writes noted.

A line ``RANK write NAME`` for each file that is put in its place, and ``RANK scores`` for each pass over the data.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from undertow.cli.main import main
from undertow.scoring import scorer
from undertow.training import reference

LOG = Path(os.environ["UNDERTOW_TEST_LOG"])
RANK = os.environ["RANK"]


def note(line: str) -> None:
    with LOG.with_suffix(f".{RANK}").open("a") as file:
        file.write(f"{RANK} {line}\n")


def noted(function: Any, line: str) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        note(line)
        return function(*arguments, **named)

    return call


def replace(self: Path, target: Any) -> Path:
    note(f"write {Path(target).name}")
    return PLAIN(self, target)


torch.set_num_threads(1)
PLAIN = Path.replace
Path.replace = replace  # every file that stands whole or not at all is put in its place by it
scorer.score_parts = noted(scorer.score_parts, "scores")
reference._logps = noted(reference._logps, "reference")
sys.exit(main())

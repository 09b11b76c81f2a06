"""Started on each of several processes by test_order.py: a recorded run, held against the steps foretold.

Notes the batches of this process in ``RANK.json`` of the folder given.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from recorded_training import recorded
from undertow.training.order import training_steps
from undertow.training.settings import TrainSettings


def main() -> None:
    torch.set_num_threads(1)
    out, pairs, options = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    settings = TrainSettings(**options)
    steps = training_steps(pairs, settings, world_size=2)
    taken = recorded(pairs, settings, out, steps)
    for step in taken:
        torch.testing.assert_close(step.gradient, step.expected, rtol=1e-7, atol=1e-9)
    noted = [{"batches": step.batches, "lr": step.lr} for step in taken]
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(noted))


if __name__ == "__main__":
    main()

"""Weights sharded over two processes (FSDP's second version, over gloo): losses, gradients and looks are the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).parents[1] / "sharded_worker.py"


def test_two_processes_with_half_the_weights_each_compute_what_one_does() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", "localhost:0", str(WORKER)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(f"process {rank} agrees" in done.stdout for rank in (0, 1)), done.stdout

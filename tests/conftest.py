"""Fixtures every test file can use: the real models, and where the real data lies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub; read by huggingface_hub when it is imported
# Tiny models: a second thread gains nothing, and on a busy machine threads that wait for each other cost minutes. For
# the processes that tests start; this one is told below.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # naive.py, tiny.py, real_models.py

from browser import *  # noqa: F403
from real_models import *  # noqa: F403
from training_runs import *  # noqa: F403

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> None:
    """One thread for tiny models; real ones have the cores to themselves, shared among the processes that test."""
    real = request.node.get_closest_marker("model") is not None
    share = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(share, 1) if real else 1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data sets in ../shared/data, which are not part of the project")
    return SHARED

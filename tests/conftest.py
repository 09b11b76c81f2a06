"""Fixtures every test file can use: the real models, and where the real data lies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub; read by huggingface_hub when it is imported
sys.path.insert(0, str(Path(__file__).parent))  # naive.py, tiny.py, real_models.py

from real_models import *  # noqa: F403

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data sets in ../shared/data, which are not part of the project")
    return SHARED

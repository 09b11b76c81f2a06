"""The demo: an ordinary audit of the shipped pairs with a small instruct model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undertow.auditing.audit import audit_to_folder
from undertow.auditing.settings import AuditSettings
from undertow.data.sources.opening import DEMO, demo_pairs
from undertow.runs.progress import Watcher

__all__ = ["demo_pairs", "run_demo"]


def run_demo(out: Path, *, device: str = "auto", dtype: str = "auto", watch: Watcher | None = None) -> dict[str, Any]:
    """Audit the shipped pairs with the model that ``demo`` names; returns what ``audit.json`` holds.

    With the pull of all pairs on each: on its own no pair pulls its chosen response down, together some do.
    """
    settings = AuditSettings(device=device, dtype=dtype, by=("category",), pull=True)
    return audit_to_folder(DEMO, "demo", out, settings, watch=watch)

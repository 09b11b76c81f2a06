"""The demo: an ordinary audit of shipped pairs with a small instruct model."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from undertow.auditing.audit import audit_to_folder
from undertow.auditing.settings import AuditSettings
from undertow.runs.progress import Watcher


def demo_pairs() -> Path:
    """The shipped preference pairs: JSONL with ``prompt``, ``chosen``, ``rejected``, ``category``."""
    return Path(str(files("undertow.demo") / "pairs.jsonl"))


def run_demo(out: Path, *, device: str = "auto", dtype: str = "auto", watch: Watcher | None = None) -> dict[str, Any]:
    """Audit the shipped pairs with the model that ``demo`` names; returns what ``audit.json`` holds."""
    settings = AuditSettings(device=device, dtype=dtype, by=("category",))
    return audit_to_folder(demo_pairs(), "demo", out, settings, watch=watch)

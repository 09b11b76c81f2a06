"""The texts of a few pairs of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

__all__ = ["TEXTS", "texts_of"]

TEXTS = "texts.parquet"


def texts_of(folder: Path, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Prompt, chosen and rejected of some rows; none where the folder has no texts."""
    path = folder / TEXTS
    if not path.exists():
        return {}
    found = ds.dataset(path, format="parquet").to_table(
        columns=["row", "prompt", "chosen", "rejected"], filter=ds.field("row").isin(list(rows))
    )
    return {text["row"]: text for text in found.to_pylist()}

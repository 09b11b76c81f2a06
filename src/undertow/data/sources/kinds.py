"""What a file holds, by the ending of its name: for reading and for writing alike. Capitals are as good as small."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["PACKED", "Kind", "kind_of", "packing_of"]

Kind = Literal["jsonl", "json", "csv", "parquet", "arrow", "datasets", "memory"]
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
PACKED = {".gz": "gunzip", ".zst": "unzstd"}
"""Endings of packed files, and the commands that unpack them."""


def packing_of(path: Path) -> str | None:
    """``.gz`` or ``.zst`` where a file is packed, by its name."""
    ending = path.suffix.lower()
    return ending if ending in PACKED else None


def kind_of(path: Path) -> Kind | None:
    """What a file is, by its name; None for other files. Tables are packed inside, so a packed table is none."""
    name = Path(path.name.lower())
    if packing_of(path) is None:
        return _KINDS.get(name.suffix)
    kind = _KINDS.get(Path(name.stem).suffix)
    return None if kind in ("parquet", "arrow") else kind

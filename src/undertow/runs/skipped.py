"""``skipped.jsonl``: the rows that a run set aside, each with its reason."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from undertow.data.pairs import BadRow
from undertow.files import output_errors, write_atomically
from undertow.runs.folder import SKIPPED


def write_skipped(folder: Path, bad: Iterable[BadRow]) -> int:
    """Write the rows that were set aside, one JSON object a line, and return their number; no file for none."""
    path, rows = folder / SKIPPED, iter(bad)
    first = next(rows, None)
    if first is None:
        with output_errors(folder):
            path.unlink(missing_ok=True)
        return 0
    count = 0
    with write_atomically(path) as file:
        for row in itertools.chain([first], rows):
            # ASCII only, since a row may be bad for text that no encoding can write.
            file.write(json.dumps(row.record()).encode("ascii") + b"\n")
            count += 1
    return count

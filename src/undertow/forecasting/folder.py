"""What a forecast keeps, inside the folder of the audit that it goes on from.

DIR/…                                as of an audit
DIR/forecast/settings.json           what the features and the simulated run depend on
DIR/forecast/scaling.safetensors     the optimiser's scaling P^½, by parameter, bfloat16
DIR/forecast/features/part-00000.safetensors …   gradient features, each part whole or absent
DIR/forecast/entanglement.safetensors   all their inner products, and what simulations need besides
DIR/forecast/look.safetensors        log-probabilities at the simulated end
DIR/forecast.parquet                 one row a pair
DIR/held-out-forecast.parquet        with --held-out: one row a pair of that file
DIR/texts-forecast.parquet           with --texts: one row a text
DIR/token-weights.parquet            with --token-weights: what each response token counts
DIR/forecast.json                    written last: only with it the forecast is finished
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from undertow.files import output_errors, without_nonfinite, write_atomically, write_json
from undertow.runs.folder import RunFolder
from undertow.runs.names import FORECAST, HELD_OUT_FORECAST, PAIR_FORECAST, SUMMARIES, TEXTS_FORECAST, TOKEN_WEIGHTS

__all__ = ["ENTANGLEMENT", "FEATURES", "LOOK", "SCALING", "ForecastFolder", "read_tensors"]

SCALING, ENTANGLEMENT = "scaling.safetensors", "entanglement.safetensors"
FEATURES, LOOK = "features", "look"
_NUMBER = "number "


class ForecastFolder(RunFolder):
    """The forecast's own folder, and its results beside."""

    command, summary_name = FORECAST, SUMMARIES[FORECAST]
    own = (SCALING, ENTANGLEMENT, FEATURES, f"{LOOK}*.safetensors", "reference-*.npy")
    work = (SCALING, FEATURES)
    inner = (FEATURES,)

    def __init__(self, out: Path) -> None:
        super().__init__(out / FORECAST)
        self.out = out

    @property
    def finished(self) -> bool:
        """Whether the forecast was committed, and its tables stand."""
        return super().finished and all((self.out / name).exists() for name in (self.summary_name, PAIR_FORECAST))

    def part(self, index: int) -> Path:
        """Where a part of the features stands."""
        return self.folder / FEATURES / f"part-{index:05d}.safetensors"

    def keep(self, path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, float] | None = None) -> None:
        """Write tensors, whole or not at all; equal ones give equal bytes. ``numbers`` go beside them, exactly."""
        # As tensors: the metadata of such a file is written in any order.
        beside = {_NUMBER + name: torch.tensor([value], dtype=torch.float64) for name, value in (numbers or {}).items()}
        with write_atomically(path) as file:
            file.write(save({name: value.contiguous() for name, value in (dict(tensors) | beside).items()}))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table of results, whole or not at all."""
        with write_atomically(self.out / name) as file:
            pq.write_table(table, file, compression="zstd")

    def commit(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """End the forecast: its summary, in its own folder and last beside the scores."""
        found = super().commit(summary)
        write_json(self.out / self.summary_name, without_nonfinite(summary))
        return found

    def _clear(self) -> None:
        with output_errors(self.out):
            for name in (self.summary_name, PAIR_FORECAST, HELD_OUT_FORECAST, TEXTS_FORECAST, TOKEN_WEIGHTS):
                (self.out / name).unlink(missing_ok=True)
        super()._clear()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """Tensors and numbers as they were kept; None where they cannot be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (OSError, SafetensorError, ValueError):
        return None
    numbers = {name.removeprefix(_NUMBER): float(found.pop(name)) for name in [*found] if name.startswith(_NUMBER)}
    return found, numbers


def compact(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in float16, each over its largest entry, and those, ``[k]``: half the bytes at an error far below a
    sketch's own."""
    largest = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
    return (rows / largest.unsqueeze(1)).to(torch.float16), largest


def spread_out(rows: Tensor, largest: Tensor) -> Tensor:
    """The same back in float32."""
    return rows.float() * largest.unsqueeze(1)


def digest(*parts: object) -> str:
    """A hash of values, in their order."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()

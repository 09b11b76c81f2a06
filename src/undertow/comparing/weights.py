"""How far apart the weights of two checkpoints are, as they are stored, and how much of it a smaller type can show.

A few small steps of training change a weight by less than bfloat16 can tell apart from it. Rounded to that type, most
changed weights are what they were, and the others have moved by a whole step of the type: what is compared then is
rounding, not training.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from undertow.models.loading import load_weights
from undertow.models.sources import ModelSource

__all__ = ["TOLERATED", "WeightChange", "change_of", "weight_change"]

TOLERATED = 0.01
"""The share of changed weights that may be lost in rounding before a run is warned."""
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# Relative changes are counted in eighths of a power of two, from 2^-60 up: their median, within 5%, in little memory.
_STEPS, _LOWEST, _BINS = 8, -60, 640


@dataclass(frozen=True, slots=True)
class WeightChange:
    """The weights that differ between two checkpoints: ``changed`` of ``weights``; ``lost`` of these are equal once
    rounded to ``dtype``. ``median``: of ``|after − before| / |before|`` over the changed ones, NaN where none is."""

    weights: int
    changed: int
    lost: int
    median: float
    dtype: torch.dtype

    @property
    def resolution(self) -> float:
        """The smallest relative difference between two neighbouring numbers of the type."""
        return torch.finfo(self.dtype).eps / 2

    @property
    def visible(self) -> bool:
        """Whether the type shows the difference: next to nothing of it is lost in rounding."""
        return self.lost <= TOLERATED * self.changed

    def warning(self) -> str:
        """What a user should know who asked for the type."""
        kind = str(self.dtype).removeprefix("torch.")
        return (
            f"--dtype {kind} cannot show what changed: of {self.changed:,} weights that differ, "
            f"{self.lost / self.changed:.0%} are equal once rounded to {kind} (the median change is {self.median:.1e} "
            f"of a weight; {kind} tells apart {self.resolution:.1e}). The numbers are partly rounding: leave --dtype "
            "away to compare in float32."
        )


def change_of(before: Mapping[str, Tensor], after: Mapping[str, Tensor], dtype: torch.dtype) -> WeightChange:
    """Compare the weights that both have, tensor by tensor; those of one name and shape."""
    weights = changed = lost = 0
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if old.shape != new.shape or not old.is_floating_point():
            continue
        old, new = old.float(), new.float()
        differ = old != new
        weights += old.numel()
        changed += int(differ.sum())
        lost += int((differ & (old.to(dtype) == new.to(dtype))).sum())
        ratio = ((new[differ] - old[differ]).abs() / old[differ].abs()).log2()
        at = ((ratio - _LOWEST) * _STEPS).nan_to_num(posinf=_BINS).clamp(0, _BINS - 1).long()
        counts += torch.bincount(at, minlength=_BINS)
    middle = int(torch.searchsorted(counts.cumsum(0), (changed + 1) // 2))
    median = 2.0 ** ((middle + 0.5) / _STEPS + _LOWEST) if changed else math.nan
    return WeightChange(weights, changed, lost, median, dtype)


def weight_change(
    before: ModelSource, after: ModelSource, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> WeightChange:
    """The same for two models that are not loaded: from their safetensors files, one tensor of each in memory.

    A GGUF file and an adapter say nothing of single weights before they are dequantised or merged; such a model is
    loaded in float32.
    """
    with _stored(before, trust_remote_code) as old, _stored(after, trust_remote_code) as new:
        return change_of(old, new, dtype)


@contextlib.contextmanager
def _stored(source: ModelSource, trust_remote_code: bool) -> Iterator[Mapping[str, Tensor]]:
    files = _weight_files(source)
    if files is None:
        model = load_weights(source, dtype=torch.float32, trust_remote_code=trust_remote_code)
        yield dict(model.named_parameters())  # tied ones once, as files have them
        return
    with contextlib.ExitStack() as stack:
        yield _Stored([stack.enter_context(safe_open(file, framework="pt")) for file in files])


def _weight_files(source: ModelSource) -> list[Path] | None:
    """The files that a model's weights are read from as they are; None where there are none."""
    if source.gguf or source.adapter:
        return None
    index = _find(source, _INDEX)
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index else [_SINGLE]
    found = [_find(source, name) for name in names]
    whole = [path for path in found if path is not None]
    return whole if len(whole) == len(found) else None


def _find(source: ModelSource, name: str) -> Path | None:
    """A file of a folder or of a Hub id (fetched into the cache, where loading takes it from)."""
    found = cached_file(source.location, name, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


class _Stored(Mapping[str, Tensor]):
    """The tensors of open safetensors files, read when they are asked for."""

    def __init__(self, files: list[Any]) -> None:
        """From what ``safe_open`` gives."""
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118  # it is no mapping

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._files[name].get_tensor(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

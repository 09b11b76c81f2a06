"""Training runs of a tiny model on two dozen pairs: what the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command import some_rows, write_jsonl
from tiny import tiny_folder

__all__ = ["model", "prefs"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model."""
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pairs."""
    return write_jsonl(tmp_path_factory.mktemp("data") / "prefs.jsonl", some_rows(24))


def arguments(model: Path, prefs: Path, *more: object) -> list:
    """``undertow train`` for twelve steps; what is given more comes last, and wins."""
    return [
        "train", prefs, "--model", model, "--max-length", 400, "--lr", 1e-3, "--max-steps", 12, "--save-every", 4,
        "--track-every", 3, "--probe", 64, "--batch-size", 3, "--dtype", "float32", "--device", "cpu", *more,
    ]  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights a run ended with."""
    return load_file(out / "model" / "model.safetensors")


def same_weights(one: Path, two: Path) -> bool:
    """Whether two runs ended with the same bits."""
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

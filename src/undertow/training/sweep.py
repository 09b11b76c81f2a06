"""Several arms on the same data and seed, one table at the end: which mitigation works on your data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from undertow.errors import OptionError
from undertow.files import write_json

SUMMARY = "sweep.json"
COLUMNS = ("displaced", "chosen_change", "rejected_change", "margin_change", "accuracy", "largest_decrease")

Arm = Mapping[str, Any]
Train = Callable[[Arm, Path], dict[str, Any]]


def read_arms(path: str | Path) -> dict[str, Arm]:
    """A YAML file of arms: names, and the options in which each differs from the command line.

    Raises:
        OptionError: it cannot be read, or is not of that form.
    """
    try:
        arms = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"--sweep {path}: it cannot be read as YAML ({str(error).splitlines()[0]}).") from error
    form = "expected arms by name, each with its options, such as `dpo: {loss: dpo}` and `sft: {loss: rpo}`"
    if not isinstance(arms, dict) or not arms:
        raise OptionError(f"--sweep {path}: {form}.")
    for name, options in arms.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name) or not isinstance(options, dict | None):
            raise OptionError(f"--sweep {path}: the arm {name!r} is not of the form; {form}.")
    return {name: {str(k).replace("-", "_"): v for k, v in (options or {}).items()} for name, options in arms.items()}


def sweep(arms: Mapping[str, Arm], out: Path, train: Train) -> dict[str, Any]:
    """Train every arm into a folder of its own, and compare them; an arm that is finished is only read.

    Args:
        arms: options by name.
        out: the folder of the sweep; the arms stand in ``out/arms``.
        train: trains one arm into a folder, and returns what its ``train.json`` holds.
    """
    rows = [_row(name, train(options, out / "arms" / name)) for name, options in arms.items()]
    write_json(out / SUMMARY, {"arms": rows})
    return {"arms": rows}


def _row(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    tracked = summary["tracked"]
    gained: Sequence[str] = tracked.get("gaining_tokens", [])
    return {
        "arm": name,
        "loss": summary["arguments"]["loss"],
        "steps": summary["steps"],
        "pairs": summary["data"]["trained"],
        **{column: tracked.get(column) for column in COLUMNS},
        "gained": [text for text, gain in zip(gained, tracked.get("gaining", []), strict=True) if gain > 0],
    }

"""Several arms on the same data and seed, one table at the end: which mitigation works on your data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from undertow.errors import InputError, OptionError
from undertow.files import without_nonfinite, write_json
from undertow.runs.folder import REPORT
from undertow.runs.names import SUMMARIES, SWEEP
from undertow.runs.targets import Target
from undertow.training.settings import TrainSettings

SUMMARY, _ARMS = SUMMARIES[SWEEP], "arms"
COLUMNS = ("displaced", "chosen_change", "rejected_change", "margin_change", "reward_accuracy", "largest_decrease")

Plan = tuple[str, TrainSettings]
"""What an arm trains: its model's name, and its settings."""
Train = Callable[[str, TrainSettings, Path], dict[str, Any]]


def sweep_targets(out: Path) -> list[Target]:
    """What a sweep writes: unlike a run it has no folder for itself, so that its file of arms may stand in it."""
    files = [Target("--out", out / name) for name in (SUMMARY, REPORT)]
    return [Target("--out", out, "folder"), Target("--out", out / _ARMS, "run"), *files]


def sweep(data: str | Path, arms: Mapping[str, Plan], out: Path, train: Train) -> dict[str, Any]:
    """Train every arm into a folder of its own, and compare them; an arm that is finished is only read.

    Args:
        data: what all arms train on.
        arms: what each arm trains, by its name. All are checked before the first one trains.
        out: the folder of the sweep; the arms stand in ``out/arms``.
        train: trains one arm into a folder, and returns what its ``train.json`` holds.

    Raises:
        InputError: an arm cannot be trained; the message names it.
    """
    # Pages read the table of a sweep, and train nothing.
    from undertow.training.run import check_training, is_main_process

    if str(data) == "-" or Path(data).is_fifo():
        raise OptionError("--sweep: every arm reads the data anew, and a pipe is read once; write it to a file first.")
    folders = {name: out / _ARMS / name for name in arms}
    for name, (model, settings) in arms.items():
        with about_arm(name):
            check_training(model, folders[name], settings)
            settings.data.open(data)
    rows = [_arm_of(name, train(*plan, folders[name])) for name, plan in arms.items()]
    if is_main_process():
        write_json(out / SUMMARY, without_nonfinite({"arms": rows}))
    return {"arms": rows}


@contextlib.contextmanager
def about_arm(name: str) -> Iterator[None]:
    """Refusals inside say which arm they are about; ``""`` is a run that is no arm."""
    try:
        yield
    except InputError as error:
        if not name:
            raise
        raise OptionError(f"--sweep, the arm {name}: {error}") from error


def _arm_of(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    loss, pairs = summary["arguments"]["loss"], summary["data"]["trained"]
    return arm_row(name, loss=loss, steps=summary["steps"], pairs=pairs, tracked=summary["tracked"])


def arm_row(
    name: str, *, loss: str | None, steps: int, pairs: int | None, tracked: Mapping[str, Any]
) -> dict[str, Any]:
    """A run as a row of the table that compares several.

    Args:
        name: the arm's.
        loss: what was minimised.
        steps: of the optimiser.
        pairs: how many were trained on.
        tracked: the last look at the probe set; empty where there was none.
    """
    gained = zip(tracked.get("gaining_tokens") or (), tracked.get("gaining") or (), strict=True)
    return {
        "arm": name,
        "loss": loss,
        "steps": steps,
        "pairs": pairs,
        **{column: tracked.get(column) for column in COLUMNS},
        "gained": [text for text, gain in gained if (gain or 0) > 0],
    }

"""What is tracked: which pairs count as displaced, the two accuracies, and the numbers of each probe pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import undertow as ut
from command import run
from run_folders import made, trained
from tiny import random_pairs, tiny_tokenizer
from training_runs import arguments
from undertow.errors import OptionError
from undertow.maths.displacement import displaced
from undertow.runs.settings import LossSettings
from undertow.training.settings import TrainSettings
from undertow.training.tracking.look import Look
from undertow.training.tracking.tracker import Tracker, tracked_values

LOSS = {"loss": LossSettings("ipo"), "lr": 3e-3, "probe": 24}  # some chosen responses rise, some fall


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """The same run, once with any fall counted and once with falls by more than a nat."""
    folder = tmp_path_factory.mktemp("made")
    data, model = made(folder)
    return {by: trained(data, model, folder / f"by-{by}", displaced_by=by, **LOSS) for by in (0.0, 1.0)}


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / name).to_pylist()
    return rows


def test_displaced_counts_falls_by_more_than_so_many_nats(runs: dict[float, Path]) -> None:
    shares = {}
    for by, folder in runs.items():
        last, changes = (
            read(folder, "tracking.parquet")[-1],
            [r["chosen_change"] for r in read(folder, "probe.parquet")],
        )
        shares[by] = last["displaced"]
        assert last["displaced"] == np.mean(np.array(changes) < -by)
        assert [row["displaced"] for row in read(folder, "probe.parquet")] == [change < -by for change in changes]
        # How it was counted is written down with the numbers, and with what was asked for.
        assert {row["displaced_by"] for row in read(folder, "tracking.parquet")} == {by}
        told = json.loads((folder / "train.json").read_text())
        assert (told["arguments"]["displaced_by"], told["tracked"]["displaced_by"]) == (by, by)
    assert 0 < shares[1.0] < shares[0.0] < 1
    # Nothing else depends on it.
    one, two = (read(folder, "tracking.parquet") for folder in runs.values())
    for row, other in zip(one, two, strict=True):
        assert {**row, "displaced": 0, "displaced_by": 0} == {**other, "displaced": 0, "displaced_by": 0}


def test_a_threshold_by_hand() -> None:
    before, after = torch.tensor([-2.0, -2.0, -2.0, 0.0]), torch.tensor([-3.0, -3.5, -2.5, 1.0])
    assert displaced(before, after, by=1.0).tolist() == [False, True, False, False]  # by exactly one nat: not counted
    assert displaced(before, after).tolist() == [True, True, True, False]
    assert displaced(torch.tensor([-1.0]), torch.tensor([-torch.inf]), by=5.0).tolist() == [True]
    for by in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="by is"):
            displaced(before, after, by=by)


def test_a_threshold_below_zero_is_refused() -> None:
    with pytest.raises(OptionError, match=r"--displaced-by -1\.0"):
        TrainSettings(displaced_by=-1.0)


def test_a_guard_goes_by_the_threshold(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    """The share that a guard of the docs compares is of falls by more than the threshold."""
    base = [*arguments(model, prefs), "--loss", "ipo", "--lr", 3e-3, "--track-every", 2, "--max-steps", 4]
    guard = ["--guard", "displaced>0.2 -> stop", "--quiet"]
    assert run(capsys, *base, *guard, "--out", tmp_path / "any")[0] == 0
    assert run(capsys, *base, *guard, "--displaced-by", 1e6, "--out", tmp_path / "huge")[0] == 0
    steps = [json.loads((tmp_path / name / "train.json").read_text())["steps"] for name in ("any", "huge")]
    assert steps == [2, 4]


def test_the_two_accuracies_are_two(runs: dict[float, Path]) -> None:
    """The margin grew; the chosen response is the more probable one."""
    last, pairs = read(runs[0.0], "tracking.parquet")[-1], read(runs[0.0], "probe.parquet")
    assert last["reward_accuracy"] == np.mean([row["chosen_change"] > row["rejected_change"] for row in pairs])
    assert last["likelihood_accuracy"] == np.mean([row["chosen_logp"] > row["rejected_logp"] for row in pairs])
    assert last["reward_accuracy"] != last["likelihood_accuracy"]
    assert "accuracy" not in last
    (first, *_) = read(runs[0.0], "tracking.parquet")
    assert first["reward_accuracy"] == 0
    assert first["likelihood_accuracy"] > 0


def test_each_probe_pair_is_told_with_its_texts(runs: dict[float, Path]) -> None:
    folder = runs[0.0]
    pairs, last = read(folder, "probe.parquet"), read(folder, "tracking.parquet")[-1]
    assert {row["step"] for row in pairs} == {last["step"]}
    for name in ("chosen_logp", "rejected_logp", "chosen_change", "rejected_change"):
        assert np.mean([row[name] for row in pairs]) == pytest.approx(last[name], rel=1e-12)
    data = {pair.row: pair for pair in ut.read_pairs(folder.parent / "prefs.jsonl")}
    assert len(pairs) == len(data) == 24
    for row in pairs:
        pair = data[row["row"]]
        assert row["pair_id"] == pair.pair_id
        assert pair.prompt_text in row["prompt"]
        assert (row["chosen"], row["rejected"]) == (pair.chosen, pair.rejected)
        assert row["chosen_tokens"] == len(pair.chosen.encode()) + 1  # bytes, and the token that ends the turn


def test_a_value_that_guards_may_name_is_no_setting(tmp_path: Path) -> None:
    tracker = Tracker(random_pairs(2), tiny_tokenizer(), tmp_path, displaced_by=0.5)
    start = Look(torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], dtype=torch.float64), torch.full((2, 300), 1 / 300))
    tracker.add(0, start)
    values = tracker.add(2, Look(start.logps - torch.tensor([[1.0, 0.0], [0.25, 0.0]]), start.next_token))
    assert values == tracked_values(tracker.rows[-1])
    assert "displaced_by" not in values
    assert values["displaced"] == 0.5
    assert tracker.rows[-1]["displaced_by"] == 0.5

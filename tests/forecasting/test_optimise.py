"""What to leave out, chosen by simulation: counts, what is better for whom, and what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import undertow as ut
from command import run as run_command
from run_folders import forecast, held_out, made
from undertow.forecasting.optimise import choose_dropped, optimised_filter
from undertow.forecasting.simulation import simulate_order
from undertow.forecasting.stored import planned, read_stored
from undertow.maths.linearised import contributions, pushes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and a forecast of a run in which some fall."""
    folder = tmp_path_factory.mktemp("optimise")
    data, model = made(folder)
    return data, forecast(data, model, folder / "out", run={"lr": 1e-4}, held_out=str(held_out(folder)))


def test_weighted_pushes_are_weighted_rows_of_the_contributions() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(14, 20, generator=draw).double()
    kernel = features @ features.T
    w = torch.randn(8, generator=draw).double()
    rows, weights = torch.tensor([0, 2, 5, 9, 13]), torch.tensor([0.5, 0.0, 1.0, 3.0, 2.0])
    products = ut.maths.linearised.Kernel(kernel)
    found = pushes(products, w, rows, blocks=products.blocks(4), weights=weights, own=True)
    matrix = contributions(kernel, w, rows)
    torch.testing.assert_close(found, (weights.double()[:, None] * matrix).sum(0) / weights.sum(), rtol=1e-10, atol=0)
    without = pushes(products, w, rows, blocks=products.blocks(4), weights=weights)
    for at, row in enumerate(rows.tolist()):
        if row < 8:
            matrix[at, row // 2] = 0
    torch.testing.assert_close(without, (weights.double()[:, None] * matrix).sum(0) / weights.sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("objective", ["displaced", "chosen"])
def test_it_leaves_out_as_many_and_all_fare_better_than_by_chance(run: tuple[Path, Path], objective: str) -> None:
    _, out = run
    choice = choose_dropped(out, "25%", objective)
    assert len(set(choice.dropped.tolist())) == len(choice.dropped) == 6
    best, chance = choice.found[choice.method], choice.found["random"]
    if objective == "displaced":
        assert best["displaced_everywhere"] < chance["displaced_everywhere"]
        assert best["displaced_everywhere"] <= min(
            choice.found[way]["displaced_everywhere"] for way in ("push", "optimised")
        )
    else:
        assert best["chosen_everywhere"] > chance["chosen_everywhere"]
    assert choice.found["none"].keys() == best.keys()


def test_what_is_foretold_is_the_mean_over_other_orders(run: tuple[Path, Path]) -> None:
    _, out = run
    choice = choose_dropped(out, "4")
    stored = read_stored(out)
    settings, kept = planned(stored, out, {}, ())
    staying = np.setdiff1d(kept, choice.dropped)
    study = stored.study.elsewhere()  # in orders that were not looked at
    runs = [simulate_order(study, settings.train, staying, order="unknown", seed=seed) for seed in range(8, 16)]
    chosen = torch.stack([one.changes[0:48:2] for one in runs]).mean()
    held = torch.stack([one.below[48:62:2] for one in runs]).mean()
    assert choice.found[choice.method]["chosen"] == pytest.approx(float(chosen))
    assert choice.found[choice.method]["held_out_displaced"] == pytest.approx(float(held))


def test_the_rows_that_stay_are_written_as_they_were(run: tuple[Path, Path], tmp_path: Path) -> None:
    data, out = run
    summary, choice = optimised_filter(data, out, tmp_path / "kept.jsonl", drop="3", decisions=tmp_path / "why.csv")
    assert (summary.kept, summary.dropped) == (21, 3)
    lines = data.read_text().splitlines()
    expected = [line for number, line in enumerate(lines) if number not in choice.dropped.tolist()]
    assert (tmp_path / "kept.jsonl").read_text().splitlines() == expected
    why = list(csv.DictReader((tmp_path / "why.csv").open()))
    assert {int(row["row"]) for row in why if row["kept"] == "False"} == set(choice.dropped.tolist())
    ranks = {float(row["score"]) for row in why if row["kept"] == "False"}
    assert ranks == {1.0, 2.0, 3.0}


def test_the_command_says_what_each_way_would_do(run: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    data, out = run
    given = ["filter", str(data), "--scores", str(out), "--out", str(tmp_path / "kept.jsonl")]
    code, output, _ = run_command(capsys, *given, "--optimise", "displaced", "--drop", "10%", "--json")
    assert code == 0
    for words in ("nothing left out", "at random", "lowest push", "by simulation", "Left out: "):
        assert words in output
    told = json.loads(output[output.rindex("\n{") :])
    assert told["foretold"].keys() == {"none", "random", "push", "optimised"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--optimise", "displaced"], "--drop go together"),
        (["--drop", "10%"], "--drop go together"),
        (["--optimise", "displaced", "--drop", "10%", "--by", "push"], "no other selector"),
        (["--optimise", "displaced", "--drop", "10%", "--drop-duplicates"], "no other selector"),
        (["--optimise", "luck", "--drop", "10%"], "expected one of displaced, chosen"),
        (["--optimise", "displaced", "--drop", "24"], "at least one, and not all"),
        (["--optimise", "displaced", "--drop", "1%"], "at least one, and not all"),
    ],
)
def test_what_cannot_be_is_refused(
    run: tuple[Path, Path], options: list[str], said: str, tmp_path: Path, capsys
) -> None:
    data, out = run
    given = ["filter", str(data), "--scores", str(out), "--out", str(tmp_path / "kept.jsonl"), *options]
    code, _, err = run_command(capsys, *given)
    assert code == 2
    assert said in " ".join(err.split())
    assert not (tmp_path / "kept.jsonl").exists()


def test_a_forecast_of_a_sample_is_refused_with_the_way_out(run: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = run
    out = forecast(data, data.parent / "model", tmp_path / "out", sample=8, look=False)
    with pytest.raises(ut.OptionError, match=r"only 8 of the 24 pairs have features.*--sample 0"):
        choose_dropped(out, "10%")

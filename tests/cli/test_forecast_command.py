"""``undertow forecast``: training's options by their names, a recipe's too, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import undertow as ut
from command import run
from run_folders import made

SMALL = ["--max-length", 400, "--lr", "1e-4", "--batch-size", 3, "--sketch", 4093, "--quiet"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("inputs"))


def test_it_writes_what_an_audit_writes_and_the_forecast_beside(capsys, inputs, tmp_path: Path) -> None:
    data, model = inputs
    code, out, err = run(capsys, "forecast", data, "--model", model, "--out", tmp_path / "out", *SMALL, "--json")
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary == json.loads((tmp_path / "out" / "forecast.json").read_text())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"audit.json", "scores", "forecast.json", "forecast.parquet", "report.html"} <= names
    assert pq.read_metadata(tmp_path / "out" / "forecast.parquet").num_rows == summary["data"]["pairs"]
    assert summary["arguments"]["training"]["lr"] == 1e-4


def test_a_recipe_of_training_gives_the_run_to_simulate_and_what_is_typed_wins(capsys, inputs, tmp_path: Path) -> None:
    data, model = inputs
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {model}\nloss: ipo\nlr: 3e-5\nbatch-size: 2\ntrack-every: 7\nsave-every: 5\n")
    options = [
        "--max-length",
        400,
        "--config",
        recipe,
        "--batch-size",
        3,
        "--sketch",
        4093,
        "--no-look",
        "--json",
        "--quiet",
    ]
    code, out, err = run(capsys, "forecast", data, "--out", tmp_path / "out", *options)
    assert code == 0, err
    training = json.loads(out.splitlines()[-1])["arguments"]["training"]
    assert training["loss"].startswith("IPO")
    assert (training["lr"], training["batch_size"]) == (3e-5, 3)


def test_another_run_is_not_mixed_in(capsys, inputs, tmp_path: Path) -> None:
    data, model = inputs
    base = ["forecast", data, "--model", model, "--out", tmp_path / "out", *SMALL]
    assert run(capsys, *base)[0] == 0
    before = (tmp_path / "out" / "forecast.json").read_bytes()
    code, _, err = run(capsys, *base, "--loss", "simpo")
    assert code == 2
    assert "--overwrite" in err
    assert (tmp_path / "out" / "forecast.json").read_bytes() == before
    assert run(capsys, *base)[0] == 0  # the same again changes nothing
    assert (tmp_path / "out" / "forecast.json").read_bytes() == before


def test_from_python_with_the_options_names(inputs, tmp_path: Path) -> None:
    data, model = inputs
    found = ut.forecast(data, str(model), tmp_path / "out", max_length=400, lr=1e-4, batch_size=3, sketch=4093)
    assert found["arguments"]["training"]["batch_size"] == 3
    with pytest.raises(ut.OptionError, match="--batch-sise: there is no such option. Did you mean --batch-size"):
        ut.forecast(data, str(model), tmp_path / "other", batch_sise=3)
    assert not (tmp_path / "other").exists()


def test_a_training_run_gives_the_run_to_simulate(capsys, inputs, tmp_path: Path) -> None:
    data, model = inputs
    given = ["--lr", "3e-5", "--batch-size", 2, "--loss", "ipo", "--max-length", 400, "--max-steps", 2, "--seed", 4]
    code, _, err = run(capsys, "train", data, "--model", model, "--out", tmp_path / "run", *given, "--quiet")
    assert code == 0, err
    options = ["--config", tmp_path / "run", "--sketch", 4093, "--no-look", "--json", "--quiet", "--lr", "1e-5"]
    code, out, err = run(capsys, "forecast", data, "--out", tmp_path / "out", *options)
    assert code == 0, err
    training = json.loads(out.splitlines()[-1])["arguments"]["training"]
    trained = json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]
    assert training == {name: trained[name] for name in training} | {"lr": 1e-5}


def test_no_training_run_gives_nothing(capsys, inputs, tmp_path: Path) -> None:
    data, _ = inputs
    code, _, err = run(capsys, "forecast", data, "--config", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert f"--config {tmp_path}: expected a YAML file, or the folder of an `undertow train` run." in err


def test_other_runs_are_simulated_from_the_folder(capsys, inputs, tmp_path: Path) -> None:
    data, model = inputs
    assert run(capsys, "forecast", data, "--model", model, "--out", tmp_path / "out", *SMALL)[0] == 0
    options = ["--beta", "0.5", "--filter", "push drop-lowest 2"]
    code, out, err = run(capsys, "simulate", tmp_path / "out", *options, "--json")
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found == json.loads(json.dumps(ut.simulate(tmp_path / "out", beta=0.5, filter="push drop-lowest 2")))
    assert found["arguments"]["training"]["loss"] == "DPO(beta=0.5)"
    assert "left out" in out
    for option, value in (("optimiser", "sgd"), ("lora-r", 4), ("max-length", 9), ("model", "another"), ("texts", "f")):
        code, out, err = run(capsys, "simulate", tmp_path / "out", f"--{option}", value)
        assert (code, out) == (2, "")
        assert f"--{option} {value} " in err.split("`undertow forecast ")[1].split("--out ANOTHER`")[0]
    code, _, err = run(capsys, "simulate", tmp_path / "nothing")
    assert code == 2
    assert "does not exist" in err

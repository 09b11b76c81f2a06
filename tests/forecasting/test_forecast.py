"""A forecast of a run of the tiny model, held against that run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import undertow as ut
from run_folders import compared, forecast, held_out, made, train_settings, trained
from undertow.auditing.settings import check_audit_geometry
from undertow.forecasting.folder import read_tensors
from undertow.forecasting.forecast import forecast_to_folder
from undertow.forecasting.outcome import share_displaced
from undertow.forecasting.settings import ForecastSettings
from undertow.wording.forecast import forecast_verdict

RUN = {"lr": 1e-4, "batch_size": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Data, model, and the folder of a forecast."""
    folder = tmp_path_factory.mktemp("forecast")
    data, model = made(folder)
    settings = ForecastSettings(train=train_settings(**RUN), sketch=16_381)
    forecast_to_folder(data, str(model), folder / "out", settings)
    return data, model, folder / "out"


def test_a_forecast_foretells_the_run_of_the_same_options(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, model, out = runs
    after = trained(data, model, tmp_path / "run", **RUN) / "model"
    fact = pq.read_table(compared(data, model, after, tmp_path / "moved") / "pairs.parquet")
    foretold = pq.read_table(out / "forecast.parquet")
    for side in ("chosen", "rejected"):
        real, said = fact[f"dlogp_{side}"].to_numpy(), foretold[f"forecast_{side}"].to_numpy()
        assert np.corrcoef(real, said)[0, 1] > 0.95
        assert abs(np.mean(said) - np.mean(real)) < 0.2 * np.abs(real).mean()


def test_the_parts_sum_to_the_forecast(runs: tuple[Path, Path, Path]) -> None:
    table = pq.read_table(runs[2] / "forecast.parquet")
    parts = [table[name].to_numpy() for name in ("own_chosen", "others_chosen", "curvature_chosen")]
    np.testing.assert_allclose(sum(parts), table["forecast_chosen"].to_numpy(), atol=1e-9)


def test_features_that_were_lost_are_made_again_to_the_byte(runs: tuple[Path, Path, Path]) -> None:
    data, model, out = runs
    names = ["forecast.parquet", "forecast/features/part-00000.safetensors", "forecast/entanglement.safetensors"]
    before = [(out / name).read_bytes() for name in names]
    for name in ("forecast.json", "forecast/forecast.json", names[1], "forecast/look.safetensors"):
        (out / name).unlink()
    settings = ForecastSettings(train=train_settings(**RUN), sketch=16_381)
    forecast_to_folder(data, str(model), out, settings)
    assert [(out / name).read_bytes() for name in names] == before


def test_over_several_orders_the_share_is_the_mean_of_theirs(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Not the share of those whose mean change is below zero: no order need have that."""
    data, model, _ = runs
    out = forecast(data, model, tmp_path / "out", order="unknown", orders=3, held_out=str(held_out(tmp_path)))
    summary = json.loads((out / "forecast.json").read_text())
    table = pq.read_table(out / "forecast.parquet")
    assert summary["end"]["displaced"]["value"] == pytest.approx(summary["curve"][-1]["displaced"])
    assert summary["end"]["displaced"]["value"] == pytest.approx(table["forecast_displaced"].to_numpy().mean())
    held = pq.read_table(out / "held-out-forecast.parquet")["forecast_displaced"].to_numpy()
    assert summary["held_out"]["displaced"]["value"] == pytest.approx(held.mean())
    assert summary["data"]["trained_sample"] == len(table)
    assert share_displaced(np.array([0.25, 0.0, 0.5]), 0)["value"] == pytest.approx(0.25)


def test_where_the_run_ends_off_a_cliff_the_look_is_taken_before_it(
    runs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, model, out = runs
    near = json.loads((out / "forecast.json").read_text())["look"]
    far = json.loads((forecast(data, model, tmp_path / "far", run={"lr": 3e-2}) / "forecast.json").read_text())
    assert near["size"] == 1
    assert far["look"]["size"] < 1
    again = json.loads((forecast(data, model, tmp_path / "far", run={"lr": 3e-2}) / "forecast.json").read_text())
    assert again["end"] == far["end"]


def test_where_no_look_is_near_enough_nothing_is_counted(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """And the headline says why, and what to do."""
    data, model, _ = runs
    summary = json.loads((forecast(data, model, tmp_path / "far", run={"lr": 10.0}) / "forecast.json").read_text())
    assert (summary["look"]["told"], summary["counts"]) == (False, False)
    verdict = forecast_verdict(summary)
    assert "%" not in verdict.number
    assert "A lower learning rate" in " ".join(verdict.sentences)
    assert "--no-look" not in " ".join(verdict.sentences)


@pytest.mark.parametrize("geometry", ["sgd", "rmsprop"])
@pytest.mark.parametrize("adapter", [0, 4])
def test_products_over_all_parameters_are_of_the_runs_own_geometry(
    geometry: str, adapter: int, runs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Of the parameters that the run trains, scaled as its features are: these know the products up to the sketch."""
    data, model, _ = runs
    train = train_settings(**RUN, lora_r=adapter)
    settings = ForecastSettings(train=train, sketch=131_071, level="gradient", geometry=geometry, look=False)
    out = tmp_path / "out"
    summary = forecast_to_folder(data, str(model), out, settings)
    scores = ut.read_scores(out)
    assert set(scores.column_names) >= {"full_gg_cross", "full_dlogp_chosen", "full_by_layer", "forecast_chosen"}
    found = np.stack([scores[f"full_gg_{part}"].to_numpy() for part in ("chosen", "cross", "rejected")])
    total = [sum(layer["cross"] for layer in row) for row in scores["full_by_layer"].to_pylist()]
    np.testing.assert_allclose(total, found[1], rtol=1e-9)
    if settings.own_products:
        assert summary["gradients"]["geometry"] == geometry
        kinds = {layer["kind"] for row in scores["full_by_layer"].to_pylist() for layer in row}
        assert all("lora" in kind for kind in kinds) == bool(adapter)
    else:
        assert "gradients" not in summary
    if geometry == "rmsprop":
        kept = read_tensors(out / "forecast" / "entanglement.safetensors")
        assert kept is not None
        matrix = kept[0]["products"].double().numpy()
        chosen, rejected = np.arange(0, len(matrix), 2), np.arange(1, len(matrix), 2)
        sketched = np.stack([matrix[chosen, chosen], matrix[chosen, rejected], matrix[rejected, rejected]])
        norms = np.sqrt(found[0] * found[2])
        assert np.abs(sketched - found).max(axis=0) == pytest.approx(np.zeros(len(norms)), abs=0.1 * norms.max())
        assert np.corrcoef(sketched[1], found[1])[0, 1] > 0.9
    # Another geometry is another forecast.
    other = replace(settings, geometry="rmsprop" if geometry == "sgd" else "sgd")
    with pytest.raises(ut.InputError):
        forecast_to_folder(data, str(model), out, other)


def test_a_geometry_without_use_is_refused() -> None:
    with pytest.raises(ut.OptionError, match="--geometry rmsprop: it is of --level gradient"):
        ForecastSettings(train=train_settings(), geometry="rmsprop")
    with pytest.raises(ut.OptionError, match="expected one of sgd, rmsprop"):
        ForecastSettings(train=train_settings(), level="gradient", geometry="adam")
    with pytest.raises(ut.OptionError, match="sgd has no second moments"):
        ForecastSettings(train=train_settings(optimiser="sgd"), level="gradient", geometry="rmsprop")
    with pytest.raises(ut.OptionError, match="undertow forecast --level gradient"):
        check_audit_geometry("rmsprop", "gradient")

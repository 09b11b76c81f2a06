"""Simulations on stored features: equal to the forecast, to forecasts of other options, and without a model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import undertow as ut
from run_folders import made, train_settings
from undertow.forecasting.forecast import forecast_to_folder
from undertow.forecasting.settings import ForecastSettings
from undertow.forecasting.stored import simulate
from undertow.training.settings import TrainSettings, from_options, option_defaults, recorded_options

RUN = {"lr": 1e-4, "batch_size": 3, "epochs": 2.0}


def forecast(data: Path, model: Path, out: Path, **options) -> dict:
    own = {name: options.pop(name) for name in ("order", "orders", "sample", "held_out", "look") if name in options}
    settings = ForecastSettings(train=train_settings(**{**RUN, **options}), sketch=16_381, **own)
    return forecast_to_folder(data, str(model), out, settings)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, dict]:
    """Data, a model that is gone, the folder of a forecast with held-out pairs, and its summary."""
    folder = tmp_path_factory.mktemp("stored")
    data, model = made(folder)
    held_out = folder / "held-out.jsonl"
    held_out.write_text("\n".join(data.read_text().splitlines()[:4]).replace("Question", "Riddle") + "\n")
    summary = forecast(data, model, folder / "out", held_out=str(held_out))
    shutil.move(model, folder / "moved")
    return data, folder / "moved", folder / "out", summary


def test_with_no_options_it_is_the_forecast(stored) -> None:
    *_, out, summary = stored
    found = simulate(out)
    close(found["end"], summary["end"])
    for here, there in zip(found["curve"], summary["curve"], strict=True):
        close(here, there)
    close(found["held_out"], summary["held_out"])


def close(here: object, there: object) -> None:
    """Equal but for the matrix's own rounding: it is stored in float32."""
    if isinstance(there, dict):
        assert here.keys() == there.keys()
        for name in there:
            close(here[name], there[name])
    elif isinstance(there, float):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-5)
    else:
        assert here == there


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 3e-5},
        {"epochs": 1.0, "schedule": "constant"},
        {"optimiser": "adamw"},
        {"max_grad_norm": 0.05},
        {"seed": 3},
        {"max_steps": 4, "accumulate": 1},
    ],
    ids=str,
)
def test_another_run_is_what_a_fresh_forecast_of_it_says(stored, tmp_path: Path, options) -> None:
    """Without a look: its curvature is that of the run it was taken for. V is measured at the start, over batches of
    the same order; another seed or clipping gives others, and so the last digits."""
    data, model, *_ = stored
    plain = tmp_path / "plain"
    forecast(data, model, plain, look=False)
    fresh = forecast(data, model, tmp_path / "fresh", look=False, **options)
    found = simulate(plain, **options)
    assert found["end"]["steps"] == fresh["end"]["steps"]
    assert found["end"]["chosen"] == pytest.approx(fresh["end"]["chosen"], rel=0.15)
    assert found["end"]["loss"] == pytest.approx(fresh["end"]["loss"], rel=0.04)


def test_another_batch_size_moves_as_far_as_a_fresh_forecast_of_it(stored, tmp_path: Path) -> None:
    """The running second moment follows the gradients that come: no other V is needed for their size."""
    data, model, *_ = stored
    forecast(data, model, tmp_path / "small", look=False, batch_size=2)
    fresh = forecast(data, model, tmp_path / "large", look=False, batch_size=6)
    found = simulate(tmp_path / "small", batch_size=6)
    assert found["end"]["steps"] == fresh["end"]["steps"]
    for name in ("chosen", "rejected"):
        assert found["end"][name] == pytest.approx(fresh["end"][name], rel=0.25)


def test_a_filter_is_judged_on_kept_left_out_and_held_out_pairs(stored) -> None:
    *_, out, summary = stored
    found = simulate(out, filter="push drop-lowest 3")
    push = np.array(pq.read_table(out / "forecast.parquet")["push"].to_pylist())
    assert (found["left_out"]["pairs"], found["kept"]["pairs"]) == (3, len(push) - 3)
    assert found["all"]["pairs"] == len(push)
    assert found["data"]["trained"] == len(push) - 3
    assert found["held_out"]["pairs"] == 4
    assert found["forecast"] == summary["end"]
    # Leaving pairs out that push the others down leaves the others higher than leaving out those that lift them.
    worse = simulate(out, filter=["push drop-highest 3"], max_steps=found["end"]["steps"])
    assert found["all"]["chosen"] > worse["all"]["chosen"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimiser": "sgd"}, "--optimiser sgd: the features of .* are scaled for rmsprop.*undertow forecast"),
        ({"lora_r": 4}, "--lora-r: stored features do not tell that"),
        ({"max_length": 9}, "--max-length: stored features do not tell that"),
        ({"filter": "nonsense drop-lowest 3"}, "there is no score nonsense"),
        ({"filter": "push drop-lowest 100%"}, "--filter"),
        ({"loss": "dpoo"}, "did you mean dpo?"),
    ],
    ids=str,
)
def test_what_the_features_cannot_tell_is_refused(stored, options, message) -> None:
    with pytest.raises(ut.OptionError, match=message):
        simulate(stored[2], **options)


def test_another_loss_has_its_own_parameters(stored) -> None:
    *_, out, _ = stored
    for name, loss in (("ipo", "IPO(tau=0.1)"), ("simpo", "SimPO(beta=2.0, gamma=1.0)")):
        assert simulate(out, loss=name)["arguments"]["training"]["loss"] == loss
    assert simulate(out, beta=0.5)["arguments"]["training"]["loss"] == "DPO(beta=0.5)"
    # RMSProp does not mind the scale of a loss: twice the loss is nearly the same run (the clipping apart).
    calm = {"max_grad_norm": 1e9, "max_steps": 2, "schedule": "constant"}
    one, two = (simulate(out, beta=beta, **calm)["end"]["chosen"] for beta in (0.01, 0.02))
    assert one == pytest.approx(two, rel=0.05)


def test_nothing_to_simulate_on_is_refused(stored, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(stored[2], copy)
    (copy / "forecast" / "entanglement.safetensors").write_bytes(b"broken")
    with pytest.raises(ut.DataError, match=r"entanglement\.safetensors is missing or damaged"):
        simulate(copy)
    (copy / "forecast.json").unlink()
    with pytest.raises(ut.DataError, match="not finished"):
        simulate(copy)


@pytest.mark.parametrize("loss", [name for name in ut.losses.names() if name != "rebel"])
def test_recorded_settings_are_read_back(loss: str) -> None:
    given = option_defaults() | {
        "model": "m", "loss": loss, "ref": "other", "lr": 3e-5, "batch_size": 7,
        "columns": "prompt=q,chosen=a,rejected=b",
        "watch": ["no=No,Sorry"], "guard": ["displaced>0.5 -> stop"], "filter": ["ches drop-highest 5%"],
        "max_length": 99,
        "limit": 12, "calibrated": loss == "dpo",
    }  # fmt: skip
    settings = from_options(given)[1]
    record = json.loads(json.dumps(settings.record()))
    again = from_options(option_defaults() | {"model": "m"}, (), recorded_options(record, "train.json"))[1]
    assert again.loss.make() == settings.loss.make()
    assert replace(again, loss=settings.loss) == settings  # the loss now has its defaults written out
    assert again.record() == settings.record()


def test_settings_of_a_newer_version_are_refused() -> None:
    record = TrainSettings().record() | {"momentum": 0.5}
    with pytest.raises(ut.OptionError, match=r"train\.json: there is no option 'momentum'; a newer version"):
        recorded_options(record, "train.json")

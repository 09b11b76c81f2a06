"""Simulations on stored features: equal to the forecast, to forecasts of other options, and without a model."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

import undertow as ut
from run_folders import compared, made, train_settings, trained
from undertow.data.tokens.encoder import TokenSettings
from undertow.forecasting.forecast import forecast_to_folder
from undertow.forecasting.settings import ForecastSettings
from undertow.forecasting.simulation import Study, simulate_order
from undertow.forecasting.stored import read_stored, simulate
from undertow.runs.settings import DataSettings, LossSettings
from undertow.training.settings import TrainSettings, from_options, option_defaults, recorded_options

SKETCH = 40_009  # more than inner products are taken of at once: only then do sums differ from float32
RUN = {"lr": 1e-4, "batch_size": 3, "epochs": 2.0}


def forecast(data: Path, model: Path, out: Path, **options) -> dict:
    own = {
        name: options.pop(name)
        for name in ("order", "orders", "sample", "held_out", "look", "protect")
        if name in options
    }
    settings = ForecastSettings(train=train_settings(**{**RUN, **options}), sketch=SKETCH, **own)
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


def test_with_no_options_it_is_the_forecast_to_the_last_digit(stored) -> None:
    *_, out, summary = stored
    found = json.loads(json.dumps(simulate(out)))
    for name in ("end", "curve", "held_out", "counts", "data", "assumed"):
        assert found[name] == summary[name]
    assert found["all"] == found["kept"] == found["forecast"]["all"]
    assert found["forecast"]["held_out"] == summary["held_out"]


def test_so_it_is_on_features_that_are_too_many_for_a_matrix(stored, tmp_path: Path, monkeypatch) -> None:
    data, model, *_ = stored
    monkeypatch.setattr("undertow.forecasting.measure.LARGEST_KERNEL", 10)
    summary = forecast(data, model, tmp_path / "out")
    found = simulate(tmp_path / "out")
    assert (found["end"], found["curve"]) == (summary["end"], summary["curve"])
    part = tmp_path / "out" / "forecast" / "features" / "part-00000.safetensors"
    part.unlink()
    with pytest.raises(ut.DataError, match="features are missing"):
        simulate(tmp_path / "out")


def test_no_model_is_loaded(stored, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    for name in ("undertow.models.loading.load_model", "transformers.AutoModelForCausalLM.from_pretrained"):
        monkeypatch.setattr(name, refuse)
    simulate(stored[2], lr=3e-5)


def test_as_a_forecast_that_was_filtered_or_protects_held_out_pairs(stored, tmp_path: Path) -> None:
    data, model, *_ = stored
    held_out = tmp_path / "held.jsonl"
    held_out.write_text("\n".join(data.read_text().splitlines()[:3]).replace("Question", "Puzzle") + "\n")
    summary = forecast(
        data, model, tmp_path / "out", held_out=str(held_out), protect="held-out", filter=("ches drop-highest 4",)
    )
    found = simulate(tmp_path / "out")
    assert found["end"] == summary["end"]
    assert found["end"]["protected"] == {"what": "held-out", "count": 3}
    assert found["left_out"]["pairs"] == 4
    # What a rule leaves out comes on top of what the forecast left out.
    table = pq.read_table(tmp_path / "out" / "forecast.parquet")
    untrained = np.flatnonzero(table["step"].is_null().to_numpy())
    more = set(np.argsort(table["push"].to_numpy(), kind="stable")[:5]) - set(untrained)
    assert simulate(tmp_path / "out", filter="push drop-lowest 5")["data"]["trained"] == len(table) - 4 - len(more)


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


@pytest.mark.parametrize("clip", [1e9, 1.0], ids=["free", "clipped"])
@pytest.mark.parametrize("now", [1, 12])
def test_another_batch_size_is_what_training_with_it_does(stored, tmp_path: Path, now: int, clip: float) -> None:
    """The running second moment follows the size of the gradients that come: ``V`` of batches of three serves."""
    data, model, *_ = stored
    run = {"lr": 3e-5, "max_steps": 0, "epochs": 1.0, "schedule": "constant", "max_grad_norm": clip, "look": False}
    forecast(data, model, tmp_path / "three", **run, batch_size=3)
    forecast(data, model, tmp_path / "fresh", **run, batch_size=now)
    del run["look"]
    after = trained(data, model, tmp_path / "run", **run, batch_size=now, track_every=0) / "model"
    fact = pq.read_table(compared(data, model, after, tmp_path / "moved") / "pairs.parquet")
    real = np.stack([fact[f"dlogp_{side}"].to_numpy() for side in ("chosen", "rejected")], 1).flatten()
    here, fresh = read_stored(tmp_path / "three"), read_stored(tmp_path / "fresh")
    train = ForecastSettings.from_options({**here.options, "batch_size": now, "model": "m"})[1].train

    def slope(study: Study) -> float:
        said = simulate_order(study, train, here.kept).linear.numpy()
        assert np.corrcoef(said, real)[0, 1] > 0.97
        return float(said @ real / (said @ said))

    found = slope(here.study)
    assert 0.85 < found < 1.15
    if clip > 1:  # Were gradients compared with those of the new size, the step would be that of the old one.
        assert abs(np.log(slope(replace(here.study, mean_square=fresh.study.mean_square)))) > 2 * abs(np.log(found))


@pytest.mark.parametrize(("loss", "again"), [("ipo", 0.9), ("simpo", 0.7)])
def test_another_loss_ranks_as_a_fresh_forecast_of_it(stored, tmp_path: Path, loss: str, again: float) -> None:
    """``V`` is that of the first loss: where all pairs weigh the same in both at the start, so are the distances."""
    data, model, *_ = stored
    run = {"lr": 3e-5, "max_steps": 0, "epochs": 1.0, "look": False}
    forecast(data, model, tmp_path / "dpo", **run)
    forecast(data, model, tmp_path / "fresh", **run, loss=LossSettings(loss))
    here, fresh = read_stored(tmp_path / "dpo"), read_stored(tmp_path / "fresh")
    train = ForecastSettings.from_options(
        {**{k: v for k, v in here.options.items() if k != "beta"}, "loss": loss, "model": "m"}
    )[1].train
    said, anew = (simulate_order(one.study, train, one.kept).linear.numpy() for one in (here, fresh))
    assert np.corrcoef(said, anew)[0, 1] > 0.95
    assert again < float(said @ anew / (said @ said)) < 1 / again


def test_a_filter_is_judged_on_kept_left_out_and_held_out_pairs(stored) -> None:
    *_, out, summary = stored
    found = simulate(out, filter="push drop-lowest 3")
    push = np.array(pq.read_table(out / "forecast.parquet")["push"].to_pylist())
    assert (found["left_out"]["pairs"], found["kept"]["pairs"]) == (3, len(push) - 3)
    assert found["all"]["pairs"] == len(push)
    assert found["data"]["trained"] == len(push) - 3
    assert found["held_out"]["pairs"] == 4
    assert found["forecast"]["end"] == summary["end"]
    for part, some in (("left_out", np.argsort(push)[:3]), ("kept", np.argsort(push)[3:])):  # as it was foretold
        table = pq.read_table(out / "forecast.parquet").take(some)
        assert found["forecast"][part]["chosen"] == pytest.approx(table["forecast_chosen"].to_numpy().mean())
        said = table["forecast_displaced"].to_numpy().mean()
        assert found["forecast"][part]["displaced"]["value"] == pytest.approx(said)
    counts = [found[name]["pairs"] * found[name]["displaced"]["value"] for name in ("kept", "left_out", "all")]
    assert counts[0] + counts[1] == pytest.approx(counts[2])
    # Leaving pairs out that push the others down leaves the others higher than leaving out those that lift them.
    worse = simulate(out, filter=["push drop-highest 3"], max_steps=found["end"]["steps"])
    assert found["all"]["chosen"] > worse["all"]["chosen"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimiser": "sgd"}, "scaled for rmsprop. Forecast it anew: `undertow forecast .* --optimiser sgd --out"),
        ({"lora_r": 4}, r"--lora-r: the features of .*prefs\.jsonl --model .*model … --lora-r 4 --out ANOTHER`"),
        ({"max_length": 9}, "--max-length: .* … --max-length 9 --out ANOTHER"),
        ({"model": "an other"}, "--model: .*jsonl --model 'an other' … --out ANOTHER"),
        ({"eot": False}, "--eot: .* … --no-eot --out ANOTHER"),
        ({"btch_size": 9}, "--btch-size: there is no such option. Did you mean --batch-size?"),
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


def test_features_for_sgd_are_not_those_of_others(stored, tmp_path: Path) -> None:
    data, model, *_ = stored
    summary = forecast(data, model, tmp_path / "sgd", optimiser="sgd", lr=1e-3)
    assert simulate(tmp_path / "sgd")["end"] == summary["end"]
    with pytest.raises(ut.OptionError, match="scaled for sgd. Forecast it anew: .* --optimiser adamw --out"):
        simulate(tmp_path / "sgd", optimiser="adamw")


def test_a_parameter_of_the_loss_is_given_in_either_way(stored) -> None:
    *_, out, _ = stored
    same = simulate(out, beta=0.5)["end"]
    assert simulate(out, loss_args={"beta": 0.5})["end"] == same
    assert simulate(out, loss="dpo", loss_args={"beta": "0.5"})["end"] == same


def test_nothing_to_simulate_on_is_refused(stored, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(stored[2], copy)
    path = copy / "forecast" / "entanglement.safetensors"
    tensors = load_file(path)
    for changed, said in (
        ({"logps": tensors["logps"][1:]}, r"logps is \[\d+\], not"),
        ({"norms": tensors["norms"][1:]}, "norms is"),
        ({"kept": tensors["kept"] + 5}, "numbers pairs that are not there"),
        ({"number pairs": tensors["number pairs"] + 1}, "it is of 25 pairs, the scores of 24"),
    ):
        save_file(tensors | changed, path)
        with pytest.raises(ut.DataError, match=f"does not go with what stands beside it.*{said}.*--overwrite"):
            simulate(copy)
    save_file({name: tensors[name] for name in tensors if name != "tokens"}, path)
    with pytest.raises(ut.DataError, match="tokens"):
        simulate(copy)
    path.write_bytes(b"broken")
    with pytest.raises(ut.DataError, match=r"entanglement\.safetensors is missing or damaged"):
        simulate(copy)
    (copy / "forecast.json").write_text("{}")
    with pytest.raises(ut.DataError, match=r"forecast\.json is no summary of a forecast"):
        simulate(copy)
    (copy / "forecast.json").unlink()
    with pytest.raises(ut.DataError, match="not finished"):
        simulate(copy)


@pytest.mark.parametrize("loss", ut.losses.names())
def test_a_recorded_loss_is_read_back(loss: str) -> None:
    args = {"dpo-shift": {"steps": 9, "f_end": 0.3}, "rebel": {"eta": 0.3}}.get(loss, {})
    for given in (LossSettings(loss, args=args), LossSettings(loss, args=args, calibrated=True)):
        assert LossSettings.recorded(repr(given.make())).make() == given.make()


@pytest.mark.parametrize("text", ["DPO(0.1)", "DPO(beta=print())", "DPOO()", "DPO", "__import__('os')", "(", ""])
def test_what_tells_of_no_loss_is_refused(text: str) -> None:
    with pytest.raises(ut.OptionError, match="is no loss of this version"):
        LossSettings.recorded(text)


def test_every_setting_is_read_back() -> None:
    """Each field at a value that is not its default, one at a time."""
    plain = TrainSettings()
    other = {
        "ref": "other", "optimiser": "adamw", "schedule": "cosine", "lora_alpha": 8, "watch": {"no": ("No", "Sorry")},
        "guard": ("displaced>0.5 -> stop",), "filter": ("ches drop-highest 5%",), "report_to": "none",
        "device": "cpu", "dtype": "float32", "held_out": "x", "scores": "y",
        "loss": LossSettings("ipo", None, {"tau": 0.3}),
        "data": DataSettings(None, {"prompt": "q", "chosen": "a", "rejected": "b"}, "train", "n", 7, "skip", True),
        "tokens": TokenSettings(max_length=99, eot=False),
    }  # fmt: skip
    for field in fields(TrainSettings):
        value = getattr(plain, field.name)
        if field.name in other:
            value = other[field.name]
        elif isinstance(value, bool):
            value = not value
        else:
            value += 3
        more = {"lora_r": 4} if field.name == "lora_alpha" else {}
        settings = replace(plain, **{field.name: value}, **more)
        record = json.loads(json.dumps(settings.record()))
        again = from_options(option_defaults() | {"model": "m"}, (), recorded_options(record, "train.json"))[1]
        assert again.record() == settings.record(), field.name
        assert field.name == "report_to" or again.record() != plain.record()


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

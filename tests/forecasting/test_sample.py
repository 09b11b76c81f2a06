"""A forecast on a sample: what is known of pairs outside it, and pushes against exact products of gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import undertow as ut
from command import some_rows, write_jsonl
from engines import engine_of, entanglement, gradients
from run_folders import ROWS, made, train_settings
from tiny import tiny_folder, tiny_tokenizer
from undertow.forecasting import forecast as forecast_module
from undertow.forecasting.folder import read_tensors
from undertow.forecasting.forecast import forecast_to_folder, typical
from undertow.forecasting.look import response_logps
from undertow.forecasting.measure import bytes_needed
from undertow.forecasting.settings import ForecastSettings
from undertow.forecasting.simulation import Simulation, Study, simulated
from undertow.forecasting.stored import read_stored
from undertow.models.gradients import Response

TEXTS = [
    {"prompt": row["prompt"], "response": "No." + " No" * n, "group": ["yes", "no"][n % 2]}
    for n, row in enumerate(some_rows(6))
]
OUTCOMES = ("forecast_chosen", "forecast_rejected", "forecast_displaced", "own_chosen", "others_chosen")


def settings_of(folder: Path | None = None, *, train: dict[str, Any] | None = None, **options: Any) -> ForecastSettings:
    run = train_settings(**{"lr": 3e-5, "batch_size": 3, "max_steps": 0, **(train or {})})
    if folder is not None:
        options["texts"] = str(write_jsonl(folder / "texts.jsonl", TEXTS))
    return ForecastSettings(train=run, **{"sketch": 16_381, "look": False, "level": "text", **options})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("inputs"))


def columns(out: Path, name: str = "forecast") -> dict[str, list[Any]]:
    return pq.read_table(out / f"{name}.parquet").to_pydict()


@pytest.mark.parametrize(("order", "look"), [("train", True), ("unknown", False)])
def test_pairs_outside_have_a_push_and_no_forecast(inputs, order: str, look: bool, tmp_path: Path) -> None:
    """But for those that the filter leaves out: they are not trained, and push nobody."""
    data, model = inputs
    settings = settings_of(
        order=order, orders=5, sample=8, look=look, train={"filter": ("chosen_tokens drop-highest 6",)}
    )
    summary = forecast_to_folder(data, str(model), tmp_path / "out", settings)
    found = columns(tmp_path / "out")
    stored = read_stored(tmp_path / "out")
    inside, trained = (np.isin(np.arange(ROWS), some) for some in (stored.study.sample, stored.kept))
    assert (summary["data"]["sample"], summary["data"]["trained"], inside.sum()) == (8, ROWS - 6, 8)
    assert (inside & ~trained).any()
    for name in OUTCOMES:
        assert [value is not None for value in found[name]] == inside.tolist()
    assert [value is not None for value in found["push"]] == (inside | trained).tolist()
    assert [value is not None for value in found["step"]] == (trained & (order == "train")).tolist()
    for number in np.flatnonzero(inside):
        assert (found["own_chosen"][number] == 0) == (not trained[number])
        assert (found["push"][number] == 0) == (not trained[number])
    for number in np.flatnonzero(inside):
        share = found["forecast_displaced"][number]
        assert 0 <= share <= 1
        if order == "train":
            assert (share > 0.5) == (found["forecast_chosen"][number] < 0)


@pytest.mark.parametrize("order", ["train", "unknown"])
def test_pushes_of_pairs_outside_are_those_of_their_exact_gradients(inputs, order: str, tmp_path: Path) -> None:
    """A forward pass gives what ``K`` says between a pair and the protected, with the scaling that was measured;
    times the step weights that a pair of the sample gets on average (of sixteen or fewer: all of them)."""
    data, model = inputs
    out = tmp_path / "out"
    forecast_to_folder(data, str(model), out, settings_of(sample=8, order=order, orders=3, protect="all"))
    stored = read_stored(out)
    sample = stored.study.sample.tolist()
    kept = read_tensors(out / "forecast" / "scaling.safetensors")
    assert kept is not None
    scales, engine = kept[0], engine_of()
    assert scales.keys() == engine.parameters.keys()
    rows = gradients(engine, responses_by_hand())
    chosen = [rows[2 * pair] for pair in sample]
    toward = entanglement(chosen, rows, scales).mean(0).view(-1, 2)
    found = simulated(stored.study, settings_of().train, stored.kept, order=order, orders=3)
    typical = found.coefficients.view(-1, 2).mean(0)
    expected = (toward * typical).sum(1).numpy()
    push = np.array(columns(out)["push"])
    outside = np.setdiff1d(np.arange(ROWS), sample)
    np.testing.assert_allclose(push[outside], expected[outside], rtol=0.02, atol=0.02 * np.abs(expected).mean())


@pytest.mark.parametrize("order", ["train", "unknown"])
def test_the_look_moves_along_pairs_outside_as_well(inputs, order: str, tmp_path: Path) -> None:
    """The sample's pairs do their own part once, and as many others what all others are expected to do; what the linear
    model says of that move is ``⟨∇_r, P Σ w ∇⟩`` with exact gradients, within the sketch's error."""
    data, model = inputs
    out, settings = tmp_path / "out", settings_of(sample=8, order=order, orders=3, look=True)
    forecast_to_folder(data, str(model), out, settings)
    stored = read_stored(out)
    sample, scaled = stored.study.sample, read_tensors(out / "forecast" / "scaling.safetensors")
    looked = read_tensors(out / "forecast" / "look.safetensors")
    assert scaled is not None
    assert looked is not None
    engine, scales = engine_of(), scaled[0]
    before = simulated(stored.study.with_curvature(None), settings.train, stored.kept, order=order, orders=3)
    others = np.setdiff1d(np.arange(ROWS), sample)
    acting = np.sort(np.random.default_rng(settings.train.seed).permutation(others)[:8])
    w = torch.zeros(ROWS, 2, dtype=torch.float64)
    w[torch.from_numpy(sample)] = before.coefficients.view(-1, 2)
    w[torch.from_numpy(acting)] = typical(before, stored.study, acting) * (len(others) / len(acting))
    rows = gradients(engine, responses_by_hand())
    inside = [rows[2 * int(number) + side] for number in sample for side in (0, 1)]
    expected = entanglement(inside, rows, scales) @ w.flatten()
    error = (looked[0]["linear"] - expected).norm() / expected.norm()
    assert error < 0.05
    move = {name: scales[name].double().flatten() ** 2 * sum(
        float(c) * row[name] for c, row in zip(w.flatten(), rows, strict=True)) for name in scales}  # fmt: skip
    length = sum(float((move[name] ** 2 / scales[name].double().flatten() ** 2).sum()) for name in scales)
    assert looked[1]["length"] == pytest.approx(before.length if order == "unknown" else length, rel=0.05)
    with torch.no_grad():
        for name, parameter in engine.parameters.items():
            parameter += (looked[1]["size"] * move[name]).view(parameter.shape).to(parameter)
    there = response_logps(engine.model, [one for number in sample for one in responses_by_hand()[2 * number :][:2]],
                           batch_tokens=200)  # fmt: skip
    torch.testing.assert_close(looked[0]["logps"], there, rtol=0, atol=1e-3)


def responses_by_hand() -> list[Response]:
    """Of the data's rows, the chat written out."""
    tokenizer, found = tiny_tokenizer(), []
    ids = lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    for row in some_rows(ROWS):
        prompt = ids(f"<|user|>{row['prompt']}<|end|><|assistant|>")
        found += [Response(prompt, ids(f"{row[side]}<|end|>")) for side in ("chosen", "rejected")]
    return found


def test_columns_of_pushes_sum_to_the_linear_forecast(inputs, tmp_path: Path) -> None:
    """All pairs together push a group of texts by what it moves; a pair's own part is its own column."""
    data, model = inputs
    summary = forecast_to_folder(data, str(model), tmp_path / "out", settings_of(tmp_path, protect="all"))
    found = columns(tmp_path / "out")
    texts = columns(tmp_path / "out", "texts-forecast")
    assert set(texts["group"]) == {"yes", "no"}
    for group in ("yes", "no"):
        moved = [value for value, name in zip(texts["forecast"], texts["group"], strict=True) if name == group]
        assert sum(found[f"push:{group}"]) == pytest.approx(np.mean(moved), rel=1e-6)
        assert summary["texts"][group] == pytest.approx(np.mean(moved))
    assert np.mean(found["own_chosen"]) + sum(found["push"]) == pytest.approx(
        np.mean(found["forecast_chosen"]), rel=1e-6
    )


def test_typical_step_weights_are_those_of_the_sixteen_nearest_in_time() -> None:
    n, N = 40, 100
    sample = np.arange(0, 2 * n, 2)
    steps = np.arange(N) // 2 + 1
    steps[7] = 90
    w = torch.stack([torch.from_numpy(steps[sample]).double(), -2.0 * torch.from_numpy(steps[sample])], 1)

    none: Any = torch.zeros(0)

    def found(first: np.ndarray) -> Simulation:
        return Simulation(none, none, none, w.flatten(), none, 0.0, first, 60, 0.0, (), 0.0)

    study = Study(N, sample, none, none, none, none, none, None, 0, 1.0)
    numbers = np.array([7, 41, 1])
    likely = typical(found(steps), study, numbers)
    for number, got in zip(numbers, likely, strict=True):
        nearest = np.sort(np.abs(steps[sample] - steps[number]).argsort(kind="stable")[:16])
        assert abs(float(got[0]) - steps[sample][nearest].mean()) <= 1
        assert float(got[1]) == pytest.approx(-2 * float(got[0]))
    everyone = typical(found(np.zeros(N, dtype=np.int64)), study, numbers)
    torch.testing.assert_close(everyone, w.mean(0).expand(3, 2))


def test_a_stopped_forecast_is_not_mixed_with_another_model_or_other_data(inputs, tmp_path: Path) -> None:
    """Its features are of the first: the message names what differs and the way out, and nothing is lost."""
    data, model = inputs
    out, settings = tmp_path / "out", settings_of()
    forecast_to_folder(data, str(model), out, settings)
    for name in ("forecast.json", "forecast/forecast.json"):
        (out / name).unlink()
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    other_model = tiny_folder(tmp_path / "other", "llama-tied")
    other_data = write_jsonl(tmp_path / "other.jsonl", some_rows(ROWS + 1))
    for what, given in {
        "model|weights": (data, other_model, settings),
        "data": (other_data, model, settings),
        "lr": (data, model, settings_of(train={"lr": 1e-5})),
        "sketch": (data, model, settings_of(sketch=4093)),
    }.items():
        with pytest.raises(ut.InputError, match=rf"(?s)({what}).*--overwrite"):
            forecast_to_folder(given[0], str(given[1]), out, given[2])
        assert {path: path.read_bytes() for path in before} == before, what


def test_too_little_memory_is_refused_with_the_bytes_needed(inputs, tmp_path: Path, monkeypatch) -> None:
    """Three float32 copies of the trained weights, before anything of the forecast is measured."""
    data, model = inputs
    parameters = engine_of("llama", lora=4).parameters
    assert bytes_needed(parameters) == 3 * 4 * sum(value.numel() for value in parameters.values())

    class Full:
        available = 1000

    monkeypatch.setattr(forecast_module.psutil, "virtual_memory", lambda: Full)
    monkeypatch.setattr(forecast_module, "bytes_needed", lambda parameters: 3 * 2**30)
    with pytest.raises(ut.InputError, match=r"needs 3\.0 GiB .* 0\.0 GiB are free.*--lora-r"):
        forecast_to_folder(data, str(model), tmp_path / "out", settings_of())
    assert not (tmp_path / "out" / "forecast.json").exists()
    assert not list((tmp_path / "out").rglob("scaling.safetensors"))

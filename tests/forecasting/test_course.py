"""Training with its forecast beside it: the same values of the same pairs, guards, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import undertow as ut
from run_folders import compared, forecast, held_out, made, train_settings
from undertow.forecasting.course import foretelling
from undertow.forecasting.stored import simulate
from undertow.reporting import write_report
from undertow.training.guards.language import Guard
from undertow.training.run import train_to_folder

RUN = {"lr": 1e-4, "max_steps": 0, "track_every": 3}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """Data, model, unseen pairs, and a forecast."""
    folder = tmp_path_factory.mktemp("course")
    data, model = made(folder)
    unseen = held_out(folder)
    return data, model, unseen, forecast(data, model, folder / "forecast", run={"lr": 1e-4}, held_out=str(unseen))


def run(inputs: tuple[Path, Path, Path, Path], out: Path, *, held: bool = True, **options) -> dict:
    data, model, unseen, scores = inputs
    given = {**RUN, "scores": str(scores), "probe": 24, **({"held_out": str(unseen)} if held else {}), **options}
    return train_to_folder(data, str(model), out, train_settings(**given), foretelling=foretelling)


@pytest.fixture(scope="module")
def tracked(inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    out = tmp_path_factory.mktemp("tracked") / "run"
    run(inputs, out)
    return out, pq.read_table(out / "tracking.parquet").to_pylist()


def test_the_forecast_stands_beside_what_is_tracked(inputs, tracked) -> None:
    """Of all pairs at the end it is the forecast's own numbers; at the start nothing; and it comes true."""
    *_, scores = inputs
    _, rows = tracked
    summary = json.loads((scores / "forecast.json").read_text())
    assert [row["step"] for row in rows] == [0, 3, 6, 8]
    first, last = rows[0], rows[-1]
    assert all(first[name] == 0 for name in first if name.startswith("forecast/"))
    assert last["forecast/chosen_change"] == pytest.approx(summary["end"]["chosen"], rel=1e-6)
    assert last["forecast/displaced"] == pytest.approx(summary["end"]["displaced"]["value"], rel=1e-6)
    assert last["forecast/held_out/chosen_change"] == pytest.approx(summary["held_out"]["chosen"], rel=1e-6)
    assert last["forecast/margin_change"] == pytest.approx(
        last["forecast/chosen_change"] - last["forecast/rejected_change"]
    )
    at = {point["step"]: point for point in summary["curve"]}
    for row in rows[1:]:
        assert row["forecast/rejected_change"] == pytest.approx(at[row["step"]]["rejected"], rel=1e-6)
        assert abs(row["forecast/margin_change"] - row["margin_change"]) < 0.3 * abs(row["margin_change"])


def test_held_out_pairs_are_looked_at_as_compare_finds_them(inputs, tracked, tmp_path: Path) -> None:
    _, model, unseen, _ = inputs
    out, rows = tracked
    fact = pq.read_table(compared(unseen, model, out / "model", tmp_path / "unseen") / "pairs.parquet")
    chosen, rejected = (fact[f"dlogp_{side}"].to_numpy() for side in ("chosen", "rejected"))
    last = rows[-1]
    assert last["held_out/chosen_change"] == pytest.approx(chosen.mean(), abs=1e-3)
    assert last["held_out/margin_change"] == pytest.approx((chosen - rejected).mean(), abs=1e-3)
    assert last["held_out/displaced"] == pytest.approx((chosen < 0).mean())
    assert last["held_out/reward_accuracy"] == pytest.approx((chosen > rejected).mean())


def test_looking_beside_changes_nothing_of_the_training(inputs, tracked, tmp_path: Path) -> None:
    data, model, *_ = inputs
    out, _ = tracked
    train_to_folder(data, str(model), tmp_path / "plain", train_settings(**RUN, probe=24))
    files = [folder / "model" / "model.safetensors" for folder in (out, tmp_path / "plain")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_its_page_draws_both(tracked) -> None:
    out, _ = tracked
    page = write_report(out).read_text()
    assert "The forecast (pale): chosen" in page
    assert "Pairs that are not trained on" in page
    assert "by the forecast." in page


def test_a_guard_compares_with_the_forecast_at_the_same_step(inputs, tmp_path: Path) -> None:
    """A hundred nats below the forecast the run is at once; above it never."""
    found = run(
        inputs, tmp_path / "run", held=False,
        guard=("margin_change>forecast-100 -> warn", "margin_change>forecast+100 -> stop"),
    )  # fmt: skip
    assert {firing["guard"] for firing in found["firings"]} == {"margin_change>forecast-100 -> warn"}
    firing = found["firings"][0]
    assert firing["step"] == 3
    assert set(firing["values"]) == {"margin_change", "forecast/margin_change"}


def test_other_options_of_the_run_are_simulated_anew(inputs, tmp_path: Path) -> None:
    """Its rate, loss and filter are the run's own, on the forecast's features."""
    *_, scores = inputs
    run(inputs, tmp_path / "run", held=False, lr=5e-5, filter=("edit_distance drop-lowest 6",))
    last = pq.read_table(tmp_path / "run" / "tracking.parquet").to_pylist()[-1]
    again = simulate(scores, lr=5e-5, filter="edit_distance drop-lowest 6")
    assert last["forecast/chosen_change"] == pytest.approx(again["all"]["chosen"], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_steps": 0, "lora_r": 4}, "--lora-r 0, not 4"),
        ({"optimiser": "sgd"}, "--optimiser sgd; forecast this run"),
        ({"displaced_by": 1.0, "guard": ("displaced>forecast -> warn",)}, "no forecast of displaced"),
    ],
)
def test_features_of_another_run_are_refused(inputs, options: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ut.OptionError, match=said):
        run(inputs, tmp_path / "run", **options)


def test_a_forecast_of_other_data_is_refused(inputs, tmp_path: Path) -> None:
    _, model, _, scores = inputs
    data, _ = made(tmp_path / "other", [{"prompt": f"{n}?", "chosen": "Yes.", "rejected": "No!"} for n in range(9)])
    settings = train_settings(**RUN, scores=str(scores))
    with pytest.raises(ut.OptionError, match="of another run: its data differ"):
        train_to_folder(data, str(model), tmp_path / "run", settings, foretelling=foretelling)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scores": "somewhere", "track_every": 0}, "--scores: it is part of tracking"),
        ({"held_out": "somewhere", "track_every": 0}, "--held-out: it is part of tracking"),
        ({"scores": "somewhere", "sft_epochs": 1.0}, "--scores: a forecast begins where"),
        ({"guard": ("displaced>forecast+0.1 -> warn",)}, "no forecast of displaced; give --scores"),
        ({"guard": ("held_out/displaced>0.1 -> warn",)}, "held_out/displaced is not tracked"),
        ({"scores": "somewhere", "guard": ("margin>forecast -> warn",)}, "no forecast of margin"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(options: dict, said: str) -> None:
    with pytest.raises(ut.OptionError, match=said):
        train_settings(**options)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("displaced > forecast + 0.1 -> warn", "displaced>forecast+0.1 -> warn"),
        ("displaced>forecast->warn", "displaced>forecast -> warn"),
        ("chosen_change <= forecast - 2 for 3 -> stop", "chosen_change<=forecast-2 for 3 -> stop"),
        ("a>forecast+0 and b<1 -> drop=5%", "a>forecast and b<1 -> drop=5%"),
    ],
)
def test_guards_with_a_forecast_are_read_and_written(text: str, same: str) -> None:
    guard = Guard.parse(text)
    assert str(guard) == same
    assert Guard.parse(same) == guard


@pytest.mark.parametrize(
    "text", ["a>forecast+ -> warn", "a>forecasts -> warn", "a>forecast+x -> warn", "a>-forecast -> warn"]
)
def test_what_is_no_such_guard_is_refused(text: str) -> None:
    with pytest.raises(ut.OptionError, match="expected a finite number"):
        Guard.parse(text)


def test_a_condition_with_a_forecast_holds_against_it() -> None:
    guard = Guard.parse("displaced>forecast+0.1 -> warn")
    assert guard.holds({"displaced": 0.5, "forecast/displaced": 0.3})
    assert not guard.holds({"displaced": 0.5, "forecast/displaced": 0.45})
    assert not guard.holds({"displaced": 0.5, "forecast/displaced": float(np.nan)})

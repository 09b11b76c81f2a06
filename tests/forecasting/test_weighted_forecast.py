"""Forecasts of runs in which the tokens count by weights, held against those runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import undertow as ut
from command import write_jsonl
from run_folders import compared, forecast, held_out, made, trained, watched_texts
from undertow.runs.settings import LossSettings

RUN: dict[str, Any] = {"lr": 1e-4, "batch_size": 3}
COLUMNS = ("forecast_chosen", "forecast_rejected", "own_chosen", "push")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("inputs"))


def weighted(by: str) -> dict[str, Any]:
    return RUN | {"loss": LossSettings(token_weights=by)}


def columns(out: Path, name: str = "forecast") -> dict[str, Any]:
    return pq.read_table(out / f"{name}.parquet").to_pydict()


@pytest.mark.parametrize("by", ["shared", "entangled"])
def test_a_weighted_forecast_foretells_the_weighted_run(by: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """Changes of the whole responses, which the run moves by weighted steps. Both know the same weights."""
    data, model = inputs
    held = str(held_out(tmp_path))
    out = forecast(data, model, tmp_path / "out", run=weighted(by), held_out=held)
    plain = forecast(data, model, tmp_path / "plain", run=RUN)
    real_run = trained(data, model, tmp_path / "run", **weighted(by))
    tables = [(folder / "token-weights.parquet").read_bytes() for folder in (out, real_run)]
    assert tables[0] == tables[1]
    fact = pq.read_table(compared(data, model, real_run / "model", tmp_path / "moved") / "pairs.parquet")
    foretold, unweighted = columns(out), columns(plain)
    for side in ("chosen", "rejected"):
        real, said = fact[f"dlogp_{side}"].to_numpy(), np.array(foretold[f"forecast_{side}"])
        assert np.corrcoef(real, said)[0, 1] > 0.95
        error, other = np.abs(said - real).mean(), np.abs(np.array(unweighted[f"forecast_{side}"]) - real).mean()
        assert error < 0.3 * np.abs(real).mean()
        assert error < other
    parts = [np.array(foretold[f"{part}_chosen"]) for part in ("own", "others", "curvature")]
    np.testing.assert_allclose(sum(parts), foretold["forecast_chosen"], atol=1e-9)
    moved = pq.read_table(compared(Path(held), model, real_run / "model", tmp_path / "held-moved") / "pairs.parquet")
    held_said = columns(out, "held-out-forecast")["forecast_chosen"]
    assert np.corrcoef(moved["dlogp_chosen"].to_numpy(), held_said)[0, 1] > 0.9


@pytest.mark.parametrize(
    "options", [{}, {"order": "unknown", "orders": 3}, {"sample": 8}], ids=["train", "any", "part"]
)
def test_weights_of_ones_change_nothing(options: dict[str, Any], inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """Features of both kinds of rows are then the same, and so is what comes of them."""
    data, model = inputs
    some = trained(data, model, tmp_path / "some", **(weighted("shared") | {"max_steps": 1}))
    rows = pq.read_table(some / "token-weights.parquet").to_pylist()
    for row in rows:
        row |= {name: [1.0] * len(row[name]) for name in ("chosen_weights", "rejected_weights")}
    ones = str(write_jsonl(tmp_path / "ones.jsonl", rows))
    texts = str(watched_texts(tmp_path))
    options = {"texts": texts, "held_out": str(held_out(tmp_path)), **options}
    one = forecast(data, model, tmp_path / "plain", run=RUN, **options)
    two = forecast(data, model, tmp_path / "ones", run=weighted(ones), **options)
    # What a forward pass in packs of other widths gives differs in its last digits, and so do the steps.
    for table, names in (("forecast", COLUMNS), ("texts-forecast", ("forecast",)), ("held-out-forecast", COLUMNS[:2])):
        plain, by_ones = columns(one, table), columns(two, table)
        for name in names:
            a, b = (np.array(found[name], dtype=np.float64) for found in (plain, by_ones))
            assert (np.isnan(a) == np.isnan(b)).all()
            np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-3 * np.nanmax(np.abs(a)), err_msg=f"{table} {name}")


def test_what_is_stored_answers_questions_about_the_weighted_loss(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """Another β: simulated from the same features, which are those of the weighted responses."""
    data, model = inputs
    out = forecast(data, model, tmp_path / "out", run=weighted("shared"), look=False)
    loss = LossSettings(beta=0.3, token_weights="shared")
    anew = forecast(data, model, tmp_path / "anew", run=RUN | {"loss": loss}, look=False)
    found = ut.simulate(out, beta=0.3)["all"]
    for side in ("chosen", "rejected"):
        assert found[side] == pytest.approx(np.mean(columns(anew)[f"forecast_{side}"]), rel=1e-6)
    assert found["chosen"] != pytest.approx(np.mean(columns(out)["forecast_chosen"]), rel=1e-3)


def test_features_that_were_lost_are_made_again_to_the_byte(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = inputs
    out = forecast(data, model, tmp_path / "out", run=weighted("entangled"))
    names = ["forecast.parquet", "forecast/features/part-00000.safetensors", "token-weights.parquet"]
    before = [(out / name).read_bytes() for name in names]
    for name in ("forecast.json", "forecast/forecast.json", *names, "forecast/look.safetensors"):
        (out / name).unlink()
    assert forecast(data, model, tmp_path / "out", run=weighted("entangled")) == out
    assert [(out / name).read_bytes() for name in names] == before
    with pytest.raises(ut.UndertowError):
        forecast(data, model, tmp_path / "out", run=weighted("shared"))

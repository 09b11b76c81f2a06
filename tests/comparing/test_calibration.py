"""A forecast held against what happened: shares, means, the line and the bins, against slow arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import linregress, spearmanr

import undertow as ut
from command import run, some_rows
from run_folders import audited, compared, forecast, forecast_beside, made, trained
from undertow.comparing.calibration import calibration, one_side
from undertow.comparing.folder import read_comparison
from undertow.comparing.prediction import predictions_of
from undertow.wording.comparison import calibration_says

ROWS = 30
RUN = {"lr": 1e-4, "batch_size": 3, "max_steps": 0}


@pytest.fixture(scope="module")
def made_here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Data, the tiny model, and the same after a training."""
    folder = tmp_path_factory.mktemp("made")
    data, model = made(folder, some_rows(ROWS))
    return data, model, trained(data, model, folder / "run", **RUN) / "model"


@pytest.fixture(scope="module")
def done(made_here: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A forecast of that training, and a comparison that holds it against what happened."""
    data, model, after = made_here
    folder = tmp_path_factory.mktemp("done")
    scores = forecast(data, model, folder / "scores", run=RUN)
    return scores, compared(data, model, after, folder / "moved", scores=(str(scores),))


def known(values: Any) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values.to_pylist()], dtype=float)


def test_a_forecast_is_held_against_the_run_that_it_foretold(done: tuple[Path, Path]) -> None:
    scores, moved = done
    table, summary = read_comparison(moved)
    foretold = ut.read_scores(scores)
    found = summary["calibration"]
    assert found["look"] is True
    for side in ("chosen", "rejected"):
        said, fact, one = known(foretold[f"forecast_{side}"]), known(table[f"dlogp_{side}"]), found[side]
        assert one["pairs"] == ROWS
        assert one["displaced"]["forecast"] == pytest.approx(np.mean(said < 0))
        assert one["displaced"]["realised"]["value"] == pytest.approx(np.mean(fact < 0))
        assert one["mean"]["forecast"] == pytest.approx(said.mean())
        assert one["mean"]["realised"]["value"] == pytest.approx(fact.mean())
        line = linregress(said, fact)
        assert (one["slope"]["value"], one["intercept"]["value"]) == pytest.approx((line.slope, line.intercept))
        assert one["slope"]["low"] < one["slope"]["value"] < one["slope"]["high"]
        assert one["spearman"]["value"] == pytest.approx(spearmanr(said, fact).statistic)
        assert 0.7 < one["slope"]["value"] < 1.3  # it is a forecast in nats, not only in order
    said = known(foretold["forecast_displaced"])
    assert found["chosen"]["displaced"]["probability"] == pytest.approx(said.mean())
    assert found["rejected"]["displaced"]["probability"] is None
    assert next(iter(summary["prediction"]["predictors"])) == "forecast_chosen"


def test_bins_are_fifths_by_the_forecast(done: tuple[Path, Path]) -> None:
    scores, moved = done
    table, summary = read_comparison(moved)
    said, fact = known(ut.read_scores(scores)["forecast_chosen"]), known(table["dlogp_chosen"])
    fifths = np.argsort(said).reshape(5, -1)
    bins = summary["calibration"]["chosen"]["bins"]
    assert [one["pairs"] for one in bins] == [ROWS // 5] * 5
    for one, part in zip(bins, fifths, strict=True):
        assert one["forecast"] == pytest.approx(said[part].mean())
        assert one["realised"] == pytest.approx(fact[part].mean())
        assert one["displaced"] == {"forecast": np.mean(said[part] < 0), "realised": np.mean(fact[part] < 0)}


def scored(foretold: list[float | None], **more: Any) -> pa.Table:
    ids = [f"{n:016x}" for n in range(len(foretold))]
    return pa.table({"row": range(len(ids)), "pair_id": ids, "forecast_chosen": pa.array(foretold), **more})


def fact_of(chosen: list[float]) -> pa.Table:
    ids = [f"{n:016x}" for n in range(len(chosen))]
    return pa.table({"row": range(len(ids)), "pair_id": ids, "dlogp_chosen": chosen, "dlogp_rejected": chosen})


def test_pairs_without_a_forecast_are_left_out() -> None:
    """The scores in another order, and one pair of the table not among them."""
    table = scored([2.0, None, -1.0, 4.0, -3.0]).take([4, 2, 0, 1, 3])
    found = calibration(predictions_of(table), fact_of([1.0, 9.0, -0.5, 2.0, 1.5, 9.0]), resamples=20, seed=0)
    assert found is not None
    chosen = found["chosen"]
    assert chosen["pairs"] == 4
    assert chosen["displaced"]["forecast"] == 0.5
    assert chosen["displaced"]["realised"]["value"] == 0.25
    assert chosen["mean"] == {"forecast": 0.5, "realised": chosen["mean"]["realised"]}
    assert chosen["mean"]["realised"]["value"] == 1.0
    assert chosen["slope"]["value"] == pytest.approx(linregress([2, -1, 4, -3], [1, -0.5, 2, 1.5]).slope)
    assert [one["pairs"] for one in chosen["bins"]] == [4]
    assert found["rejected"]["pairs"] == 0
    assert found["rejected"]["mean"]["forecast"] is None
    assert found["rejected"]["bins"] == []


def test_without_a_forecast_there_is_no_calibration(made_here: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, model, after = made_here
    scores = audited(data, model, tmp_path / "scores")
    _, summary = read_comparison(compared(data, model, after, tmp_path / "moved", scores=(str(scores),)))
    assert summary["calibration"] is None
    assert calibration_says(summary) == []
    assert read_comparison(compared(data, model, after, tmp_path / "bare"))[1]["calibration"] is None


def test_another_forecast_is_another_comparison(made_here, tmp_path: Path, done: tuple[Path, Path]) -> None:
    """The forecast of the rejected responses is in the numbers, so it is in the fingerprint."""
    scores = audited(*made_here[:2], tmp_path / "scores")
    table = ut.read_scores(forecast_beside(scores, tmp_path / "both")[0])
    other = table.set_column(
        table.column_names.index("forecast_rejected"), "forecast_rejected", pa.array(np.zeros(ROWS))
    )
    assert predictions_of(table).fingerprint != predictions_of(other).fingerprint


def test_a_constant_forecast_has_no_slope() -> None:
    found = one_side(np.full(6, 0.3), np.arange(6.0), None, resamples=20, seed=0)
    assert found["slope"] == found["intercept"] == found["spearman"] == {"value": None, "low": None, "high": None}


def test_the_terminal_says_whether_the_forecast_was_right(capsys, made_here, done, tmp_path: Path) -> None:
    data, before, after = made_here
    scores, moved = done
    options = ["--scores", scores, "--max-length", 400, "--dtype", "float32", "--out", tmp_path / "moved"]
    code, out, err = run(capsys, "compare", data, "--before", before, "--after", after, *options)
    assert code == 0, err
    sentences = calibration_says(read_comparison(tmp_path / "moved")[1])
    assert len(sentences) == 3
    assert "Forecast and fact" in out
    for sentence in sentences:
        assert sentence in out
    written = json.loads((moved / "compare.json").read_text())["calibration"]
    here = json.loads((tmp_path / "moved" / "compare.json").read_text())["calibration"]
    assert here["chosen"]["bins"] == written["chosen"]["bins"]


def side(pairs: int, share: float, mean: float, **more: Any) -> dict[str, Any]:
    def exactly(value: float | None) -> dict[str, float | None]:
        return {"value": value, "low": None, "high": None}

    return {
        "pairs": pairs,
        "displaced": {"forecast": share, "probability": None, "realised": {"value": 0.27, "low": 0.22, "high": 0.32}},
        "mean": {"forecast": mean, "realised": exactly(mean + 1)},
        "slope": {"value": 0.94, "low": 0.9, "high": 0.98},
        "intercept": exactly(0.1),
        "spearman": exactly(0.98),
        "bins": [],
    } | more


def test_the_forecast_against_fact_in_words() -> None:
    found = {"look": True, "chosen": side(318, 0.25, 4.1), "rejected": side(318, 0.9, -14.6)}
    area = {"forecast_chosen": {"auc": {"value": 0.99, "low": None, "high": None}}}
    assert calibration_says({"calibration": found, "prediction": {"predictors": area}}) == [
        "The forecast had 25% of 318 chosen responses lose probability; 27% did (95%: 22% to 32%).",
        "Mean changes, in nats: +4.10 for a chosen response, −14.6 for a rejected response foretold; +5.10, −13.6 in "
        "fact.",
        "Chosen responses, fact on forecast: slope 0.940 (95%: 0.900 to 0.980), Spearman 0.980, AUC 0.990. A slope of "
        "1: neither over- nor understated.",
    ]
    found["chosen"]["displaced"]["probability"] = 0.31  # over several orders, the mean of their shares
    found |= {"look": False, "rejected": side(0, 0.0, 0.0)}
    says = calibration_says({"calibration": found, "prediction": None})
    assert says[0].startswith("The forecast had 31% of 318")
    assert says[1] == "Mean changes, in nats: +4.10 for a chosen response foretold; +5.10 in fact."
    assert "AUC" not in says[2]
    assert "without a look" in says[3]

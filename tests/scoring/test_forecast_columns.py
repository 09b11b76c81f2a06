"""A forecast's columns beside the scores: joined by pair, asked for by name, cleared with the scores they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import undertow as ut
from command import run
from run_folders import audited, forecast, forecast_beside, made
from undertow.scoring.columns import FORECAST_COLUMNS


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("scored")
    data, model = made(folder)
    return data, model, audited(data, model, folder / "scores")


def test_scores_are_read_with_the_forecast_that_stands_beside_them(scored, tmp_path: Path) -> None:
    _, _, scores = scored
    folder, foretold = forecast_beside(scores, tmp_path / "both")
    table = ut.read_scores(folder)
    assert table.column_names == [*ut.read_scores(scores).column_names, *FORECAST_COLUMNS, "push:refusals"]
    for name in FORECAST_COLUMNS:
        assert table[name].to_pylist() == foretold[name].to_pylist()
    assert ut.read_scores(folder, ["push"]).column_names == ["push"]


def test_an_unfinished_forecast_is_not_read(scored, tmp_path: Path) -> None:
    folder, _ = forecast_beside(scored[2], tmp_path / "both")
    (folder / "forecast.json").unlink()
    assert ut.read_scores(folder).column_names == ut.read_scores(scored[2]).column_names


def test_a_forecast_of_other_pairs_is_refused(scored, tmp_path: Path) -> None:
    folder, foretold = forecast_beside(scored[2], tmp_path / "both")
    ids = ["0" * 16, *foretold["pair_id"].to_pylist()[1:]]
    pq.write_table(foretold.set_column(1, "pair_id", pa.array(ids)), folder / "forecast.parquet")
    with pytest.raises(ut.DataError, match=r"forecast\.parquet is of other pairs.*undertow forecast"):
        ut.read_scores(folder)


def test_what_a_forecast_would_add_is_said_where_it_is_not_there(capsys, scored, tmp_path: Path) -> None:
    data, _, scores = scored
    with pytest.raises(ut.OptionError, match="`undertow forecast` into their folder adds it"):
        ut.read_scores(scores, ["push"])
    options = ["--scores", scores, "--by", "push", "--drop-lowest", "10%", "--out", tmp_path / "kept.jsonl"]
    code, _, err = run(capsys, "filter", data, *options)
    assert code == 2
    assert "`undertow forecast`" in err


@pytest.mark.parametrize("by", ["push", "forecast_chosen", "push:refusals"])
def test_pairs_are_filtered_by_the_forecast(capsys, scored, tmp_path: Path, by: str) -> None:
    data, _, scores = scored
    folder, foretold = forecast_beside(scores, tmp_path / "both")
    kept = tmp_path / "kept.jsonl"
    code, _, err = run(capsys, "filter", data, "--scores", folder, "--by", by, "--drop-lowest", 2, "--out", kept)
    assert code == 0, err
    values = np.array([np.inf if value is None else value for value in foretold[by].to_pylist()])
    lowest = set(np.argsort(values)[:2])
    lines = data.read_text().splitlines()
    assert kept.read_text().splitlines() == [line for n, line in enumerate(lines) if n not in lowest]


def test_pairs_without_a_forecast_are_in_no_share(capsys, scored, tmp_path: Path) -> None:
    """`keep` does not take them, and half of the 16 pairs that have one are 8."""
    data, _, scores = scored
    folder, foretold = forecast_beside(scores, tmp_path / "both")
    known = [n for n, value in enumerate(foretold["push"].to_pylist()) if value is not None]
    best = sorted(known, key=lambda n: -foretold["push"][n].as_py())[:8]
    kept = tmp_path / "kept.jsonl"
    options = ["--scores", folder, "--by", "push", "--keep-highest", "50%", "--out", kept]
    code, _, err = run(capsys, "filter", data, *options)
    assert code == 0, err
    lines = data.read_text().splitlines()
    assert kept.read_text().splitlines() == [lines[n] for n in sorted(best)]


def test_training_with_a_filter_says_where_the_column_comes_from(capsys, scored, tmp_path: Path) -> None:
    data, model, _ = scored
    options = ["--filter", "push drop-lowest 10%", "--out", tmp_path / "run"]
    code, _, err = run(capsys, "train", data, "--model", model, *options)
    assert code == 2
    assert "push is a forecast's: use `undertow forecast`, then `undertow filter --scores`" in err


def again(folder: Path, data: Path, model: Path) -> list[object]:
    """The command of the audit in a folder."""
    arguments = json.loads((folder / "audit.json").read_text())["arguments"]
    given = ["--max-length", arguments["tokens"]["max_length"], "--dtype", "float32", "--pull"]
    return ["audit", data, "--model", model, *given, "--out", folder]


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [*folder.glob("*forecast.*"), *(folder / "forecast").rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def test_other_scores_in_the_folder_clear_the_forecast(capsys, scored, tmp_path: Path) -> None:
    data, model, scores = scored
    folder, _ = forecast_beside(scores, tmp_path / "both")
    for name in ("held-out-forecast.parquet", "texts-forecast.parquet"):
        (folder / name).write_bytes(b"x")
    (folder / "forecast").mkdir()
    (folder / "forecast" / "settings.json").write_text(json.dumps({"command": "forecast", "identity": {}}))
    (folder / "forecast" / "scaling.safetensors").write_bytes(b"x")
    (folder / "mine.txt").write_text("mine")
    code, _, err = run(capsys, *again(folder, data, model), "--loss", "ipo", "--overwrite")
    assert code == 0, err
    left = {path.name for path in folder.iterdir()}
    assert "mine.txt" in left
    assert not {name for name in left if "forecast" in name}


def test_a_folder_that_is_only_called_forecast_stays(capsys, scored, tmp_path: Path) -> None:
    data, model, scores = scored
    folder, _ = forecast_beside(scores, tmp_path / "both")
    (folder / "forecast").mkdir()
    (folder / "forecast" / "rain.txt").write_text("mine")
    code, _, err = run(capsys, *again(folder, data, model), "--overwrite")
    assert code == 0, err
    assert (folder / "forecast" / "rain.txt").read_text() == "mine"
    assert not (folder / "forecast.parquet").exists()


def test_the_same_audit_again_keeps_the_forecast(capsys, scored, tmp_path: Path) -> None:
    data, model, _ = scored
    folder = forecast(data, model, tmp_path / "both", look=False, run={"max_steps": 2})
    before, pushes = files_of(folder), ut.read_scores(folder)["push"].to_pylist()
    assert {"forecast.json", "forecast.parquet", "forecast/scaling.safetensors"} <= before.keys()
    options = ["--max-length", 400, "--dtype", "float32"]
    code, _, err = run(capsys, "audit", data, "--model", model, *options, "--out", folder)
    assert code == 0, err
    assert "finished already" in err
    assert files_of(folder) == before
    assert ut.read_scores(folder)["push"].to_pylist() == pushes

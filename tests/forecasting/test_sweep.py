"""Arms simulated side by side: each is the simulation by itself, and the comparison is of what the rows say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import undertow as ut
from command import run
from run_folders import forecast, held_out, made, rows_drawn
from undertow.forecasting.stored import read_stored, simulate
from undertow.forecasting.sweep import AS_FORECAST, COMMON, best_arm, simulate_sweep
from undertow.reporting.remedies.page import figures, report, write_simulated
from undertow.runs.names import SIMULATED_ARMS, SIMULATED_PAGE
from undertow.runs.progress import Silent
from undertow.runs.settings import LossSettings
from undertow.wording import remedies as words

ARMS = """
gentle: {lr: x0.5, filter: push drop-lowest 25%}
again: {epochs: x2, beta: 0.3}
rpo: {loss: rpo, loss-args: {lam: 0.5}}
by-chance: {filter: [random drop-lowest 5, forecast_chosen drop-lowest 2]}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("sweep")
    data, model = made(folder)
    out = forecast(data, model, folder / "out", run={"lr": 1e-4}, held_out=str(held_out(folder)))
    (folder / "arms.yaml").write_text(ARMS)
    return out, simulate_sweep(out, folder / "arms.yaml")


def test_each_arm_is_its_simulation(swept: tuple[Path, dict]) -> None:
    """With the options written out, multiples too."""
    out, summary = swept
    rows = {row["arm"]: row for row in summary["arms"]}
    assert list(rows) == [AS_FORECAST, "gentle", "again", "rpo", "by-chance"]
    alone = {
        AS_FORECAST: simulate(out),
        "gentle": simulate(out, lr=5e-5, filter="push drop-lowest 25%"),
        "again": simulate(out, epochs=2.0, beta=0.3),
        "rpo": simulate(out, loss="rpo", loss_args={"lam": 0.5}),
        "by-chance": simulate(out, filter=["random drop-lowest 5", "forecast_chosen drop-lowest 2"]),
    }
    for name, found in alone.items():
        row = rows[name]
        for group in ("all", "kept", "left_out", "held_out"):
            assert row[group]["displaced"] == found[group]["displaced"]["value"], (name, group)
            assert [row[group][key] for key in ("pairs", "chosen", "rejected")] == [
                found[group][key] for key in ("pairs", "chosen", "rejected")
            ]
        assert row["displaced"] == found["all"]["displaced"]["value"]
        assert row["steps"] == found["end"]["steps"]
        assert row["mean_loss"] == pytest.approx(found["end"]["loss"])
        assert row["margin_change"] == pytest.approx(found["all"]["chosen"] - found["all"]["rejected"], rel=1e-9)
    assert rows["by-chance"]["left_out"]["pairs"] in (6, 7)
    assert json.loads((out / SIMULATED_ARMS).read_text()) == json.loads(json.dumps(summary))


def test_arms_are_compared_at_the_learning_rate_that_gives_as_much_margin(swept: tuple[Path, dict]) -> None:
    out, summary = swept
    rows = {row["arm"]: row for row in summary["arms"]}
    target = rows[AS_FORECAST]["margin_change"]
    assert summary["equal_margin"] == target > 0
    assert rows[AS_FORECAST]["equal"]["lr"] == rows[AS_FORECAST]["lr"]
    given = {
        "gentle": {"filter": "push drop-lowest 25%"},
        "again": {"epochs": 2.0, "beta": 0.3},
        "rpo": {"loss": "rpo", "loss_args": {"lam": 0.5}},
    }
    compared = 0
    for name, options in given.items():
        equal = rows[name]["equal"]
        if equal is None:
            continue
        compared += 1
        found = simulate(out, lr=equal["lr"], **options)
        assert found["all"]["chosen"] - found["all"]["rejected"] == pytest.approx(target, rel=0.021)
        assert equal["displaced"] == pytest.approx(found["all"]["displaced"]["value"])
        assert equal["held_out_displaced"] == pytest.approx(found["held_out"]["displaced"]["value"])
        both = (24 * equal["displaced"] + 7 * equal["held_out_displaced"]) / 31
        assert equal["displaced_everywhere"] == pytest.approx(both)
    assert compared >= 2


def test_the_worst_tenth_is_the_mean_of_the_lowest(swept: tuple[Path, dict]) -> None:
    out, summary = swept
    stored = read_stored(out)
    lowest = np.sort(stored.table["forecast_chosen"].to_numpy())[: len(stored.table) // 10]
    assert summary["arms"][0]["worst_tenth"] == pytest.approx(lowest.mean(), rel=1e-6)


def test_the_best_arm_displaces_least_of_all_and_held_out_pairs() -> None:
    def row(name: str, share: float | None, chosen: float = 0.0) -> dict:
        equal = None if share is None else {"displaced_everywhere": share, "chosen": chosen}
        return {"arm": name, "equal": equal}

    assert best_arm([row("a", 0.3), row("b", 0.2, 1.0), row("c", 0.2, 2.0), row("d", None)]) == "c"
    assert best_arm([row("a", None)]) is None


def test_an_arm_that_needs_other_features_is_named(swept: tuple[Path, dict], tmp_path: Path) -> None:
    out, _ = swept
    for text, said in {
        "a: {lora-r: 8}": "the arm a.*do not tell",
        "b: {lr: x}": "b.*expected a number",
        "c: {nonsense: 1}": "no option 'nonsense'",
        "d: {filter: nothing drop-lowest 3}": "the arm d.*no score nothing",
    }.items():
        (tmp_path / "arms.yaml").write_text(text)
        with pytest.raises(ut.OptionError, match=said):
            simulate_sweep(out, tmp_path / "arms.yaml")


def test_the_common_questions_come_along(swept: tuple[Path, dict], monkeypatch, tmp_path: Path) -> None:
    out, _before = swept
    summary = simulate_sweep(out, COMMON)
    names = [row["arm"] for row in summary["arms"]]
    for name in ("beta-0.01", "lr-half", "ipo", "simpo", "cpo", "rpo-0.1", "dpop", "dpo-shift", "calibrated"):
        assert name in names
    for score in ("push", "forecast", "ches", "ln-ches", "random"):
        assert {f"{score}-{share}" for share in (5, 10, 20)} <= set(names)
    page = report(out)
    assert summary["best"] in page
    for row in summary["arms"]:
        if row["filter"]:
            assert any(said.startswith(f"{row['arm']}: ") and "held out" in said for said in words.filters_say([row]))


def test_questions_that_the_scores_do_not_answer_are_left_out_and_named(tmp_path: Path) -> None:
    """Of the common ones only: an arm of a file was asked for."""

    class Notes(Silent):
        def note(self, text: str) -> None:
            noted.append(text)

    noted: list[str] = []
    out = forecast(*made(tmp_path), tmp_path / "out", run={"lr": 1e-4}, level="text")
    summary = simulate_sweep(out, COMMON, watch=Notes())
    names = {row["arm"] for row in summary["arms"]}
    assert {"push-10", "random-20", "rpo-0.1"} <= names
    assert set(summary["skipped"]) == {"calibrated", *(f"{s}-{n}" for s in ("ches", "ln-ches") for n in (5, 10, 20))}
    assert not set(summary["skipped"]) & names
    assert len(noted) == 1
    assert "--level unembedding" in noted[0]
    (tmp_path / "arms.yaml").write_text("a: {filter: ches drop-highest 5%}\n")
    with pytest.raises(ut.OptionError, match="the arm a.*no score ches"):
        simulate_sweep(out, tmp_path / "arms.yaml")


def test_its_page_says_what_the_table_holds(swept: tuple[Path, dict], tmp_path: Path) -> None:
    out, summary = swept
    (out / SIMULATED_ARMS).write_text(json.dumps(summary))
    path = write_simulated(out)
    assert path == out / SIMULATED_PAGE
    page = path.read_text()
    assert words.best_says(summary).split(":")[0] in page
    (figure,) = figures(out)
    drawn = {row["arm"] for row in rows_drawn(figure.chart)}
    assert drawn == {row["arm"] for row in summary["arms"] if row["equal"]}
    with pytest.raises(ut.DataError, match="undertow simulate .* --sweep common"):
        report(tmp_path)


def test_what_is_said_when_nothing_is_better_or_nothing_is_learned(swept: tuple[Path, dict]) -> None:
    _, summary = swept
    first = summary["arms"][0]
    assert "none of 4 arms displaces less" in words.best_says({**summary, "best": first["arm"]})
    assert "the margin does not grow" in words.best_says({**summary, "best": None})


def test_a_look_at_an_arm_is_a_look_at_its_own_run(swept: tuple[Path, dict], tmp_path: Path) -> None:
    """The forecast's own run is looked at where it ends with curvature, the first look was where it ended without: that
    adds little. Another loss has the curvature that a forecast of it has."""
    out, _ = swept
    inputs = out.parent / "prefs.jsonl", out.parent / "model"
    (tmp_path / "arms.yaml").write_text("same: {epochs: x1}\ngentle: {lr: x0.5}\nrpo: {loss: rpo}\n")
    before = simulate_sweep(out, tmp_path / "arms.yaml")
    summary = simulate_sweep(out, tmp_path / "arms.yaml", look=3)
    rows = {row["arm"]: row for row in summary["arms"]}
    assert [row | {"looked": None} for row in before["arms"]] == [row | {"looked": None} for row in summary["arms"]]
    for name in ("displaced", "chosen", "held_out_chosen", "held_out_displaced", "lr"):
        assert rows["same"]["looked"][name] == pytest.approx(rows["same"]["equal"][name], rel=0.02, abs=0.01), name
    assert summary["best"] in {"same", "gentle", "rpo", AS_FORECAST}
    held = str(held_out(tmp_path))
    lr = rows["rpo"]["looked"]["lr"]
    alone = forecast(*inputs, tmp_path / "rpo", run={"lr": lr, "loss": LossSettings("rpo")}, held_out=held)
    end = json.loads((alone / "forecast.json").read_text())["end"]
    # Its own second moments differ from those that are stored; where the look went is what is compared.
    assert rows["rpo"]["looked"]["chosen"] == pytest.approx(end["chosen"], rel=0.25)
    assert "nats, by a look at 3 of 3 arms, " in words.best_says(summary)
    assert "the same by a look" in report(out)


def test_a_look_needs_the_data_and_the_scaling_as_they_were(swept: tuple[Path, dict], tmp_path: Path) -> None:
    folder = shutil.copytree(swept[0].parent, tmp_path / "all")
    out, data = folder / "out", folder / "prefs.jsonl"
    settings = out / "forecast.json"
    settings.write_text(settings.read_text().replace(str(swept[0].parent), str(folder)))
    (tmp_path / "arms.yaml").write_text("gentle: {lr: x0.5}\n")
    simulate_sweep(out, tmp_path / "arms.yaml", look=1)
    (out / "forecast" / "scaling.safetensors").rename(tmp_path / "gone")
    with pytest.raises(ut.InputError, match="scaling.safetensors is missing"):
        simulate_sweep(out, tmp_path / "arms.yaml", look=1)
    (tmp_path / "gone").rename(out / "forecast" / "scaling.safetensors")
    data.write_text(data.read_text().replace("It is 3", "It is not 3").replace("3", "three"))
    with pytest.raises(ut.InputError, match="another run"):
        simulate_sweep(out, tmp_path / "arms.yaml", look=1)


def test_a_look_is_of_a_sweep(swept: tuple[Path, dict], capsys) -> None:
    code, _, err = run(capsys, "simulate", swept[0], "--look", 2)
    assert (code, "give that too" in err) == (2, True)

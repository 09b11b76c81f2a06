"""What a forecast prints: the page's headline first, tables that fit, nothing counted without a look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import run
from run_folders import forecast, held_out, made, watched_texts
from undertow.cli.printing.forecast import print_forecast, print_simulation
from undertow.forecasting.stored import simulate
from undertow.wording.forecast import forecast_verdict, simulation_verdict
from undertow.wording.numbers import percent
from undertow.wording.remedies import best_says


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("inputs"))


def test_arms_are_printed_least_displaced_first(inputs: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    out = forecast(*inputs, tmp_path / "out", held_out=str(held_out(tmp_path)))
    (tmp_path / "arms.yaml").write_text("gentle: {lr: x0.5}\nless: {filter: push drop-lowest 6}\n")
    code, printed, _ = run(capsys, "simulate", out, "--sweep", tmp_path / "arms.yaml", "--order", "unknown", "--json")
    assert code == 0
    summary = json.loads(printed.splitlines()[-1])
    assert summary == json.loads((out / "simulated.json").read_text())
    assert best_says(summary).split()[0] in printed
    cells = table(printed, "in nats")
    assert {row[0] for row in cells[1:]} == {arm["arm"] for arm in summary["arms"]}
    shares = [row[1] for row in cells[1:]]
    assert shares[0] == percent(min(arm["equal"]["displaced"] for arm in summary["arms"] if arm["equal"]))
    assert (out / "simulated.html").exists()
    code, _, err = run(capsys, "simulate", out, "--sweep", tmp_path / "arms.yaml", "--filter", "push drop-lowest 1")
    assert (code, "each arm says in the file" in err) == (2, True)


@pytest.fixture
def say(capsys, monkeypatch):
    """Print a folder's forecast on a terminal of some width."""

    def printed(out: Path, width: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        summary = json.loads((out / "forecast.json").read_text())
        print_forecast(out, summary, out / "report.html")
        text: str = capsys.readouterr().out
        return text

    return printed


def table(printed: str, title: str) -> list[list[str]]:
    """The cells below a title, the header first."""
    lines = printed.split(title)[1].splitlines()[1:]
    found = []
    for line in lines:
        if "━" in line:
            continue
        if "│" not in line and "┃" not in line:
            break
        found.append([cell.strip() for cell in line.replace("┃", "│").split("│")])
    return found


def test_a_whole_forecast(inputs: tuple[Path, Path], say, tmp_path: Path) -> None:
    texts = {"held_out": str(held_out(tmp_path)), "texts": str(watched_texts(tmp_path))}
    out = forecast(*inputs, tmp_path / "out", run={"epochs": 3.0}, **texts)
    printed = say(out)
    summary = json.loads((out / "forecast.json").read_text())
    flat = " ".join(printed.split())
    assert flat.startswith(forecast_verdict(summary).headline)
    assert "The 7 held-out chosen responses" in flat
    curve = table(printed, "The run, changes in nats.")
    assert curve[0] == ["step", "loss", "chosen", "rejected", "displaced", "accuracy", "held-out"]
    assert len(curve) == 7
    assert curve[-1][0] == "24"
    assert curve[-1][2] == f"{summary['end']['chosen']:+.1f}"
    pairs = pq.read_table(out / "forecast.parquet").to_pandas()
    risk = table(printed, "pairs at risk, by forecast_chosen (nats)")
    assert risk[0] == ["row", "forecast", "own", "others", "curvature", "step", "prompt"]
    lowest = pairs.sort_values("forecast_chosen")[:5]
    assert [row[0] for row in risk[1:]] == [str(row) for row in lowest.row]
    assert [row[5] for row in risk[1:]] == [str(step) for step in lowest.step]
    assert risk[1][6].startswith(f"Question {lowest.row.iloc[0]}: wh")
    pushing = table(printed, "pairs that push others down, by push")
    assert [row[0] for row in pushing[1:]] == [str(row) for row in pairs.sort_values("push")[:5].row]
    assert "refusals: " in flat
    assert "Moved most by row " in flat
    assert "undertow train draws with this seed" in flat
    assert "Cost: " in printed
    assert f"Report: {out / 'report.html'}" in printed
    assert f"undertow simulate {out} --filter 'push drop-lowest 10%'" in printed
    assert f"undertow filter {inputs[0]} --scores {out} --by push --drop-lowest 10% --out filtered.jsonl" in printed
    commands = ("Report:", "  undertow")
    assert all(len(line) <= 80 for line in printed.splitlines() if not line.startswith(commands))


def test_where_there_is_room_groups_of_texts_stand_beside_the_curve(inputs, say, tmp_path: Path) -> None:
    out = forecast(*inputs, tmp_path / "out", texts=str(watched_texts(tmp_path)))
    header = table(say(out, 120), "The run, changes in nats.")[0]
    assert header[-2:] == ["refusals", "answers"]


def test_without_a_look_nothing_is_counted(inputs: tuple[Path, Path], say, tmp_path: Path) -> None:
    out = forecast(*inputs, tmp_path / "out", look=False)
    printed = say(out)
    flat = " ".join(printed.split())
    assert flat.startswith("24 chosen responses ranked by what one epoch will do to them.")
    assert "displaced" not in printed
    assert "will have lost" not in printed
    assert "curvature" not in table(printed, "pairs at risk, by forecast_chosen (nats)")[0]


def test_an_order_that_is_not_known_has_chances_in_place_of_steps(inputs, say, tmp_path: Path) -> None:
    out = forecast(*inputs, tmp_path / "out", order="unknown", orders=3)
    risk = table(say(out), "pairs at risk, by forecast_chosen (nats)")
    assert "falls in" in risk[0]
    assert "step" not in risk[0]


def test_a_small_step_of_which_none_falls(inputs: tuple[Path, Path], say, tmp_path: Path) -> None:
    out = forecast(*inputs, tmp_path / "out", run={"lr": 1e-4})
    printed = " ".join(say(out).split())
    assert printed.startswith("After one epoch none of 24 chosen responses will have lost probability;")
    assert "5 pairs closest to falling, by forecast_chosen (nats)" in printed


def test_text_of_the_data_is_not_obeyed(inputs: tuple[Path, Path], say, tmp_path: Path) -> None:
    hostile = "[bold red]x[/] [link=https://example.org]y[/link] [/] \x1b[31mred\u202e\n\x07"
    out = forecast(*inputs, tmp_path / "out", texts=str(watched_texts(tmp_path)))
    texts = {name: [hostile] * 24 for name in ("prompt", "chosen", "rejected")} | {"row": list(range(24))}
    pq.write_table(pa.table(texts), out / "texts.parquet")
    summary: dict[str, Any] = json.loads((out / "forecast.json").read_text())
    for record in (summary, *summary["curve"]):
        record["texts"] = {hostile: 1.0}
    (out / "forecast.json").write_text(json.dumps(summary))
    found = pq.read_table(out / "texts-forecast.parquet")
    pq.write_table(found.set_column(1, "group", pa.array([hostile] * 7)), out / "texts-forecast.parquet")
    printed = say(out, 100)
    assert "[bold red]x[/]" in printed
    assert {one for one in printed if not one.isprintable()} <= {"\n"}


def test_a_simulation_stands_beside_its_forecast(
    inputs: tuple[Path, Path], capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    texts = {"held_out": str(held_out(tmp_path)), "texts": str(watched_texts(tmp_path))}
    out = forecast(*inputs, tmp_path / "out", **texts)
    found = simulate(out, filter="push drop-lowest 4")
    print_simulation(found)
    printed = capsys.readouterr().out
    flat = " ".join(printed.split())
    assert flat.startswith(simulation_verdict(found).headline)
    cells = {row[0]: row[1:] for row in table(printed, "Forecast → this run, mean changes in nats")}
    assert list(cells) == ["pairs", "trained on", "left out", "held out", "all"]
    assert [row[0] for row in cells.values()] == ["count", "20", "4", "7", "24"]
    pairs = pq.read_table(out / "forecast.parquet").to_pandas().sort_values("push")
    before = cells["left out"][1].split(" → ")[0]
    assert float(before) == pytest.approx(pairs.forecast_chosen[:4].mean(), rel=5e-3)  # three digits
    assert float(cells["held out"][1].split(" → ")[1]) == pytest.approx(found["held_out"]["chosen"], rel=5e-3)
    assert "refusals: " in flat
    assert "Not simulated: " in flat
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_a_simulation_without_a_look_counts_nothing(inputs: tuple[Path, Path], capsys, tmp_path: Path) -> None:
    out = forecast(*inputs, tmp_path / "out", look=False)
    print_simulation(simulate(out, lr=1e-4))
    printed = capsys.readouterr().out
    assert "displaced" not in printed
    assert "%" not in printed

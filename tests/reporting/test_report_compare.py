"""The page of a comparison: what it says is what the folder holds, and a text on it is only a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata, spearmanr

from command import run, some_rows
from run_folders import audited, compared, forecast_beside, made, rows_drawn, trained
from undertow.comparing.folder import read_comparison
from undertow.errors import DataError
from undertow.reporting.comparison.charts import POINTS, calibration, group_medians, heat, moves, predicted, ranks
from undertow.reporting.comparison.page import cards, figures, masses_table, report, tokens_gained
from undertow.reporting.comparison.reading import read_comparison_run, worst_pairs
from undertow.wording.comparison import VERDICTS, calibration_says, detail, headline, nothing_moved
from undertow.wording.numbers import number, percent, signed

HOSTILE = "</script><script>alert(1)</script> {{ 7 * 7 }} \x1b[31mred\u202e"


@pytest.fixture(scope="module")
def made_here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data, the tiny model, the same after a training, and an audit of the model before."""
    folder = tmp_path_factory.mktemp("made")
    rows = some_rows(24)
    rows[3]["chosen"] += HOSTILE
    data, model = made(folder, rows)
    after = trained(data, model, folder / "run") / "model"
    return {"data": data, "before": model, "after": after, "scores": audited(data, model, folder / "scores")}


@pytest.fixture(scope="module")
def folder(made_here: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison with scores; only read."""
    data, before, after, scores = made_here.values()
    return compared(data, before, after, tmp_path_factory.mktemp("compared") / "moved", scores=(str(scores),))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "moved")


def change(folder: Path, **values: Any) -> None:
    """Other values in ``compare.json``."""
    path = folder / "compare.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def by_name(folder: Path) -> dict[str, Any]:
    return {figure.name: figure for figure in figures(folder)}


def test_the_numbers_are_those_of_the_summary(folder: Path) -> None:
    page, (_, summary) = report(folder), read_comparison(folder)
    means = summary["means"]
    shown = {card["label"]: card for card in cards(summary)}
    assert shown["Displaced"]["value"] == percent(means["displaced"]["value"])
    assert shown["Margin"]["value"] == signed(means["dmargin"]["value"])
    low, high = (signed(means["dmargin"][end]) for end in ("low", "high"))
    assert f"{low} to {high}" in shown["Margin"]["note"]
    assert headline(summary) in page.replace("<strong>", "").replace("</strong>", "")
    assert detail(summary) in page
    assert "of 24 pairs" in headline(summary)
    for card in shown.values():
        assert card["value"] in page
        assert card["note"] in page


def test_every_pair_is_a_point_where_it_was_and_is(folder: Path) -> None:
    table, _ = read_comparison(folder)
    rows = [row for row in rows_drawn(by_name(folder)["before-after"].chart) if "side" in row]
    for side in ("chosen", "rejected"):
        drawn = [(row["row"], row["x"], row["y"]) for row in rows if row["side"] == side]
        names = ("row", f"before_logp_{side}", f"after_logp_{side}")
        assert drawn == list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_the_predictions_drawn_have_the_correlation_told(folder: Path) -> None:
    """On the page a high rank says that the response falls: the correlation of what is drawn is that of the summary,
    turned."""
    _, summary = read_comparison(folder)
    rows = [row for row in rows_drawn(by_name(folder)["predicted"].chart) if "change" in row]
    told = {name: found["spearman"]["value"] for name, found in summary["prediction"]["predictors"].items()}
    assert len(told) == 9
    for name, value in told.items():
        drawn = [(row["x"], row["change"]) for row in rows if row["score"] == name]
        assert len(drawn) == 24
        assert -spearmanr(*zip(*drawn, strict=True)).statistic == pytest.approx(value)
    skill = by_name(folder)["skill"]
    assert next(row["value"] for row in rows_drawn(skill.chart) if row.get("score") == "ln_ches") == told["ln_ches"]
    assert f"ln_ches {number(told['ln_ches'])}," in skill.says


@pytest.fixture(scope="module")
def foretold(made_here: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A comparison with a forecast beside the scores, and that forecast; every third pair has none."""
    data, before, after, scores = made_here.values()
    folder = tmp_path_factory.mktemp("foretold")
    both, found = forecast_beside(scores, folder / "scores")
    return compared(data, before, after, folder / "moved", scores=(str(both),)), found


def test_the_forecast_is_drawn_against_fact(foretold: tuple[Path, pa.Table]) -> None:
    folder, found = foretold
    table, summary = read_comparison(folder)
    figure = by_name(folder)["calibration"]
    for chart in (figure.chart, figure.narrow):
        chart.to_dict(validate=True)
        rows = rows_drawn(chart)
        for side in ("chosen", "rejected"):
            drawn = [(row["row"], row["x"], row["y"]) for row in rows if row.get("side") == side]
            columns = (table["row"], found[f"forecast_{side}"], table[f"dlogp_{side}"])
            said = zip(*(column.to_pylist() for column in columns), strict=True)
            assert drawn == [point for point in said if point[1] is not None]
        lines = [(row["x"], row["y"], row["pairs"]) for row in rows if "pairs" in row]
        bins = [one for side in ("chosen", "rejected") for one in summary["calibration"][side]["bins"]]
        assert lines == [(one["forecast"], one["realised"], one["pairs"]) for one in bins]
    assert [row[:2] for row in figure.numbers[1:]] == [
        [side, str(one["pairs"])] for side in ("chosen", "rejected") for one in summary["calibration"][side]["bins"]
    ]
    assert " ".join(calibration_says(summary)) in figure.says
    assert 'id="calibration"' in report(folder)


def test_the_bins_of_a_forecast_that_is_gone_are_drawn_still(foretold: tuple[Path, pa.Table], tmp_path: Path) -> None:
    folder = shutil.copytree(foretold[0], tmp_path / "moved")
    arguments = read_comparison(folder)[1]["arguments"]
    change(folder, arguments=arguments | {"scores": [str(tmp_path / "gone")]})
    rows = rows_drawn(by_name(folder)["calibration"].chart)
    assert not [row for row in rows if "row" in row]
    assert [row for row in rows if "pairs" in row]


def test_a_forecast_of_many_pairs_is_a_map_of_counts() -> None:
    said = np.random.default_rng(0).normal(size=POINTS + 1)
    bins = [{"forecast": 0.0, "realised": 0.1, "pairs": 7, "displaced": {"forecast": 0.5, "realised": 0.4}}]
    chart = calibration({"chosen": (said, said / 2)}, {"chosen": bins}, np.arange(POINTS + 1))
    cells = [row for row in rows_drawn(chart) if "x2" in row]
    assert sum(cell["pairs"] for cell in cells) == POINTS + 1


def test_scores_that_are_gone_are_told_and_not_drawn(copied: Path, tmp_path: Path) -> None:
    arguments = read_comparison(copied)[1]["arguments"]
    change(copied, arguments=arguments | {"scores": [str(tmp_path / "gone")]})
    drawn = by_name(copied)
    assert "predicted" not in drawn
    assert "skill" in drawn
    assert "any more" in report(copied)


def test_other_scores_than_those_compared_with_are_not_drawn(copied: Path) -> None:
    prints = read_comparison(copied)[1]["fingerprints"]
    change(copied, fingerprints=prints | {"scores": "another"})
    assert "predicted" not in by_name(copied)


def test_without_scores_there_is_nothing_of_predictions(made_here: dict[str, Path], tmp_path: Path) -> None:
    data, before, after, _ = made_here.values()
    drawn = by_name(compared(data, before, after, tmp_path / "moved", generate=0))
    assert drawn.keys() == {"before-after", "moves", "divergence", "gained"}


def test_the_worst_pairs_stand_side_by_side(folder: Path) -> None:
    table, summary = read_comparison(folder)
    found = worst_pairs(read_comparison_run(folder))
    order = table["row"].to_numpy()[np.argsort(table["dlogp_chosen"].to_numpy(), kind="stable")].tolist()
    assert sorted((pair["row"] for pair in found), key=order.index) == order[: len(found)]
    assert sum(pair["said"] is not None for pair in found) == len(summary["continuations"]) == 3
    said = {one["row"]: one for one in summary["continuations"]}
    for pair in found:
        assert pair["changed"] == (pair["row"] in said and said[pair["row"]]["before"] != said[pair["row"]]["after"])
        assert pair["said"] is None or pair["said"]["after"] == said[pair["row"]]["after"]
        assert pair["chosen"].startswith("It is ")
    page = report(folder)
    for pair in found:
        assert pair["dlogp_chosen"] in page


def test_a_text_is_only_a_text(copied: Path) -> None:
    """Whatever stands in the data: no element of the page begins in it, and what would be invisible can be seen."""
    texts = pa.table({name: [HOSTILE] * 24 for name in ("prompt", "chosen", "rejected")} | {"row": list(range(24))})
    pq.write_table(texts, copied / "texts.parquet")
    summary = read_comparison(copied)[1]
    said = [one | {"before": HOSTILE, "after": HOSTILE} for one in summary["continuations"]]
    tokens = [one | {"token": f"{HOSTILE}{n}"} for n, one in enumerate(summary["gained"])]
    change(copied, continuations=said, gained=tokens, arguments=summary["arguments"] | {"data": HOSTILE})
    page = report(copied)
    assert "<script>alert" not in page
    assert "49 " not in page
    assert "{{ 7 * 7 }}" in page
    assert not {"\x1b", "\u202e"} & set(page)
    assert "␛" in page
    assert "[U+202E]" in page


def test_long_texts_are_cut_and_the_page_says_so(copied: Path) -> None:
    long = "word " * 200_000
    texts = pa.table({name: [long] * 24 for name in ("prompt", "chosen", "rejected")} | {"row": list(range(24))})
    pq.write_table(texts, copied / "texts.parquet")
    page = report(copied)
    assert "(1,000,000 characters)" in page
    assert len(page) < 4_000_000


def test_masses_are_those_of_the_summary(folder: Path) -> None:
    _, summary = read_comparison(folder)
    table = masses_table(summary)
    assert table is not None
    found = {row["name"]: row for row in table["rows"]}
    good, name = summary["masses"]["ln_good"], "ln of the mass on the good"
    assert found[name]["before"] == number(good["before"]["value"])
    assert found[name]["change"] == signed(good["change"]["value"])
    assert name in report(folder)
    assert masses_table({name: value for name, value in summary.items() if name != "masses"}) is None


def answers(folder: Path, *changed: bool) -> list[int]:
    """The worst pairs' answers, changed or not as given; their rows, the worst first."""
    said = read_comparison(folder)[1]["continuations"]
    words = ["Yes.", "No."]
    change(
        folder,
        continuations=[one | {"before": words[0], "after": words[new]} for one, new in zip(said, changed, strict=True)],
    )
    return [one["row"] for one in said]


def test_changed_answers_come_first(copied: Path) -> None:
    """Of three worst pairs the last has another answer than before: it stands first, and before every average."""
    rows = answers(copied, False, False, True)
    found = worst_pairs(read_comparison_run(copied))
    assert [pair["row"] for pair in found][:3] == [rows[2], rows[0], rows[1]]
    assert [pair["changed"] for pair in found][:3] == [True, False, False]
    page = report(copied)
    assert "To 1 of the 3 worst prompts the model now answers something else than before" in page
    assert page.index('<section id="worst"') < page.index("On average the chosen response")
    assert page.index('<section id="worst"') < page.index("Reward accuracy")
    assert page.count("another answer</span>") == 1


def test_equal_answers_leave_the_averages_first(copied: Path) -> None:
    answers(copied, False, False, False)
    page = report(copied)
    assert "the model now answers" not in page.partition("<section")[0]
    assert "another answer</span>" not in page
    assert page.index("On average the chosen response") < page.index('<section id="worst"')


def test_masses_that_are_nothing_are_no_result(copied: Path) -> None:
    """1e-20 of the probability is nothing that a user of the model meets: in logarithms only."""
    masses = read_comparison(copied)[1]["masses"]
    nothing = {
        "before": {"value": 1e-20, "low": None, "high": None},
        "after": {"value": 2e-20, "low": None, "high": None},
    }
    nothing["change"] = nothing["before"]
    change(copied, masses=masses | {"good": nothing, "bad": nothing})
    table = masses_table(read_comparison(copied)[1])
    names = [row["name"] for row in table["rows"]]
    assert names == ["ln of the mass on the good", "ln of the mass on the bad", "logit of the good share"]
    page = report(copied)
    assert "practically no probability" in page
    assert "e−20" not in page
    some = {when: {"value": 0.25, "low": 0.1, "high": 0.3} for when in ("before", "after", "change")}
    change(copied, masses=masses | {"good": some, "bad": nothing})
    rows = {row["name"]: row for row in masses_table(read_comparison(copied)[1])["rows"]}
    assert rows["on the good responses"]["before"] == "0.250"
    assert rows["on the bad responses"]["before"] == rows["on the bad responses"]["change"] == "below 1e-06"
    assert "practically no probability" not in report(copied)


def test_two_equal_models_are_called_so(made_here: dict[str, Path], tmp_path: Path) -> None:
    data, before, _, scores = made_here.values()
    out = compared(data, before, before, tmp_path / "moved", scores=(str(scores),))
    page, (_, summary) = report(out), read_comparison(out)
    assert headline(summary) == "The two models are the same: nothing moved."
    assert "The two models are the same: nothing moved." in page
    assert figures(out) == ()
    assert "<figure" not in page
    for section in ("moved", "prediction", "masses", "worst"):
        assert f'<section id="{section}"' not in page
    assert not any(said in page for said in VERDICTS.values())


def test_models_that_differ_where_nobody_looks_are_told_apart(made_here: dict[str, Path], tmp_path: Path) -> None:
    """Another embedding of a token that no pair has, in a model whose unembedding is its own."""
    from safetensors.torch import load_file, save_file

    data, before, _, _ = made_here.values()
    other = shutil.copytree(before, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.embed_tokens.weight"][0] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    out = compared(data, before, other, tmp_path / "moved", generate=0)
    summary = read_comparison(out)[1]
    assert nothing_moved(summary) == "The weights of the two models differ, but nothing moved on these pairs."
    assert figures(out) == ()
    _, after = made_here["before"], made_here["after"]
    assert nothing_moved(read_comparison(compared(data, before, after, tmp_path / "third", generate=0))[1]) is None


def test_a_folder_of_an_earlier_version_is_read(copied: Path) -> None:
    """Its means had other names, and no reward accuracy; its predictors were not told from baselines."""
    summary = json.loads((copied / "compare.json").read_text())
    means = summary["means"]
    likelihood = means["likelihood_accuracy_after"]["value"]
    old = {"before": "before_correct", "after": "after_correct", "change": "correct_change"}
    for name, former in old.items():
        means[former] = means.pop(f"likelihood_accuracy_{name}")
    del means["reward_accuracy"]
    predictors = summary["prediction"]["predictors"]
    for name in ("chosen_tokens", "-logp_chosen"):
        del predictors[name]
    for found in predictors.values():
        del found["baseline"]
    (copied / "compare.json").write_text(json.dumps(summary))
    _, read = read_comparison(copied)
    assert read["means"]["likelihood_accuracy_after"]["value"] == likelihood
    assert read["means"]["reward_accuracy"]["value"] is None
    page = report(copied)
    assert f"more probable one in {percent(likelihood)} of the pairs" in page
    assert "(reward accuracy)" not in page
    assert "predicted" in by_name(copied)  # the scores are known again


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="undertow compare"):
        report(tmp_path)


def test_equal_looking_tokens_are_told_apart() -> None:
    token = {"token": " a", "id": 1, "mean_increase": 0.5, "pairs_in_top": 1}
    found = tokens_gained({"gained": [token, token | {"id": 2}]})
    assert [one["token"] for one in found] == ["“␣a”", "“␣a” (id 2)"]


numbers = arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6))


@given(numbers)
def test_ranks_are_those_of_scipy(values: np.ndarray) -> None:
    expected = (rankdata(values) - 1) / (len(values) - 1) if len(values) > 1 else [0.5]
    assert ranks(values) == pytest.approx(np.asarray(expected))


@given(arrays(np.float64, (2, 80), elements=st.floats(-10, 10)))
def test_every_pair_is_in_a_cell_of_the_map(both: np.ndarray) -> None:
    cells = heat(both[0], both[1], (-5, 5), (-2, 2))
    assert sum(cell["pairs"] for cell in cells) == 80
    inside = [cell for cell in cells if cell["x"] <= np.clip(both[0][0], -5, 5) <= cell["x2"]]
    assert any(cell["y"] <= np.clip(both[1][0], -2, 2) <= cell["y2"] for cell in inside)


def test_every_pair_is_in_a_bar() -> None:
    drawn = np.random.default_rng(0).normal(size=5000)
    rows = rows_drawn(moves({"chosen": drawn, "rejected": drawn - 1}))
    for side in ("chosen", "rejected"):
        assert sum(row["pairs"] for row in rows if row.get("what") == side) == 5000


def test_many_pairs_are_sampled() -> None:
    draw = np.random.default_rng(0)
    change, scores = draw.normal(size=(2, 50_000))
    rows = rows_drawn(predicted({"one": scores, "two": -scores}, change, np.arange(50_000)))
    assert len([row for row in rows if "change" in row]) <= POINTS


def test_medians_of_a_falling_line_fall() -> None:
    change = -np.arange(100.0)
    found = group_medians(ranks(np.arange(100.0)), change)
    assert [group["y"] for group in found] == [-4.5 - 10 * n for n in range(10)]


def test_the_command_writes_the_page(capsys, made_here: dict[str, Path], tmp_path: Path) -> None:
    data, before, after, scores = made_here.values()
    out = tmp_path / "moved"
    options = ["compare", data, "--before", before, "--after", after, "--scores", scores, "--out", out]
    options += ["--max-length", 400, "--dtype", "float32", "--resamples", 50]
    code, stdout, err = run(capsys, *options)
    assert code == 0, err
    assert "report.html" in stdout
    assert (out / "report.html").read_text(encoding="utf-8") == report(out)

"""The report of an audit: its numbers are those of the scores, its commands do what it says they do."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from command import run, some_rows, write_jsonl
from run_folders import TOKENS, forecast_beside, made, rows_drawn
from undertow.auditing.audit import audit_to_folder
from undertow.auditing.settings import AuditSettings
from undertow.errors import DataError
from undertow.filtering.by_loss import under_losses
from undertow.filtering.selection import Selector
from undertow.filtering.what_if import PERCENTS, dropping, falls, what_if
from undertow.reporting import write_report
from undertow.reporting.audit import charts
from undertow.reporting.audit import listing as listing_module
from undertow.reporting.audit.figures import figures_of, measure_of
from undertow.reporting.audit.listing import listing, rows_shown
from undertow.reporting.audit.page import figures, report, verdict_of
from undertow.reporting.audit.reading import AuditRun, read_audit_run
from undertow.reporting.page.shell import Figure
from undertow.reporting.viewing.export import image
from undertow.runs.settings import DataSettings, LossSettings, Shard
from undertow.scoring.columns import PREDICTORS, TOKEN_COUNTS
from undertow.wording.commands import filter_command
from undertow.wording.names import CASE_LABELS
from undertow.wording.numbers import of_all

ROWS = 40


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("report"), some_rows(ROWS))


def audit(inputs: tuple[Path, Path], out: Path, **options: Any) -> Path:
    given = {"tokens": TOKENS, "dtype": "float32", "by": ("source",)} | options
    audit_to_folder(inputs[0], str(inputs[1]), out, AuditSettings(**given))
    return out


@pytest.fixture(scope="module")
def folder(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audit(inputs, tmp_path_factory.mktemp("report") / "scores", level="gradient", pull=True)


@pytest.fixture(scope="module")
def audited(folder: Path) -> AuditRun:
    return read_audit_run(folder)


@pytest.fixture(scope="module")
def foretold(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AuditRun:
    """The same with a forecast of two thirds of the pairs beside it: with every predictor there is."""
    return read_audit_run(forecast_beside(folder, tmp_path_factory.mktemp("report") / "foretold")[0])


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="undertow-data">(.*?)</script>', html, re.DOTALL)
    assert found
    value: dict[str, Any] = json.loads(found[1])
    return value


@pytest.mark.parametrize("by", PREDICTORS)
def test_the_slider_counts_what_the_filter_counts(foretold: AuditRun, by: str) -> None:
    found = dropping(foretold.table, by, foretold.groups)
    scores, fall = foretold.column(by), falls(foretold.table)
    tokens = sum(foretold.column(name) for name in TOKEN_COUNTS)
    for n, text in enumerate(PERCENTS):
        gone = Selector.parse(found.kind, f"{text}%").drops(scores)
        assert found.dropped[n] == gone.sum()
        assert found.kept_tokens[n] == tokens[~gone].sum()
        assert {name: counts[n] for name, counts in found.falling.items()} == {
            name: int((mask & ~gone).sum()) for name, mask in fall.items()
        }
        group = foretold.groups["source"]
        assert found.by_group["source"][n].tolist() == [
            int((gone & (group.index == label)).sum()) for label in range(len(group.labels))
        ]
        if gone.any():
            edge = scores[gone].max() if found.kind == "drop-lowest" else scores[gone].min()
            assert found.thresholds[n] == edge
    assert np.isnan(found.thresholds[0])


def test_the_curves_are_those_of_what_if(audited: AuditRun) -> None:
    found = dropping(audited.table, "ln_ches")
    kept = audited.pairs - found.dropped
    shares = [float(text) / 100 for text in PERCENTS]
    for measure, change in (("own", "dlogp_chosen"), ("free", "free_dlogp_chosen")):
        assert (found.falling[measure] / kept).tolist() == what_if(
            audited.table, "ln_ches", change=change, shares=shares
        )


def test_scores_that_are_missing_are_in_no_share(audited: AuditRun) -> None:
    scores = audited.column("ln_ches").copy()
    scores[:3] = np.nan
    at = audited.table.column_names.index("ln_ches")
    table = audited.table.set_column(at, "ln_ches", [scores])
    found = dropping(table, "ln_ches", percents=["50"])
    assert found.dropped.tolist() == [(ROWS - 3) // 2]


@pytest.mark.parametrize(("by", "percent"), [("dlogp_chosen", "12.5"), ("ches", "7.5"), ("edit_distance", "60")])
def test_the_command_of_the_page_leaves_what_the_page_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: str,
    percent: str,
) -> None:  # fmt: skip
    data = data_of(report(folder))["dropping"]
    found = data["by"][by]
    program, *arguments = shlex.split(found["command"][0] + f"{percent}%" + found["command"][1])
    assert program == "undertow"
    monkeypatch.chdir(tmp_path)
    code, _, _ = run(capsys, *arguments)
    assert code == 0
    kept = data["pairs"] - found["dropped"][data["percents"].index(percent)]
    assert len((tmp_path / "filtered.jsonl").read_text().splitlines()) == kept < ROWS


def test_the_command_reads_the_data_as_the_audit_did() -> None:
    reading = {"columns": {"prompt": "a b", "chosen": "c", "rejected": "d"}, "split": "train", "name": None}
    words = shlex.split(filter_command({"data": "my data.jsonl", "reading": reading}, "out dir", "ches", "2.5"))
    assert words == [
        "undertow", "filter", "my data.jsonl", "--columns", "prompt=a b,chosen=c,rejected=d", "--split", "train",
        "--scores", "out dir", "--by", "ches", "--drop-highest", "2.5%", "--out", "filtered.jsonl",
    ]  # fmt: skip
    assert " --format hh " in filter_command({"data": "-", "reading": {"format": "hh"}}, "s", "ches", "1")


@pytest.mark.parametrize("name", ["cpo", "simpo", "dpo-shift", "orpo", "slic-hf", "ipo"])
def test_every_loss_has_the_cases_that_an_audit_with_it_has(
    inputs: tuple[Path, Path], audited: AuditRun, tmp_path: Path, name: str
) -> None:
    under = {effect.name: effect for effect in audited.losses[0]}
    with_it = read_audit_run(audit(inputs, tmp_path / name, loss=LossSettings(name)))
    assert under[name].cases.tolist() == with_it.table["case"].to_pylist()
    assert under[name].falls.tolist() == with_it.falls["own"].tolist()
    assert under[name].free_falls.tolist() == with_it.falls["free"].tolist()
    assert with_it.losses[0][0].audited
    assert name not in [effect.name for effect in with_it.losses[0]]


def test_a_response_falls_where_the_other_one_pulls_harder(audited: AuditRun) -> None:
    """By hand: Δa = d_w‖g_w‖² − d_l⟨g_w, g_l⟩, with d_w = d_l > 0 under IPO at its reference."""
    table = audited.table.slice(0, 3)
    given = {
        "gg_chosen": [1.0, 1.0, 1.0],
        "gg_cross": [2.0, 0.5, 2.0],
        "gg_rejected": [9.0, 9.0, 9.0],
        "hh_chosen": [5.0, 1.0, 0.5],
        "hh_cross": [0.0, 2.0, 0.0],
        "hh_rejected": [5.0, 9.0, 0.5],
    }
    for name, values in given.items():
        table = table.set_column(table.column_names.index(name), name, [values])
    effects, _ = under_losses(table, "DPO(beta=0.1)", other_reference=False)
    ipo = next(effect for effect in effects if effect.name == "ipo")
    assert ipo.falls.tolist() == [True, False, True]
    assert ipo.free_falls.tolist() == [False, True, True]
    assert ipo.cases.tolist() == [2, 1, 2]
    assert ipo.share == 2 / 3


def test_losses_differ_and_those_that_cannot_be_evaluated_are_named(audited: AuditRun) -> None:
    effects, left_out = under_losses(audited.table, "DPO(beta=0.1)", other_reference=False)
    assert len({tuple(effect.cases) for effect in effects}) > 2
    assert "eta" in left_out["rebel"]
    names = {effect.name for effect in effects}
    assert names | set(left_out) >= {"simpo", "ipo", "reward-calibrated", "rebel"}
    effects, left_out = under_losses(audited.table, "DPO(beta=0.1)", other_reference=True)
    assert "reference" in left_out["ipo"]
    assert "simpo" in {effect.name for effect in effects}
    assert effects[0].cases.tolist() == audited.table["case"].to_pylist()


def test_the_headline_counts_pairs(audited: AuditRun) -> None:
    own, pull = int(audited.falls["own"].sum()), int(audited.falls["pull"].sum())
    found = verdict_of(audited)
    text = found.before + found.number + found.after
    assert text.startswith("Under DPO (β = 0.1), ")
    if own:
        assert found.number == of_all(own, ROWS, "pair")
        assert any(of_all(pull, ROWS, "chosen response") in one for one in found.sentences)
    else:
        assert found.number == (of_all(pull, ROWS, "chosen response") if pull else f"{ROWS} pairs")


def with_falling(audited: AuditRun, own: int, pull: int | None) -> AuditRun:
    """The same audit, had so many chosen responses fallen."""
    table = audited.table
    new = {"dlogp_chosen": np.where(np.arange(ROWS) < own, -1.0, 1.0)}
    if pull is None:
        table = table.drop_columns(["pull", "pull_own", "pull_others"])
    else:
        new |= {"pull": np.where(np.arange(ROWS) < pull, -1.0, 1.0)}
    for name, values in new.items():
        table = table.set_column(table.column_names.index(name), name, [values])
    return replace(audited, table=table)


@pytest.mark.parametrize(
    ("own", "pull", "headline"),
    [
        (21, 3, "21 of 40 pairs (52%) will pull their own chosen response down"),
        (1, None, "1 of 40 pairs (2%) will pull its own chosen response down"),
        (40, 40, "all 40 pairs will pull their own chosen response down"),
        (0, 7, "training on these pairs will pull 7 of 40 chosen responses (18%) down"),
        (0, 0, "40 pairs are ranked: no step on a pair by itself lowers its chosen response"),
        (0, None, "40 pairs are ranked: no step on a pair by itself lowers its chosen response"),
    ],
)
def test_the_verdict_in_words(audited: AuditRun, own: int, pull: int | None, headline: str) -> None:
    changed = with_falling(audited, own, pull)
    found = verdict_of(changed)
    assert found.before + found.number + found.after == f"Under DPO (β = 0.1), {headline}"
    said = " ".join(found.sentences)
    assert ("--pull" in said) == (pull is None)
    assert measure_of(changed) == (
        "own" if own else "free" if changed.falls["free"].any() else "pull" if pull else "own"
    )


def test_charts_are_valid_and_show_all_pairs(foretold: AuditRun) -> None:
    drawn = {
        figure.name: figure for figure in figures_of(foretold, {by: dropping(foretold.table, by) for by in PREDICTORS})
    }
    for figure in drawn.values():
        for chart in (figure.chart, figure.narrow):
            if chart is not None:
                chart.to_dict(validate=True)  # raises where the grammar does not allow it
        assert figure.says
    for by in PREDICTORS:
        bars = rows_drawn(drawn[f"score-{by.replace('_', '-')}"].chart)
        assert sum(bar["pairs"] for bar in bars) == np.isfinite(foretold.column(by)).sum()
    cases = rows_drawn(drawn["losses"].chart)
    ours = {bar["case"]: bar["pairs"] for bar in cases if "audited" in bar["loss"]}
    assert ours == {
        CASE_LABELS[code]: count
        for code, count in zip(*np.unique(foretold.table["case"].to_numpy(), return_counts=True), strict=True)
    }
    assert len([point for point in rows_drawn(drawn["length-ches"].chart) if "row" in point]) == ROWS
    assert drawn["group-1"].numbers[0][0] == "source"


def test_no_bar_holds_both_signs() -> None:
    values = np.concatenate([np.linspace(-3.3, 0, 50, endpoint=False), np.linspace(0, 10.1, 200)])
    bars = rows_drawn(charts.histogram(values, title="x", falls=values < 0))
    for bar in bars:
        assert bar["to"] <= 1e-9 if bar["kind"] == charts.FALLING else bar["from"] >= -1e-9
    assert sum(bar["pairs"] for bar in bars) == 250


def test_many_pairs_are_drawn_as_a_sample_and_the_page_says_so(
    audited: AuditRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "POINTS", 10)
    figure = next(one for one in figures_of(audited, {}) if one.name == "length-ches")
    assert len([point for point in rows_drawn(figure.chart) if "row" in point]) == 10
    assert "10 of 40 pairs are drawn" in figure.says


def test_few_pairs_are_all_listed_with_their_texts(audited: AuditRun, inputs: tuple[Path, Path]) -> None:
    found = listing(audited)
    scores = audited.column("pull")
    assert [row[0] for row in found["rows"]] == audited.table["row"].to_numpy()[np.argsort(scores)].tolist()
    rows = [json.loads(line) for line in inputs[0].read_text().splitlines()]
    for row in found["rows"]:
        given = rows[row[0]]
        assert row[-3:] == [given["prompt"], given["chosen"], given["rejected"]]
        assert row[-4] == given["source"]


def test_a_forecast_ranks_the_pairs_and_those_without_one_come_last(
    foretold: AuditRun, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Also where all pairs of a group have none."""
    values, found = foretold.column("forecast_chosen"), listing(foretold)
    known = np.flatnonzero(np.isfinite(values))
    order = [*known[np.argsort(values[known])], *np.flatnonzero(np.isnan(values))]
    assert [row[0] for row in found["rows"]] == foretold.table["row"].to_numpy()[order].tolist()
    assert (found["sort"], found["down"]) == ("forecast_chosen", False)
    assert found["numbers"][:2] == ["forecast_chosen", "push"]
    at = 2  # after row and case
    shown = [row[at] for row in found["rows"]]
    assert shown[: len(known)] == [float(f"{value:.5g}") for value in values[order[: len(known)]]]
    assert set(shown[len(known) :]) == {None}
    html = report(forecast_beside(foretold.folder, tmp_path / "half", unknown=range(0, ROWS, 2))[0])
    assert "--by forecast_chosen --drop-lowest 10%" in html
    assert not [one for one in recwarn if issubclass(one.category, RuntimeWarning)]


def test_of_many_pairs_the_worst_and_a_spread_of_the_rest_are_listed(
    audited: AuditRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MOST", 10)
    order, found = audited.worst_first(), rows_shown(audited)
    assert found[:5].tolist() == order[:5].tolist()
    assert len(set(found.tolist())) == 10
    assert found[5] == order[5]
    assert found[-1] == order[-1]
    assert "5 most displacing of 40 pairs and 5 spread" in report(audited.folder)


def test_texts_are_cut_to_what_a_page_can_hold(audited: AuditRun, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = listing(audited)
    assert whole["limit"] == 4_000
    monkeypatch.setattr(listing_module, "BUDGET", 100)
    short = listing(audited)
    assert short["limit"] == 250
    assert len(json.dumps(short)) <= len(json.dumps(whole))


def test_rare_values_of_a_column_are_put_together(tmp_path: Path, inputs: tuple[Path, Path]) -> None:
    rows = [row | {"id": f"value {n // 2 if n < 6 else n}"} for n, row in enumerate(some_rows(20))]
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    found = read_audit_run(audit((data, inputs[1]), tmp_path / "out", level="text", by=("id",))).groups["id"]
    assert found.labels[:3] == ["value 0", "value 1", "value 2"]
    assert found.labels[-1] == "9 other values"
    assert np.bincount(found.index).tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 9]


@pytest.mark.parametrize("level", ["text", "hidden"])
def test_lower_levels_show_what_there_is_and_say_which_gives_more(
    inputs: tuple[Path, Path], tmp_path: Path, level: str
) -> None:
    html = report(audit(inputs, tmp_path / level, level=level))
    assert "unembedding" in html
    assert f"These scores are of level <code>{level}</code>" in html
    assert 'id="losses"' not in html
    data = data_of(html)["dropping"]
    assert set(data["by"]) == (
        {"edit_distance"} if level == "text" else {"ches", "ln_ches", "last_hidden_ip", "edit_distance"}
    )
    assert all(not one["falling"] for one in data["by"].values())


def test_the_report_is_made_by_the_next_call(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ("audit", inputs[0], "--model", inputs[1], "--level", "hidden", "--max-length", 400, "--out", out)
    code, said, _ = run(capsys, *line)
    assert code == 0
    assert f"Report: {out / 'report.html'}" in said
    written = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert run(capsys, *line)[0] == 0
    assert (out / "report.html").read_bytes() == written
    assert run(capsys, *line, "--by", "source")[0] == 0
    assert b"By source" not in written
    assert "source" in data_of((out / "report.html").read_text())["dropping"]["groups"]


def test_a_folder_without_texts_has_a_page_without_texts(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    out = audit(inputs, tmp_path / "out", level="text")
    (out / "texts.parquet").unlink()
    html = write_report(out).read_text()
    found = data_of(html)["pairs"]
    assert not found["texts"]
    assert len(found["rows"]) == ROWS
    assert "has no <code>texts.parquet</code>" in html


def test_an_unfinished_run_has_no_report(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    out = audit(inputs, tmp_path / "out", level="text")
    (out / "audit.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        write_report(out)


def test_shards_have_a_page_each_and_one_together(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    for n in (1, 2):
        audit(inputs, tmp_path / str(n), level="text", shard=Shard(n, 2))
    one = write_report(tmp_path / "2").read_text()
    assert "shard 2/2" in one
    assert f"--scores {tmp_path} " in one
    assert data_of(one)["dropping"]["pairs"] == ROWS // 2
    both = read_audit_run(tmp_path)
    assert both.pairs == ROWS
    labels = both.groups["source"]
    assert [labels.labels[n] for n in labels.index] == [row["source"] for row in some_rows(ROWS)]
    assert len(listing(both)["rows"]) == ROWS


def test_the_whole_page_shows_hostile_text_as_text(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    hostile = "</script><script>document.title='run'</script>{{ 7*7 }}\u202e\x1b[31m"
    rows = some_rows(4)
    rows[1] |= {"prompt": hostile, "chosen": hostile + "a" * 5_000, "source": hostile}
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    html = report(audit((data, inputs[1]), tmp_path / "out", level="text", data=DataSettings(limit=4)))
    assert html.count("</script>") == html.count("<script")
    assert "document.title='run'</script>" not in html
    assert not {"\u202e", "\x1b"} & set(html)
    texts = pq.ParquetFile(tmp_path / "out" / "texts.parquet").read()["prompt"].to_pylist()
    assert texts[1] == hostile
    assert "first 4 rows were audited" in html


def test_charts_for_files_are_those_of_the_page(folder: Path) -> None:
    names = [figure.name for figure in figures(folder)]
    assert len(names) == len(set(names))
    assert {"losses", "length-ches", "length-ln-ches", "score-ln-ches", "group-1"} <= set(names)


AXIS_LABELS = re.compile(r'role-axis-label".*?</g>', re.DOTALL)
LABEL_TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


def axis_labels(chart: Any) -> list[list[str]]:
    """The labels of each axis of a chart as they are drawn."""
    svg = image(Figure("chart", "Chart", chart, ""), "svg").decode()
    found = [LABEL_TEXT.findall(axis) for axis in AXIS_LABELS.findall(svg)]
    assert found
    return found


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (1000, 1000.002), (-2.00001, -2), (0, 3e-7), (45678, 45679), (-2e6, 3e6), (12345678, 12345679.5)],
)
def test_no_axis_repeats_a_label(low: float, high: float) -> None:
    values = np.linspace(low, high, 60)
    drawn = [charts.histogram(values, title="score"), charts.scatter(values, values, np.arange(60), titles=("x", "y"))]
    for chart in drawn:
        for labels in axis_labels(chart):
            assert len(set(labels)) == len(labels) > 1, labels


def test_what_a_chart_holds_has_no_more_digits_than_can_be_seen() -> None:
    (bars,) = [rows_drawn(charts.histogram(np.array([0.123456789, 1.0]), title="score"))]
    assert all(len(repr(bar["from"])) <= 7 for bar in bars)
    curve = charts.lines([charts.Lines("ches", [(0.0, 1 / 3)])], titles=("left out", "displaced"), mark=0.1)
    assert {} in rows_drawn(curve), "the rule that moves with the slider"


@pytest.mark.parametrize("share", [1.0, 0.02, 0.0004])
def test_no_axis_of_shares_repeats_a_label(share: float) -> None:
    points = [(0.0, share), (0.3, share / 2), (0.6, 0.0)]
    for labels in axis_labels(charts.lines([charts.Lines("ches", points)], titles=("left out", "displaced"), mark=0.1)):
        assert len(set(labels)) == len(labels) > 1, labels

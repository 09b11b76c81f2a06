"""The page of a forecast: its numbers are the folder's, it counts only where it may, and the audit's page stays."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from axes import repeated
from command import run, some_rows
from run_folders import forecast, held_out, made, rows_drawn, watched_texts
from undertow.errors import DataError
from undertow.forecasting.sweep import simulate_sweep
from undertow.reporting import write_report
from undertow.reporting.forecast.charts import looks, parts
from undertow.reporting.forecast.page import figures, report
from undertow.reporting.forecast.reading import TRAINED_WITH, read_forecast_run
from undertow.reporting.kinds import kind_of
from undertow.reporting.viewing.site import Site
from undertow.wording.forecast import forecast_verdict, why
from undertow.wording.numbers import percent, signed_nats

HOSTILE = "</script><script>alert(1)</script> {{ 7 * 7 }} \x1b[31mred\u202e"
TAGS = re.compile(r"<[^>]*>")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def folder(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs, with held-out pairs and texts, in which something falls."""
    beside = tmp_path_factory.mktemp("forecast")
    more = {"held_out": str(held_out(beside)), "texts": str(watched_texts(beside))}
    return forecast(*inputs, beside / "out", run={"epochs": 3.0}, **more)


@pytest.fixture(scope="module")
def unlooked(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forecast(*inputs, tmp_path_factory.mktemp("unlooked") / "out", look=False)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "out")


def change(folder: Path, name: str = "forecast.json", **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "forecast.json").read_text())
    return found


def words_of(page: str) -> str:
    """What is read on a page, without its data."""
    return html.unescape(TAGS.sub("", page.split('<script type="application/json"')[0]))


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}"')[1].split("</section>")[0]


def test_the_page_begins_with_the_headline_and_its_numbers_are_the_folders(folder: Path) -> None:
    page, summary = report(folder), summary_of(folder)
    table = pq.read_table(folder / "forecast.parquet").to_pandas()
    found = forecast_verdict(summary)
    assert f"about {round(table.forecast_displaced.sum())} of 24 chosen responses" in found.number
    assert found.headline.rstrip(".") in words_of(page)
    cards = dict(re.findall(r'<dt>([^<]*)</dt>\s*<dd><span class="value">([^<]*)<', page))
    assert cards["Displaced"] == percent(table.forecast_displaced.mean())
    assert cards["Chosen"] == signed_nats(table.forecast_chosen.mean())
    assert cards["Rejected"] == signed_nats(table.forecast_rejected.mean())
    held = pq.read_table(folder / "held-out-forecast.parquet").to_pandas()
    assert cards["Held-out"] == percent(held.forecast_displaced.mean())
    assert f"{len(held)} held-out chosen responses" in words_of(page)


def test_pairs_at_risk_are_the_lowest_with_their_texts_and_why(folder: Path) -> None:
    found = section(report(folder), "risk")
    table = pq.read_table(folder / "forecast.parquet").to_pandas().sort_values("forecast_chosen")
    rows = [int(row) for row in re.findall(r'class="row">Row (\d+)<', found)]
    falling = int((table.forecast_chosen < 0).sum())
    assert rows == table.row.tolist()[: max(falling, 5)]
    assert falling
    first = table.iloc[0].to_dict()
    assert why(first, 24, again=True) in words_of(found)
    assert "first trained at step" in found
    assert html.escape(some_rows(24)[rows[0]]["prompt"]) in found
    assert html.escape(some_rows(24)[rows[0]]["chosen"]) in found


def test_pairs_that_push_are_those_below_zero(folder: Path) -> None:
    found = section(report(folder), "push")
    table = pq.read_table(folder / "forecast.parquet").to_pandas().sort_values("push")
    below = table[table.push < 0]
    assert 0 < len(below) < 24
    rows = [int(row) for row in re.findall(r'class="row">Row (\d+)<', found)]
    assert rows == below.row.tolist()[:10]
    assert f"push {signed_nats(below.push.iloc[0])}" in found
    assert f"the mean of the {int((table.forecast_chosen < 0).sum())} chosen responses that fall" in found


def test_groups_of_texts_have_their_start_change_and_movers(folder: Path) -> None:
    found = {group.name: group for group in read_forecast_run(folder).groups()}
    texts = pq.read_table(folder / "texts-forecast.parquet").to_pandas()
    pairs = pq.read_table(folder / "forecast.parquet").to_pandas()
    assert list(found) == ["refusals", "answers"]
    said = words_of(section(report(folder), "texts"))
    for name, group in found.items():
        mine = texts[texts.group == name]
        assert group.texts == len(mine)
        assert group.start == pytest.approx(mine.logp.mean())
        assert group.change == pytest.approx(mine.forecast.mean())
        strongest = pairs.reindex(pairs[f"push:{name}"].abs().sort_values(ascending=False).index)[:3]
        assert group.rows == strongest.row.tolist()
        for value in (group.start, group.change, *group.pushes):
            assert signed_nats(value) in said


def test_the_curve_begins_at_nothing_and_ends_at_the_forecast(folder: Path) -> None:
    found = {figure.name: figure for figure in figures(folder)}
    assert list(found) == ["course", "loss", "held-out", "texts-course", "changes", "parts", "when"]
    summary = summary_of(folder)
    drawn = looks(summary["curve"])
    assert set(drawn[0].values()) == {0}
    assert [row["step"] for row in drawn] == [0, *(point["step"] for point in summary["curve"])]
    assert drawn[-1]["chosen_change"] == pytest.approx(summary["end"]["chosen"])
    assert drawn[-1]["margin_change"] == pytest.approx(summary["end"]["chosen"] - summary["end"]["rejected"])
    assert rows_drawn(found["course"].chart)[-1] == pytest.approx(
        {"step": 24, "share": summary["end"]["displaced"]["value"]}
    )
    last = {row["what"]: row["value"] for row in rows_drawn(found["texts-course"].chart) if row.get("step") == 24}
    assert last == pytest.approx(summary["texts"])
    held = {row["what"]: row["value"] for row in rows_drawn(found["held-out"].chart) if row.get("step") == 24}
    assert held == pytest.approx({side: summary["held_out"][side] for side in ("chosen", "rejected")})
    assert sum(row["pairs"] for row in rows_drawn(found["changes"].chart)) == 24


def test_below_the_line_of_parts_a_response_falls() -> None:
    own, rest = np.array([3.0, -1.0, 2.0, 0.5]), np.array([-1.0, -1.0, -3.0, 4.0])
    drawn = rows_drawn(parts(own, rest, np.arange(4), titles=("own", "rest"), falls=own + rest < 0))
    line = [row for row in drawn if "kind" not in row]
    assert [row["x"] + row["y"] for row in line] == pytest.approx([0, 0])
    for point in (row for row in drawn if "kind" in row):
        assert (point["kind"] == "chosen falls") == (point["x"] + point["y"] < 0)
    upward = parts(np.array([1.0, 2.0]), np.array([5.0, 6.0]), np.arange(2), titles=("own", "rest"), falls=None)
    assert len(rows_drawn(upward)) == 2  # the line is elsewhere


def test_no_axis_repeats_a_label(folder: Path, unlooked: Path) -> None:
    for figure in (*figures(folder), *figures(unlooked)):
        assert repeated(figure.chart) == [], figure.name


def test_without_a_look_the_page_ranks_and_counts_nothing(unlooked: Path) -> None:
    page = report(unlooked)
    said = words_of(page)
    assert "24 chosen responses ranked by what one epoch will do to them" in said
    assert "need the look" in said
    assert '<dl class="stats">' not in page
    hero = page.split('class="hero"')[1].split("</div>")[0]
    assert "%" not in hero
    assert "displaced" not in {cell for figure in figures(unlooked) for row in figure.numbers for cell in row}
    course = next(figure for figure in figures(unlooked) if figure.name == "course")
    assert not any("share" in row for row in rows_drawn(course.chart))
    assert "curvature −" not in section(page, "risk")
    assert "curvature +" not in section(page, "risk")


def test_an_order_that_is_not_known_gives_chances_and_no_steps(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    out = forecast(*inputs, tmp_path / "out", order="unknown", orders=3)
    page = report(out)
    assert "this is the mean over 3 orders" in words_of(page)
    assert re.search(r"falls in (less than )?\d+% of the orders", words_of(section(page, "risk")))
    assert "trained at step" not in section(page, "risk")
    assert "when" not in {figure.name for figure in figures(out)}


def test_pairs_outside_the_sample_push_and_have_no_parts(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    out = forecast(*inputs, tmp_path / "out", sample=10)
    page = report(out)
    table = pq.read_table(out / "forecast.parquet").to_pandas()
    assert table.forecast_chosen.isna().sum() == 14
    assert table.push.notna().all()
    assert "of all 24" in words_of(page)
    assert "the 14 others are stood in for" in words_of(page)
    rows = {int(row) for row in re.findall(r'class="row">Row (\d+)<', section(page, "risk"))}
    assert rows <= set(table[table.forecast_chosen.notna()].row)
    changes = next(figure for figure in figures(out) if figure.name == "changes")
    assert "14 pairs without a gradient left out." in changes.says


def test_a_text_is_only_a_text(copied: Path) -> None:
    texts = pa.table({name: [HOSTILE] * 24 for name in ("prompt", "chosen", "rejected")} | {"row": list(range(24))})
    pq.write_table(texts, copied / "texts.parquet")
    summary = summary_of(copied)
    table = pq.read_table(copied / "texts-forecast.parquet")
    names = [HOSTILE if name == "refusals" else name for name in table["group"].to_pylist()]
    pq.write_table(table.set_column(1, "group", pa.array(names)), copied / "texts-forecast.parquet")
    pairs = pq.read_table(copied / "forecast.parquet")
    renamed = [name.replace("push:refusals", f"push:{HOSTILE}") for name in pairs.column_names]
    pq.write_table(pairs.rename_columns(renamed), copied / "forecast.parquet")
    groups = {HOSTILE: summary["texts"]["refusals"], "answers": summary["texts"]["answers"]}
    curve = [point | {"texts": dict(zip(groups, point["texts"].values(), strict=True))} for point in summary["curve"]]
    change(copied, texts=groups, curve=curve, arguments=summary["arguments"] | {"data": HOSTILE, "model": HOSTILE})
    page = report(copied)
    assert "<script>alert" not in page
    assert "49 " not in page
    assert "{{ 7 * 7 }}" in page
    assert not {"\x1b", "\u202e"} & set(page)
    assert page.count("[U+202E]") > 10


def test_without_texts_of_the_pairs_the_page_has_their_numbers(copied: Path) -> None:
    (copied / "texts.parquet").unlink()
    page = report(copied)
    assert "its own training" in section(page, "risk")
    assert "text-of-data" not in section(page, "risk") + section(page, "push")


def test_a_forecast_that_diverged_has_a_page(copied: Path) -> None:
    table = pq.read_table(copied / "forecast.parquet")
    nothing = pa.array([None] * 24, pa.float64())
    for name in table.column_names:
        if table[name].type == pa.float64():
            table = table.set_column(table.column_names.index(name), name, nothing)
    pq.write_table(table, copied / "forecast.parquet")
    summary = summary_of(copied)
    end = summary["end"] | dict.fromkeys(("chosen", "rejected", "loss", "end_loss"))
    names = ("batch_loss", "loss", "chosen", "rejected", "margin")
    curve = [point | dict.fromkeys(names) for point in summary["curve"]]
    held = summary["held_out"] | {"chosen": None}
    change(copied, end=end, curve=curve, held_out=held, texts=dict.fromkeys(summary["texts"]))
    said = words_of(report(copied))
    assert "No forecast after 3 epochs: the numbers are not finite" in said
    assert "No pair has numbers that are finite." in said


def test_the_audits_page_stands_beside_and_each_names_the_other(copied: Path) -> None:
    assert kind_of(copied) == "forecast"
    assert write_report(copied) == copied / "report.html"
    page, audit = ((copied / name).read_text(encoding="utf-8") for name in ("report.html", "audit.html"))
    assert '<a class="all-pairs" href="audit.html">Audit</a>' in page
    assert '<a class="all-pairs" href="report.html">Forecast</a>' in audit
    assert "How the pairs score" in audit
    assert write_report(copied).read_text(encoding="utf-8") == page


def test_an_unfinished_forecast_has_the_audits_page(copied: Path) -> None:
    (copied / "forecast.json").unlink()
    assert kind_of(copied) == "audit"
    with pytest.raises(DataError, match=r"no forecast\.json\): give its `undertow forecast` command again"):
        report(copied)


def test_a_damaged_table_is_said(copied: Path) -> None:
    (copied / "forecast.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"forecast\.parquet cannot be read"):
        report(copied)


def test_view_serves_both_pages_and_all_pairs(folder: Path) -> None:
    site = Site([folder])
    try:
        page = site.answer("/").body.decode()
        assert '<a class="all-pairs" href="audit">Audit</a>' in page
        assert '<a class="all-pairs" href="pairs">All pairs</a>' in page
        audit = site.answer("/audit")
        assert audit.status == 200
        assert '<a class="all-pairs" href="./">Forecast</a>' in audit.body.decode()
        assert site.answer("/simulated").status == 404
        first = json.loads(site.answer("/pairs").body.decode().split('id="undertow-data">')[1].split("</script>")[0])
        assert (first["sort"], first["down"]) == ("forecast_chosen", False)
        found = json.loads(site.answer("/pairs.json", "sort=forecast_chosen&count=3").body)
        table = pq.read_table(folder / "forecast.parquet").to_pandas().sort_values("forecast_chosen")
        assert [row["row"] for row in found["rows"]] == table.row.tolist()[:3]
        assert found["rows"][0]["push:refusals"] == table["push:refusals"].iloc[0]
        pair = json.loads(site.answer("/pair.json", f"row={table.row.iloc[0]}").body)
        assert pair["numbers"]["own_chosen"] == table.own_chosen.iloc[0]
        assert "ln_ches" in pair["numbers"]
    finally:
        site.close()


def test_view_serves_what_was_simulated(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "arms.yaml").write_text("gentle: {lr: x0.5}\n")
    site = Site([copied])
    try:
        assert 'href="simulated"' not in site.answer("/").body.decode()
        simulate_sweep(copied, tmp_path / "arms.yaml")
        assert 'href="simulated"' in site.answer("/").body.decode()
        found = site.answer("/simulated")
        assert (found.status, "gentle" in found.body.decode()) == (200, True)
    finally:
        site.close()


def test_every_chart_can_be_a_file(capsys, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    out = tmp_path / "charts"
    code, _, err = run(capsys, "view", folder, "--png", out, "--svg", out, "--html", page, "--quiet")
    assert code == 0, err
    names = {figure.name for figure in figures(folder)}
    assert {path.name for path in out.iterdir()} == {f"{name}.{form}" for name in names for form in ("png", "svg")}
    assert "audit.html" not in page.read_text(encoding="utf-8")  # that page is not beside this file


def test_a_fact_of_the_same_run_is_drawn_and_another_is_not(copied: Path) -> None:
    """The demo's: of these data and these options only."""
    run = read_forecast_run(copied)
    training = run.summary["arguments"]["training"]
    fact = {
        "data": run.summary["fingerprints"]["data"],
        "trained_with": {name: training[name] for name in TRAINED_WITH},
        "made_on": "a machine",
        "pairs": [[int(row), float(row) - 5, -1.0] for row in run.rows],
    }
    assert run.fact() is None
    (copied / "fact.json").write_text(json.dumps(fact))
    found = run.fact()
    assert found is not None
    assert found.chosen.tolist() == [float(row) - 5 for row in run.rows]
    assert "Trained for real (a machine), 5 of 24 chosen responses" in html.unescape(report(copied))
    for name, value in {"data": "other", "trained_with": {"lr": 1}, "pairs": [], "made_on": None}.items():
        (copied / "fact.json").write_text(json.dumps({**fact, name: value}) if name != "made_on" else "{")
        assert run.fact() is None
        assert "Trained for real" not in report(copied)

"""The pages of training runs, sweeps and comparisons in a real browser, and the table of pairs that is served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from browser import PHONE, Watch, opened, serving
from command import some_rows
from run_folders import compared, forecast, held_out, made, train_settings, watched_texts
from undertow.forecasting.sweep import simulate_sweep
from undertow.reporting.kinds import report_html
from undertow.reporting.remedies.page import write_simulated
from undertow.runs.settings import LossSettings
from undertow.training.run import train_to_folder
from undertow.training.settings import TrainSettings
from undertow.training.sweep import sweep

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

ROWS = 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sweep of two arms, a comparison with what the first arm made, and a forecast."""
    folder = tmp_path_factory.mktemp("runs")
    data, model = made(folder)
    losses = {"dpo": LossSettings("dpo"), "simpo": LossSettings("simpo", 2.0, {"gamma": 1.0})}
    plans = {name: (str(model), train_settings(loss=loss)) for name, loss in losses.items()}

    def train(model_name: str, settings: TrainSettings, out: Path) -> dict:
        return train_to_folder(data, model_name, out, settings)

    sweep(data, plans, folder / "sweep", train)
    first, second = (folder / "sweep" / "arms" / name for name in plans)
    return {
        "sweep": folder / "sweep",
        "train": first,
        "other": second,
        "compare": compared(data, model, first / "model", folder / "moved"),
        "forecast": forecast(
            data, model, folder / "ahead", held_out=str(held_out(folder)), texts=str(watched_texts(folder))
        ),
    }


@pytest.fixture
def served(runs: dict[str, Path]) -> Iterator[str]:
    """The comparison, served; its address."""
    with serving(runs["compare"]) as url:
        yield url


@pytest.mark.parametrize("kind", ["train", "sweep", "compare", "forecast"])
def test_a_runs_page_opens(browser: Browser, runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    page_file = tmp_path / "report.html"
    page_file.write_text(report_html(runs[kind]), encoding="utf-8")
    context = browser.new_context(color_scheme="dark")
    watch = Watch(context)
    page = opened(context.new_page(), page_file)
    places = page.locator("[data-chart]")
    assert places.count() >= 1
    for index in range(places.count()):
        assert places.nth(index).locator("svg").count() == 1
        assert places.nth(index).get_attribute("aria-label")
    for details in page.locator("details").all():
        details.locator("summary").first.click()
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(400)  # charts with a narrow form are drawn again
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    context.close()
    watch.check()


def test_the_page_of_simulated_arms(page: Page, runs: dict[str, Path]) -> None:
    summary = simulate_sweep(runs["forecast"], "common")
    opened(page, write_simulated(runs["forecast"]))
    assert page.locator("[data-chart] svg").count() == (1 if any(arm["equal"] for arm in summary["arms"]) else 0)
    rows = page.locator("#arms tbody tr")
    assert rows.count() == len(summary["arms"])
    page.locator("#arms thead button", has_text="worst tenth").click()
    page.wait_for_selector("#arms th[aria-sort=descending]")
    worst = sorted(summary["arms"], key=lambda arm: -arm["worst_tenth"])
    assert rows.first.locator("td").first.inner_text() == worst[0]["arm"]


def test_several_training_runs_on_one_page(page: Page, runs: dict[str, Path]) -> None:
    with serving(runs["train"], runs["other"]) as url:
        opened(page, url)
        assert page.locator("[data-chart] svg").count() >= 1
        assert "simpo" in page.locator("main").inner_text()
        opened(page, f"{url}run/2/")
        assert "simpo" in page.locator("main").inner_text()


def test_a_forecast_and_its_audit_lead_to_each_other(page: Page, runs: dict[str, Path]) -> None:
    with serving(runs["forecast"]) as url:
        opened(page, url)
        assert "one epoch" in page.locator("h1").inner_text()
        page.get_by_role("link", name="Audit").click()
        page.wait_for_selector("html[data-ready]")
        assert page.locator("#pairs-table tr.opens").count() > 0
        page.get_by_role("link", name="Forecast").click()
        page.wait_for_selector("html[data-ready]")
        page.get_by_role("link", name="All pairs").first.click()
        page.locator("#pairs-table tr.opens").first.wait_for()
    table = pq.read_table(runs["forecast"] / "forecast.parquet").to_pandas().sort_values("forecast_chosen")
    assert rows_shown(page)[:5] == table.row.tolist()[:5]


def rows_shown(page: Page) -> list[int]:
    cells = page.locator("#pairs-table tbody tr.opens td:first-child").all_inner_texts()
    return [int(cell.split()[-1]) for cell in cells]


def test_the_table_of_all_pairs(page: Page, runs: dict[str, Path], served: str) -> None:
    table = {row["row"]: row for row in pq.read_table(runs["compare"] / "pairs.parquet").to_pylist()}
    opened(page, served)
    page.locator("a[href=pairs]").first.click()
    page.locator("#pairs-table tr.opens").first.wait_for()
    assert rows_shown(page) == sorted(table, key=lambda row: table[row]["dlogp_chosen"])

    page.locator("#pairs-score").select_option("kl_chosen")
    page.wait_for_selector("#pairs-table th[aria-sort=descending]:has-text('kl_chosen')")
    page.wait_for_function("() => document.querySelectorAll('#pairs-table tr.opens').length > 0")
    assert rows_shown(page) == sorted(table, key=lambda row: -table[row]["kl_chosen"])
    page.locator("#pairs-table thead button", has_text="row").first.click()
    page.wait_for_selector("#pairs-table th[aria-sort=ascending]:has-text('row')")
    assert rows_shown(page) == list(range(ROWS))

    page.get_by_role("searchbox").fill("question 1")
    wanted = [n for n, row in enumerate(some_rows(ROWS)) if "Question 1" in row["prompt"]]
    page.locator("#pairs-table [role=status]", has_text=f"of {len(wanted)}").wait_for()
    assert rows_shown(page) == wanted

    page.locator("#pairs-table .toggle").nth(1).press("Enter")
    page.wait_for_selector("#pairs-table .sides")
    row = some_rows(ROWS)[wanted[1]]
    sides = page.locator("#pairs-table .side .text-of-data")
    assert [sides.nth(0).text_content(), sides.nth(1).text_content()] == [row["chosen"], row["rejected"]]
    assert page.locator("#pairs-table .side ins").count() > 0
    assert page.locator("#pairs-table .side del").count() > 0
    page.locator("#pairs-table details summary").click()
    assert f"{table[wanted[1]]['gained_tokens'][0]}" in page.locator("#pairs-table dl.facts").inner_text()

    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_server_that_is_gone_is_said(browser: Browser, runs: dict[str, Path]) -> None:
    context = browser.new_context()
    with serving(runs["compare"]) as url:
        page = opened(context.new_page(), f"{url}pairs")
        page.locator("#pairs-table tr.opens").first.wait_for()
        assert not page.locator("#pairs-problem").is_visible()
    page.route("**/pairs.json*", lambda route: route.abort())  # a connection may be open still
    page.locator("#pairs-table thead button").first.click()
    page.locator("#pairs-problem").wait_for()
    assert "server" in page.locator("#pairs-problem").inner_text()
    context.close()

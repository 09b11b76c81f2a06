"""The audit's page in a real browser: what its slider, table and command say is what the scores and the filter say."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import undertow as ut
from browser import DESKTOP, PHONE, Watch, opened
from command import run, some_rows, write_jsonl
from tiny import tiny_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

ROWS = 60
BEST = "pull"
"""The score that the page ranks by at first."""
ENDS = {"pull": False, "dlogp_chosen": False, "ln_ches": True, "edit_distance": False}
"""Scores, and whether the highest go first."""


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit as users make it, its folder beside the data."""
    folder = tmp_path_factory.mktemp("audit")
    data = write_jsonl(folder / "prefs.jsonl", some_rows(ROWS))
    model = tiny_folder(folder / "model")
    from undertow.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["audit", str(data), "--model", str(model), "--max-length", "400", "--dtype", "float32", "--pull",
              "--by", "source", "--quiet", "--out", str(folder / "scores")])  # fmt: skip
    assert stop.value.code == 0
    return folder / "scores"


@pytest.fixture(scope="module")
def table(audit: Path) -> list[dict[str, Any]]:
    return ut.read_scores(audit).to_pylist()


@pytest.fixture(scope="module")
def tab(browser: Browser, audit: Path) -> Iterator[tuple[Page, Watch]]:
    """The page, opened once: opening it is what takes the time."""
    context = browser.new_context(viewport=DESKTOP)
    watch = Watch(context)
    yield opened(context.new_page(), audit / "report.html"), watch
    context.close()


@pytest.fixture
def report(tab: tuple[Page, Watch]) -> Iterator[Page]:
    """The page with its slider and its search as they were at first."""
    page, watch = tab
    page.emulate_media(media="screen")
    page.locator("#slider-by").select_option(index=0)
    page.locator("#slider-share").fill("20")
    page.get_by_role("searchbox").fill("")
    page.locator("#pairs-table [role=status]", has_text=f"of {ROWS}").wait_for()
    yield page
    watch.check()


@pytest.fixture
def fresh(page: Page, audit: Path) -> Page:
    """The page, opened anew."""
    return opened(page, audit / "report.html")


def text(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text().strip()


def whole(shown: str) -> int:
    return int(shown.replace(",", ""))


def kept_slowly(table: list[dict[str, Any]], by: str, percent: str) -> list[dict[str, Any]]:
    """What stays when the worst so many percent go: of equal scores the later row counts as the higher."""
    order = sorted(table, key=lambda row: (row[by], row["row"]), reverse=ENDS[by])
    return order[math.floor(float(percent) * len(table) / 100) :]


def rows_shown(page: Page) -> list[int]:
    """The rows of the table, over all its pages."""
    found: list[int] = []
    while True:
        cells = page.locator("#pairs-table tbody tr.opens td:first-child").all_inner_texts()
        found += [whole(re.sub(r"[^\d,]", "", cell.split("\n")[-1])) for cell in cells]
        on = page.get_by_role("button", name="Next")
        if on.is_disabled():
            return found
        before = text(page, "#pairs-table [role=status]")
        on.click()
        page.wait_for_function(
            "(said) => document.querySelector('#pairs-table [role=status]').innerText !== said", arg=before
        )


def test_it_opens_and_every_chart_is_drawn(report: Page) -> None:
    places = report.locator("[data-chart]")
    assert places.count() >= 8
    for index in range(places.count()):
        assert places.nth(index).locator("svg").count() == 1
        assert places.nth(index).get_attribute("aria-label")
    assert report.locator("h1").count() == 1


@pytest.mark.parametrize("by", list(ENDS))
def test_the_slider_says_what_the_scores_say(report: Page, table: list[dict[str, Any]], by: str) -> None:
    report.locator("#slider-by").select_option(by)
    seen = set()
    for place in ("0", "20", "33", "67", "120"):
        report.locator("#slider-share").fill(place)
        percent = text(report, "#slider-percent").removesuffix("%")
        kept = kept_slowly(table, by, percent)
        tokens = sum(row["prompt_tokens"] + row["chosen_tokens"] + row["rejected_tokens"] for row in kept)
        falling = sum(row["dlogp_chosen"] < 0 for row in kept)
        assert whole(text(report, "#slider-pairs")) == len(kept)
        assert whole(text(report, "#slider-tokens")) == tokens
        assert text(report, "#slider-falling-note").startswith(f"{falling} of {len(kept)} pairs")
        assert text(report, "#slider-falling") == f"{100 * falling / len(kept):.1f}%"
        seen.add((len(kept), falling))
    assert len(seen) > 3


def test_what_the_slider_leaves_out_is_counted_by_group(report: Page, table: list[dict[str, Any]]) -> None:
    report.locator("#slider-share").fill("50")
    kept = {row["row"] for row in kept_slowly(table, BEST, "25")}
    gone = [row["source"] for n, row in enumerate(some_rows(ROWS)) if n not in kept]
    said = text(report, "#slider-groups")
    assert f"{gone.count('web')} of 30" in said
    assert f"{gone.count('book')} of 30" in said


@pytest.mark.parametrize(("by", "place"), [("dlogp_chosen", "33"), ("ln_ches", "20")])
def test_the_command_does_what_the_slider_says(
    report: Page, capsys, tmp_path, monkeypatch, by: str, place: str
) -> None:
    report.locator("#slider-by").select_option(by)
    report.locator("#slider-share").fill(place)
    words = shlex.split(text(report, "#slider-command"))
    assert words[:2] == ["undertow", "filter"]
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words[1:], "--json")
    assert code == 0, err
    assert len((tmp_path / "filtered.jsonl").read_text().splitlines()) == whole(text(report, "#slider-pairs")) < ROWS


def test_the_table_sorts(fresh: Page, table: list[dict[str, Any]]) -> None:
    by_row = {row["row"]: row for row in table}
    worst = sorted(by_row, key=lambda row: by_row[row][BEST])
    assert rows_shown(fresh) == worst
    head = fresh.locator("#pairs-table thead th").filter(has_text="ln CHES")
    for direction, down in (("descending", True), ("ascending", False)):
        head.get_by_role("button").click()
        fresh.wait_for_selector(f"#pairs-table th[aria-sort={direction}]")
        values = [by_row[row]["ln_ches"] for row in rows_shown(fresh)]
        assert len(values) == ROWS
        # The page rounds to five digits: equal there may differ in the files.
        assert values == pytest.approx(sorted(values, reverse=down), rel=1e-4)


@pytest.mark.parametrize("wanted", ["question 1", "TRUST ME", "nowhere to be found"])
def test_the_table_searches(report: Page, wanted: str) -> None:
    report.get_by_role("searchbox").fill(wanted)
    rows = [n for n, row in enumerate(some_rows(ROWS)) if wanted.lower() in " ".join(map(str, row.values())).lower()]
    said = f"of {len(rows)}" if rows else "No pair fits."
    report.locator("#pairs-table [role=status]", has_text=said).wait_for()
    assert sorted(rows_shown(report)) == rows


def test_opening_a_pair_shows_both_responses_and_what_differs(report: Page) -> None:
    report.get_by_role("searchbox").fill("Question 7:")
    report.locator("#pairs-table [role=status]", has_text="of 1").wait_for()
    report.locator("#pairs-table tr.opens").click()
    row = some_rows(8)[7]
    sides = report.locator("#pairs-table .side .text-of-data")
    assert sides.nth(0).text_content() == row["chosen"]
    assert sides.nth(1).text_content() == row["rejected"]
    marks = [report.locator(f"#pairs-table .side {kind}").all_text_contents() for kind in ("ins", "del")]
    assert all(marks)

    def same(side: str, marked: list[str]) -> str:
        for part in marked:
            side = side.replace(part, "", 1)
        return re.sub(r"\s+", "", side)

    assert same(row["chosen"], marks[0]) == same(row["rejected"], marks[1]) != ""
    report.locator("#pairs-table tr.opens").click()
    assert report.locator("#pairs-table .side").count() == 0


def tab_to(page: Page, selector: str) -> None:
    """Tab until an element of that kind has the focus."""
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"{selector} cannot be reached with Tab")


def test_it_works_with_the_keyboard_alone(fresh: Page, table: list[dict[str, Any]]) -> None:
    tab_to(fresh, "a.skip")
    assert fresh.locator("a.skip").is_visible()
    tab_to(fresh, "#theme")
    fresh.keyboard.press("Enter")
    assert fresh.evaluate("document.documentElement.dataset.theme") == "dark"
    tab_to(fresh, "#slider-by")
    fresh.keyboard.press("ArrowDown")
    tab_to(fresh, "#slider-share")
    fresh.keyboard.press("Home")
    assert whole(text(fresh, "#slider-pairs")) == ROWS
    for _ in range(4):
        fresh.keyboard.press("ArrowRight")
    assert text(fresh, "#slider-percent") == "2%"
    assert whole(text(fresh, "#slider-pairs")) == ROWS - 1
    tab_to(fresh, "input[type=search]")
    fresh.keyboard.type("Question 7:")
    fresh.locator("#pairs-table [role=status]", has_text="of 1").wait_for()
    tab_to(fresh, "#pairs-table thead button")
    fresh.keyboard.press("Enter")
    fresh.wait_for_selector("#pairs-table th[aria-sort]")
    tab_to(fresh, "#pairs-table .toggle")
    fresh.keyboard.press("Enter")
    fresh.wait_for_selector("#pairs-table .sides")
    assert fresh.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    fresh.keyboard.press("Space")
    assert fresh.locator("#pairs-table .sides").count() == 0


def brightness(page: Page, selector: str, name: str) -> float:
    """Of a computed colour, 0 to 1."""
    found = page.evaluate(
        "([selector, name]) => getComputedStyle(document.querySelector(selector))[name]", [selector, name]
    )
    red, green, blue = map(float, re.findall(r"[\d.]+", found)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_light_and_dark(browser: Browser, audit: Path) -> None:
    for scheme, dark in (("light", False), ("dark", True)):
        context = browser.new_context(color_scheme=scheme)
        watch = Watch(context)
        page = opened(context.new_page(), audit / "report.html")
        assert (brightness(page, "body", "backgroundColor") < 0.5) == dark
        assert (brightness(page, "h1", "color") > 0.5) == dark
        assert (brightness(page, "[data-chart] svg text", "fill") > 0.4) == dark
        page.locator("#theme").click()
        assert (brightness(page, "body", "backgroundColor") < 0.5) != dark
        assert (brightness(page, "[data-chart] svg text", "fill") > 0.4) != dark
        if not dark:
            opened(page, audit / "report.html")
            assert brightness(page, "body", "backgroundColor") < 0.5  # remembered
        context.close()
        watch.check()


def test_on_paper(report: Page) -> None:
    report.emulate_media(media="screen", color_scheme="dark")
    assert brightness(report, "body", "backgroundColor") < 0.5
    report.emulate_media(media="print")
    assert brightness(report, "body", "backgroundColor") > 0.95
    assert brightness(report, "h1", "color") < 0.3
    assert not report.locator("#theme").is_visible()
    assert not report.get_by_role("button", name="Copy").first.is_visible()
    assert report.locator("#slider-command").is_visible()
    assert report.pdf().startswith(b"%PDF")
    report.emulate_media(media="screen", color_scheme="light")


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, audit: Path) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    watch = Watch(context)
    page = opened(context.new_page(), audit / "report.html")
    page.locator("#pairs-table .toggle").first.tap()
    page.wait_for_selector("#pairs-table .sides")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    right = page.locator("#pairs-table .side").first.bounding_box()
    assert right is not None
    assert right["x"] + right["width"] <= PHONE["width"]
    context.close()
    watch.check()


def test_without_scripts_the_verdict_can_be_read(browser: Browser, audit: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((audit / "report.html").as_uri())
    assert "chosen response" in page.locator("h1").inner_text()
    assert page.locator("#slider-command").is_visible()
    assert page.locator("figcaption").first.is_visible()
    context.close()


def test_the_slider_starts_where_the_terminal_left_off(report: Page, capsys, audit: Path) -> None:
    arguments = json.loads((audit / "audit.json").read_text())["arguments"]
    words = shlex.split(text(report, "#slider-command"))
    assert words[2] == arguments["data"]
    assert words[words.index("--scores") + 1] == str(audit)
    assert words[words.index("--drop-lowest") + 1] == "10%"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("<script>console.error('x')</script>", "errors in the browser"),
        ("<script>throw new Error('x')</script>", "errors in the browser"),
        ("<img src='http://127.0.0.1:9/x.png'>", "asked for something else"),
        ("<link rel=stylesheet href='https://example.org/x.css'>", "asked for something else"),
        ("<script>fetch('other.json').catch(() => 0)</script>", "asked for something else"),
    ],
)
def test_the_watch_sees_what_goes_wrong(browser: Browser, tmp_path: Path, body: str, what: str) -> None:
    """What all these tests rely on: a page that errs or asks for anything else does not pass."""
    (tmp_path / "page.html").write_text(f"<!doctype html><title>x</title>{body}")
    context = browser.new_context()
    watch = Watch(context)
    context.new_page().goto((tmp_path / "page.html").as_uri())
    context.close()
    with pytest.raises(AssertionError):
        watch.check()
    found = watch.errors if "errors" in what else watch.leaving
    assert found

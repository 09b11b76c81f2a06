"""The page of one pair in a real browser: colours, keys, hostile text, phone, print, and made on demand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import undertow as ut
from browser import PHONE, opened, serving
from command import some_rows
from run_folders import forecast, made
from undertow.explaining.explanation import Explanation
from undertow.reporting.explanation.page import write_explanations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

ATTACK = "</script><script>window.__pwned = 1</script><img src=x onerror='window.__pwned = 1'> {{7*7}} \u202egnirts 🙂"


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecast of data of which a row is hostile everywhere."""
    folder = tmp_path_factory.mktemp("explained")
    rows = some_rows(12)
    rows[3] = {**rows[3], "prompt": ATTACK, "chosen": f"yes {ATTACK}", "rejected": f"no {ATTACK}"}
    data, model = made(folder, rows)
    return forecast(data, model, folder / "ahead")


@pytest.fixture(scope="module")
def found(ahead: Path) -> list[Explanation]:
    """The hostile row, and one that it acts on."""
    return ut.explain(ahead, row=[3, 5])


@pytest.fixture(scope="module")
def pages(found: list[Explanation], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Their pages."""
    return write_explanations(found, tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("which", [0, 1])
def test_hostile_text_is_text(page: Page, pages: list[Path], which: int) -> None:
    opened(page, pages[which])
    for details in page.locator("details > summary").all():
        details.click()
    assert page.evaluate("typeof window.__pwned") == "undefined"
    assert page.locator("main img, main iframe").count() == 0
    assert page.locator("main").get_by_text("[U+202E]gnirts").count() > 0
    assert page.locator("main").get_by_text("{{7*7}}").count() > 0


def test_tokens_are_coloured_and_told_by_pointer_and_by_keys(
    page: Page, pages: list[Path], found: list[Explanation]
) -> None:
    opened(page, pages[1])
    said, tokens = page.locator("#token-says"), page.locator("#tokens .tok")
    assert tokens.count() == len(found[1].chosen.pieces) + len(found[1].rejected.pieces)
    colours = tokens.evaluate_all("all => all.map((one) => one.style.background)")
    assert any("--chosen" in one or "--rejected" in one for one in colours)
    tokens.nth(1).hover()
    assert said.inner_text().startswith("Chosen, token 2")
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("Chosen, token 3")
    page.locator("#measure").select_option(label="own step")
    assert tokens.evaluate_all("all => all.map((one) => one.style.background)") != colours


def test_the_heat_map_is_walked_and_shows_what_was_computed(
    page: Page, pages: list[Path], found: list[Explanation]
) -> None:
    opened(page, pages[1])
    heat = found[1].heat
    assert heat is not None
    rows, columns = heat.products.cross.shape
    assert page.locator("#heat-map td").count() == rows * columns
    page.locator("#heat-kind").select_option(label="products")
    page.locator("#heat-map td").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    said = page.locator("#heat-says").inner_text()
    assert "Chosen 2" in said
    assert "rejected 2" in said
    number = float(said.rpartition("product ")[2].replace("\u2212", "-").replace(",", ""))
    assert number == pytest.approx(float(heat.products.cross[1, 1]), rel=0.01)
    page.locator("#heat-block").select_option(label="chosen by chosen")
    assert page.locator("#heat-map td").count() == rows * rows


def test_rows_lead_to_rows(page: Page, pages: list[Path], found: list[Explanation]) -> None:
    opened(page, pages[1])
    told = found[1].foretold
    assert told is not None
    named = [one.row for one in (*told.down, *told.up)]
    listed = page.locator(".influences li[id]").evaluate_all("all => all.map((one) => one.id)")
    assert listed == [f"row-{row}" for row in named]
    assert 3 in named  # it has a page of its own, beside this one
    page.locator("#row-3 summary").click()
    assert page.get_by_role("link", name="Explain row 3").get_attribute("href") == "row-3.html"


def test_on_a_phone_in_the_dark_and_on_paper(browser: Browser, pages: list[Path], tmp_path: Path) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme="dark")
    page = opened(context.new_page(), pages[1])
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.pdf(path=str(tmp_path / "paper.pdf"))
    assert (tmp_path / "paper.pdf").stat().st_size > 20_000
    context.close()


def test_view_makes_it_on_demand(page: Page, ahead: Path) -> None:
    page.set_default_timeout(60_000)
    with serving(ahead) as url:
        opened(page, url)
        link = page.get_by_role("link", name="Why? Explain this pair").first
        page.locator("details.pair summary").first.click()
        address = link.get_attribute("href")
        assert address is not None
        page.goto(f"{url.rstrip('/')}/{address}")
        page.locator("h1", has_text="chosen response").wait_for()
        assert page.locator("#tokens .tok").count() > 0
        assert page.locator(".influences a[href^='explain?row=']").count() > 0

"""Hostile text, from the data file through the real pipeline to pages and terminal: shown as text, never run."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from browser import Watch, opened, serving
from command import run, write_jsonl
from run_folders import compared, forecast, trained
from tiny import tiny_folder
from undertow.cli.main import main
from undertow.reporting.kinds import report_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

PWNED = "window.__pwned = true"
HOSTILE = {
    "script": f"<script>{PWNED}</script>",
    "end of script": f"</script><script>{PWNED}</script>",
    "end of JSON": f'"]}}</script><!--<script>{PWNED}</script>',
    "comment": f"<!--<script>{PWNED}//-->",
    "template": "{{7*7}} {% raw %} {{ config }} {%- endraw -%} {# x #} ${7*7} <%= 7*7 %>",
    "image": f"<img src=x onerror='{PWNED}'>",
    "vector": f"<svg onload='{PWNED}'><foreignObject><iframe srcdoc='<script>parent.{PWNED}</script>'>",
    "style": f"</style><style>body{{display:none}}</style><body onload={PWNED}>",
    "link": f"<a href='javascript:{PWNED}'>click</a> <meta http-equiv=refresh content='0;url=https://example.org'>",
    "title": f"</title></textarea></noscript><script>{PWNED}</script>",
    "right to left": "safe \u202egnirts desrever\u202c \u2066isolated\u2069 \u200b\ufeff",
    "control": "nul \0 bell \a escape \x1b[31mred\x1b[0m \x1b]0;title\x07 back\b\b\b \x7f \x85 \x9b31m",
    "separators": "line\u2028paragraph\u2029end",
    "formula": "=HYPERLINK(\"https://example.org\")",
    "expression": "datum.x || window.__pwned === 1",
    "prototype": "__proto__ constructor",
    "quotes": "' \" ` \\ \\u003cscript\\u003e &lt;b&gt; &amp;",
    "emoji": "👩‍👩‍👧 é e\u0301 العربية עברית",
    "markup for terminals": "[bold]bold[/bold] [link=https://example.org]x[/link] [/]",
}  # fmt: skip
SHOWN = {
    "right to left": ["safe [U+202E]gnirts", "[U+202C]", "[U+200B][U+FEFF]"],
    "control": ["nul ␀ bell ␇ escape ␛[31mred", "␡"],
    "separators": ["line[U+2028]paragraph[U+2029]end"],
}
"""How what cannot be seen is shown; all else is shown as it is."""
LONG = {"prompt": "prompt of the long line", "chosen": "A1 " * 350_000, "rejected": "B2 " * 350_000, "kind": "long"}


def hostile_rows() -> list[dict[str, Any]]:
    """Each text once in each place: as prompt, chosen and rejected response, and as a value to group by."""
    rows = []
    for name, text in HOSTILE.items():
        rows.append({"prompt": text, "chosen": f"chosen {name}", "rejected": "short", "kind": text[:200]})
        rows.append({"prompt": f"prompt {name}", "chosen": text, "rejected": f"not {text}", "kind": "plain"})
        rows.append({"prompt": f"prompt {name}", "chosen": "short", "rejected": text, "kind": name})
    return rows


@dataclass(frozen=True, slots=True)
class Made:
    """The folder of the runs, and what the commands printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Audit, training, comparison and forecast of hostile data, in a folder with a hostile name."""
    folder = tmp_path_factory.mktemp("hostile") / f"<img src=x onerror={PWNED.replace(' ', '')}>{{{{7*7}}}}"
    folder.mkdir()
    model = tiny_folder(folder / "model")
    data = write_jsonl(folder / "prefs<b>.jsonl", hostile_rows())
    trained(data, model, folder / "dpo", max_steps=2)
    compared(data, model, folder / "dpo" / "model", folder / "moved", generate=1)
    texts = [{"prompt": text, "response": "No.", "group": text} for text in HOSTILE.values()]
    forecast(data, model, folder / "ahead", texts=str(write_jsonl(folder / "texts.jsonl", texts)))
    long = write_jsonl(folder / "long<b>.jsonl", [*hostile_rows(), LONG])
    audit = ("audit", long, "--model", model, "--max-length", 400, "--by", "kind", "--out", folder / "scores")
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in audit])
    assert stop.value.code == 0, said.getvalue()
    return Made(folder, said.getvalue())


@pytest.fixture(scope="module")
def pages(hostile: Made) -> dict[str, Path]:
    """Every kind of page, as a file."""
    folder = hostile.folder.parent / "pages"
    folder.mkdir()
    found = {"audit": hostile.folder / "scores" / "report.html"}
    for kind, name in (("train", "dpo"), ("compare", "moved"), ("forecast", "ahead")):
        found[kind] = folder / f"{kind}.html"
        found[kind].write_text(report_html(hostile.folder / name), encoding="utf-8")
    return found


def nothing_ran(page: Page) -> None:
    assert page.evaluate("typeof window.__pwned") == "undefined"
    assert page.locator("img, iframe, foreignObject, meta[http-equiv=refresh], a[href^=javascript]").count() == 0
    assert page.locator("main").is_visible()
    assert "49" not in page.locator(".eyebrow, h1, title").all_inner_texts()


@pytest.mark.parametrize("kind", ["audit", "train", "compare", "forecast"])
def test_nothing_runs_on_a_page(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    context = browser.new_context()
    watch = Watch(context)
    page = opened(context.new_page(), pages[kind])
    for details in page.locator("details > summary").all():
        details.click()
    nothing_ran(page)
    context.close()
    watch.check()


def search(page: Page, wanted: str, found: int) -> None:
    page.get_by_role("searchbox").fill(wanted)
    page.locator("#pairs-table [role=status]", has_text=re.compile(f"of {found}$")).wait_for()


def open_all(page: Page) -> dict[int, list[str]]:
    """Open every pair of the table's page; their texts by row."""
    page.evaluate("document.querySelectorAll('#pairs-table .toggle').forEach((button) => button.click())")
    rows = "#pairs-table tr.opens"
    page.wait_for_function(
        f"() => document.querySelectorAll('{rows} + tr .sides').length === document.querySelectorAll('{rows}').length"
    )
    found = page.evaluate(
        f"""() => [...document.querySelectorAll('{rows}')].map((row) => [
            row.firstElementChild.lastChild.textContent,
            [...row.nextElementSibling.querySelectorAll('.text-of-data')].map((text) => text.textContent)])"""
    )
    return {int(row): texts for row, texts in found}


def check_texts(page: Page, limit: int) -> None:
    """Each hostile text as a prompt; and two long texts beside each other, cut at ``limit``."""
    search(page, "chosen ", len(HOSTILE))
    shown = open_all(page)
    while (on := page.get_by_role("button", name="Next")).is_enabled():
        on.click()
        page.wait_for_function("() => document.querySelectorAll('#pairs-table .sides').length === 0")
        shown |= open_all(page)
    for n, (name, text) in enumerate(HOSTILE.items()):
        for part in SHOWN.get(name, [text]):
            assert part in shown[3 * n][0], name
    search(page, LONG["prompt"], 1)
    page.wait_for_function("() => document.querySelectorAll('#pairs-table .sides').length === 0")
    ((_, *sides),) = open_all(page).values()
    for side, text in zip(sides, (LONG["chosen"], LONG["rejected"]), strict=True):
        assert side == f"{text[:limit]}… (1,050,000 characters)"
    nothing_ran(page)


def test_each_text_is_shown_as_text(browser: Browser, pages: dict[str, Path]) -> None:
    context = browser.new_context()
    watch = Watch(context)
    check_texts(opened(context.new_page(), pages["audit"]), 4_000)
    context.close()
    watch.check()


@pytest.fixture
def served(hostile: Made) -> Iterator[str]:
    with serving(hostile.folder / "scores") as url:
        yield url


def test_each_text_is_shown_as_text_in_the_table_of_all_pairs(page: Page, served: str) -> None:
    check_texts(opened(page, f"{served}pairs"), 200_000)


def test_nothing_in_the_files_can_end_its_element(pages: dict[str, Path]) -> None:
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        for name in ("undertow-charts", "undertow-data"):
            data = text.split(f'id="{name}">')[1].split("</script>")[0]
            json.loads(data)
            assert not {"<", ">", "&", "\u2028", "\u2029", "\0", "\x1b", "\u202e"} & set(data)
        # Scripts run by their hashes alone: one that a text brought along would not, even if it came to stand there.
        policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
        assert len(policy) == 1
        assert "default-src &#39;none&#39;" in policy[0]
        assert not re.search(r"script-src[^;]*(unsafe|\*|http)", policy[0])


def test_nothing_reaches_the_terminal_but_text(hostile: Made, capsys) -> None:
    folder, data = hostile.folder, hostile.folder / "long<b>.jsonl"
    said = [hostile.printed]
    scores = folder / "scores"
    kept = folder / "kept.jsonl"
    said += run(capsys, "filter", data, "--scores", scores, "--drop-highest", "10%", "--out", kept)[1:]
    refused = run(capsys, "audit", data, "--model", folder / "model", "--by", "\x1b[31mred", "--out", folder / "x")
    assert refused[0] == 2
    said += refused[1:]
    said += run(capsys, "view", scores, "--html", folder / "\x1b[31mred.html", "--json")[1:]
    for text in said:
        assert {one for one in text if not one.isprintable()} <= {"\n", "\t"}

"""The examples of the documentation: what a page says an example prints is what it prints."""

from __future__ import annotations

import doctest
import functools
import re
from pathlib import Path

import pytest

import undertow as ut
from undertow.cli import reference
from undertow.comparing.pairs import SCHEMA as COMPARED
from undertow.scoring.columns import COLUMNS
from undertow.training.tracking.names import tracked_names

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def examples(page: Path) -> list[str]:
    """The Python blocks of a page, in order."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def run_prompts(page: Path) -> doctest.TestResults:
    text = "\n".join(block for block in examples(page) if block.startswith(">>>"))
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    assert test.examples, f"{page.name} has no example"
    return doctest.DocTestRunner(optionflags=_OPTIONS).run(test)


@pytest.fixture(scope="module")
def one_model():
    """The demo model, loaded once for all pages."""
    pytest.importorskip("gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("undertow.models.loading.load_model", functools.cache(ut.load_model))
        yield


@pytest.mark.model
@pytest.mark.parametrize("page", ["ches.md", "exact.md", "cases.md", "pull.md", "tilt.md"])
def test_a_page_shows_what_its_example_prints(page: str, one_model) -> None:
    assert run_prompts(DOCS / page).failed == 0


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in readme] == []


def test_every_option_stands_in_the_docs_as_the_command_line_has_it() -> None:
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == reference.page(), "run: make reference"


def test_every_option_says_what_it_does() -> None:
    rows = [line for line in reference.page().splitlines() if line.startswith("| `-")]
    assert rows
    assert [row for row in rows if row.endswith("|  |")] == []


def test_the_glossary_has_every_column_and_every_tracked_value() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    tracked = {name for name in tracked_names(gradients=True) if "/" not in name}
    names = {*(column.name for column in COLUMNS), *COMPARED.names, *tracked} - {"margin"}
    assert sorted(name for name in names if f"`{name}`" not in text) == []

"""The shell of every page: what it holds is shown and never run, and it needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from html.parser import HTMLParser

import altair as alt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertow.reporting.page import shell as page
from undertow.reporting.page import theme
from undertow.reporting.page.shell import Figure, embedded, render
from undertow.wording.losses import written
from undertow.wording.visible import cut, shown, visible

HOSTILE = "</script><script>alert(1)</script><!-- {{ 7 * 7 }} {% raw %} & \u2028\u202e\x1b[31m\x00"
TEMPLATE = """{% extends "base.html.j2" %}{% from "macros.html.j2" import section, command %}
{% block main %}{% call section("one", "One", text) %}{{ figure("bars") }}{{ command(text) }}{% endcall %}{% endblock %}
"""


def bars(says: str = "Two bars.") -> Figure:
    chart = alt.Chart(alt.InlineData(values=[{"x": 1, "y": 2}])).mark_bar(color=theme.CHOSEN).encode(x="x:Q", y="y:Q")
    return Figure("bars", "Bars", chart, says, numbers=[("x", "y"), ("one", 2.5)])


class Elements(HTMLParser):
    """The elements of a page, and what stands in its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data


@pytest.fixture
def html(monkeypatch: pytest.MonkeyPatch) -> str:
    import jinja2

    environment = page._environment().overlay()
    environment.loader = jinja2.ChoiceLoader([jinja2.DictLoader({"test.html.j2": TEMPLATE}), environment.loader])
    monkeypatch.setattr(page, "_environment", lambda: environment)
    return render("test.html.j2", title=HOSTILE, figures=[bars(HOSTILE)], data={"text": HOSTILE}, text=HOSTILE)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_embedded_json_reads_back_and_cannot_end_its_element(value: object) -> None:
    text = str(embedded(value))
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    text.encode("utf-8")


def test_numbers_that_json_lacks_are_null() -> None:
    assert str(embedded([float("nan"), {"a": float("inf")}, (1.5,)])) == '[null,{"a":null},[1.5]]'


def test_hostile_text_makes_no_element(html: str) -> None:
    elements = Elements(html)
    kinds = [attributes.get("type") for attributes, _ in elements.scripts]
    # Charts and data, then Vega and the page's own: nothing that came with the text.
    assert kinds == ["application/json", "application/json", None, None]
    assert json.loads(elements.scripts[1][1]) == {"text": HOSTILE}
    assert "49" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", html, flags=re.DOTALL)
    assert "{{ 7 * 7 }}" in html
    body = html[html.index("<body>") : html.index('<script type="application/json"')]
    assert not {"\u202e", "\x1b", "\x00"} & set(body)
    assert "[U+202E]" in body
    assert "\u241b[31m" in body


def test_the_policy_lists_every_script_by_its_hash_and_allows_no_other(html: str) -> None:
    elements = Elements(html)
    policy = next(a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    run = [text for attributes, text in elements.scripts if attributes.get("type") is None]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run]
    assert rules["script-src"].split() == hashes
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules


def test_the_page_refers_to_nothing_outside(html: str) -> None:
    elements = Elements(html)
    for tag, attributes in elements.found:
        for name in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles


def test_a_page_that_is_served_may_ask_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "connect-src 'self'" in page._policy(["x"], live=True)


def test_a_chart_has_its_words_beside_it(html: str) -> None:
    plot = next(a for tag, a in Elements(html).found if a.get("data-chart") == "bars")
    assert plot["role"] == "img"
    assert plot["aria-label"] == f"Bars. {shown(HOSTILE)}"


def test_figures_are_checked() -> None:
    with pytest.raises(ValueError, match="Not a slug"):
        Figure("Not a slug", "", alt.Chart(), "")
    with pytest.raises(ValueError, match="one name"):
        render("audit.html.j2", title="", figures=[bars(), bars()])


@given(st.text() | st.text(alphabet=st.characters(categories=["Cc", "Cf", "Co", "Zl", "Zp", "Lo", "Nd"])))
def test_what_is_shown_hides_nothing(text: str) -> None:
    found = visible(text)
    hidden = [one for one in found if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]
    assert set(hidden) <= set("\n\t\u200c\u200d")
    assert visible(found) == found


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "M", "Zs"])))
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_joiners_stay_where_scripts_need_them_and_show_where_they_hide() -> None:
    assert visible("👩\u200d🔬 می\u200cروم") == "👩\u200d🔬 می\u200cروم"
    assert visible("pass\u200dword") == "pass[U+200D]word"
    assert visible("a\r\nb\x7f\x85\ue000") == "a␍\nb␡[U+0085][U+E000]"


def test_long_text_is_cut_and_says_how_long_it_was() -> None:
    assert shown("x" * 1_000_000, 5) == "xxxxx… (1,000,000 characters)"
    assert cut("x" * 1_000_000, 5) == "xxxxx… (1,000,000 characters)"
    assert shown("x" * 5, 5) == "xxxxx"
    assert shown("xx", 5, characters=7) == "xx… (7 characters)"


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, definition of contrast ratio."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_text_and_marks_stand_out_from_their_ground(mode: int) -> None:
    colour = {role: both[mode] for role, both in theme.COLOURS.items()}
    for ground in ("card", "page"):
        assert contrast(colour["ink"], colour[ground]) >= 7
        assert contrast(colour["soft"], colour[ground]) >= 4.5
    for role in ("chosen", "rejected", "margin"):
        assert contrast(colour[role], colour["card"]) >= 3, role


def test_a_chart_of_its_own_has_the_values_of_its_mode() -> None:
    spec = bars().spec()
    assert theme.themed(spec, "light")["mark"]["color"] == theme.CHOSEN
    dark = json.dumps(theme.themed(spec, "dark"))
    assert "#58b2ee" in dark
    for light, other in theme.COLOURS.values():
        assert light == other or light not in dark
    assert "config" not in spec


def test_losses_are_written_as_in_a_sentence() -> None:
    assert written("SimPO(beta=2.0, gamma=1.0)") == "SimPO (β = 2, γ = 1)"
    assert written("KTOPair(beta=0.1, lam_chosen=1.0)") == "KTOPair (β = 0.1, λ chosen = 1)"
    assert written("RewardCalibrated(loss=DPO(beta=0.1))") == "reward-calibrated DPO (β = 0.1)"
    assert written("REBEL(eta=1.0)") == "REBEL (η = 1)"

"""Colours and type of every page and chart, in one place; light and dark.

A chart names a colour by its role, as the light value below. The browser puts the page's CSS variable in its place, so
a chart follows the page when it turns dark or is printed; :func:`themed` puts the values themselves, for files.

Hues are Okabe and Ito's, which people with any colour vision tell apart; the dark values are lightened for contrast.
Never is a meaning carried by hue alone, and never by red against green.
"""

from __future__ import annotations

from typing import Any, Literal

from undertow.wording.names import CASE_TAGS

Mode = Literal["light", "dark"]

CHOSEN, REJECTED = "#0072b2", "#d55e00"
MARGIN = "#6f6f69"
RISES, FALLS = CHOSEN, REJECTED
"""Of a chosen response: its log-probability goes up, or down."""
BOTH_UP, REVERSED = "#56b4e9", "#e69f00"
THIRD, FOURTH = "#009e73", "#cc79a7"
QUIET = "#b9b8b1"
INK, SOFT, LINE, CARD, PAGE = "#1d1d1b", "#66665f", "#e4e3dc", "#ffffff", "#f7f7f4"

COLOURS: dict[str, tuple[str, str]] = {
    "page": (PAGE, "#131519"),
    "card": (CARD, "#1b1e24"),
    "ink": (INK, "#e9e9e4"),
    "soft": (SOFT, "#a3a49f"),
    "line": (LINE, "#30343c"),
    "chosen": (CHOSEN, "#58b2ee"),
    "rejected": (REJECTED, "#f5874a"),
    "margin": (MARGIN, "#a8a8a1"),
    "both-up": (BOTH_UP, "#a5d8f6"),
    "reversed": (REVERSED, "#f3c05a"),
    "third": (THIRD, "#45c7a2"),
    "fourth": (FOURTH, "#e3a3c8"),
    "quiet": (QUIET, "#565a62"),
}
"""Role to its light and its dark value; the CSS variable is ``--ROLE``."""

CASE_COLOURS: dict[int, str] = {1: CHOSEN, 3: BOTH_UP, 2: REJECTED, 4: REVERSED, 0: QUIET, -1: MARGIN}
"""The colour of a case, by its code: cool where the chosen response rises, warm where it falls."""
LINES = (CHOSEN, REJECTED, THIRD, FOURTH, REVERSED, BOTH_UP, MARGIN)
"""For series without a meaning of their own, in this order."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def css() -> str:
    """The variables: light, dark where the reader's system asks for it, and either where the reader chose."""
    light, dark = _variables("light"), _variables("dark")
    return (
        f":root {{ color-scheme: light; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ "
        f":root:not([data-theme=light]) {{ color-scheme: dark; {dark} }} }}\n"
        f"@media screen {{ :root[data-theme=dark] {{ color-scheme: dark; {dark} }} }}\n"
    )


def variables() -> dict[str, str]:
    """Every colour a chart may name, by what stands in its place in the browser."""
    return {light: f"var(--{role})" for role, (light, _) in COLOURS.items()}


def case_tags() -> dict[int, tuple[str, str]]:
    """What a cell says of a case, and the role of its colour."""
    roles = {light: role for role, (light, _) in COLOURS.items()}
    return {code: (tag, roles[CASE_COLOURS[code]]) for code, tag in CASE_TAGS.items()}


def config() -> dict[str, Any]:
    """The Vega-Lite configuration of every chart: quiet axes, no frame, the page's type."""
    axis = {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "gridColor": LINE,
        "domainColor": LINE,
        "tickColor": LINE,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 5,
    }
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False},
        "legend": {
            "labelColor": INK,
            "titleColor": SOFT,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "orient": "top",
            "symbolType": "square",
            "labelLimit": 280,
            "padding": 0,
            "offset": 10,
        },
        "header": {"labelColor": INK, "titleColor": SOFT, "labelFontSize": 12, "labelFontWeight": "bold"},
        "title": {"color": INK, "subtitleColor": SOFT, "anchor": "start", "fontSize": 13, "offset": 10},
        "text": {"color": INK, "fontSize": 12},
        "rule": {"color": SOFT},
        "line": {"strokeWidth": 2.2},
        "bar": {"color": CHOSEN},
        "point": {"color": CHOSEN, "filled": True},
        "range": {"category": list(LINES)},
    }


def themed(spec: dict[str, Any], mode: Mode = "light") -> dict[str, Any]:
    """A chart's specification for a file of its own: with the configuration, colours in place, on a ground."""
    values = {light: both[mode == "dark"] for light, *both in ((one[0], *one) for one in COLOURS.values())}
    whole = {**spec, "config": {**config(), **spec.get("config", {}), "background": CARD}}
    swapped: dict[str, Any] = _swap(whole, values)
    return swapped


def _variables(mode: Mode) -> str:
    return " ".join(f"--{role}: {both[mode == 'dark']};" for role, both in COLOURS.items())


def _swap(value: Any, colours: dict[str, str]) -> Any:
    """Colours of a specification, wherever they stand."""
    if isinstance(value, dict):
        return {key: _swap(inner, colours) for key, inner in value.items()}
    if isinstance(value, list):
        return [_swap(inner, colours) for inner in value]
    return colours.get(value.lower(), value) if isinstance(value, str) and value.startswith("#") else value

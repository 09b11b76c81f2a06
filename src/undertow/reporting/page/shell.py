"""The shell of every page: one file that needs nothing else, in which nothing of the data can run.

A page holds its styles, scripts, charts and numbers. The content security policy names the scripts by their hashes, so
no other script runs, whatever a text holds, and nothing is fetched. Charts and data stand in the page as JSON, with
every character escaped that could end the element they stand in.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from undertow.files import without_nonfinite
from undertow.reporting.page import theme
from undertow.version import __version__
from undertow.wording import numbers as words
from undertow.wording import visible as text

if TYPE_CHECKING:  # it takes a second to import, and a page may have no chart
    import altair as alt

__all__ = ["Figure", "embedded", "render"]

_HERE = files("undertow.reporting.page")
_SCRIPT_END = re.compile(r"<(?=/script|script|!--)", re.IGNORECASE)
_ESCAPED = {ord(one): f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"}
_LONE = re.compile("[\ud800-\udfff]")
_SLUG = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with what it says.

    Attributes:
        name: a slug: the figure's id on the page and its file's name on export.
        title: a short heading.
        chart: data binned or sampled already; colours by their roles, from :mod:`~undertow.reporting.page.theme`.
        says: one or two sentences with the numbers that the chart shows: its caption and its text alternative.
        narrow: the same for a narrow screen, where the chart itself cannot adapt (several panels in a row, say).
        numbers: a small table of what is drawn, header first, for those who would rather read it.
    """

    name: str
    title: str
    chart: alt.TopLevelMixin
    says: str
    narrow: alt.TopLevelMixin | None = None
    numbers: Sequence[Sequence[object]] = ()

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a figure: expected small letters, digits and hyphens")

    def spec(self, *, narrow: bool = False) -> dict[str, Any]:
        """The Vega-Lite specification, with colours by role and without a configuration."""
        chart = self.narrow if narrow and self.narrow is not None else self.chart
        # Altair checks what it is given as it is given; checking the whole again takes longer than all else here.
        spec: dict[str, Any] = chart.to_dict(validate=False)
        # Altair's own defaults; ours are added by the page, or by theme.themed for a file.
        for key in ("config", "usermeta"):
            spec.pop(key, None)
        return spec


def render(
    template: str,
    *,
    title: str,
    figures: Sequence[Figure] = (),
    data: Mapping[str, object] | None = None,
    live: bool = False,
    scripts: Sequence[str] = (),
    **context: object,
) -> str:
    """A whole page.

    Args:
        template: a file of ``templates/`` that extends ``base.html.j2``. The script and the style sheet of the same
            stem in ``static/`` come along where they are there.
        title: of the page.
        figures: its charts; in the template ``figure("name")`` places one.
        data: what the scripts read, as ``undertow.data``.
        live: the page may ask the server that it came from.
        scripts: further files of ``static/``, which come before the page's own.
        **context: what the template reads.
    """
    names = [figure.name for figure in figures]
    if len(set(names)) < len(names):
        raise ValueError(f"two figures have one name: {', '.join(names)}")
    stem = template.split(".")[0]
    own = [f"{stem}.js"] if _static(f"{stem}.js").is_file() else []
    parts = [*([_bundle()] if figures else []), *map(_script, ("page.js", *scripts, *own))]
    styles = [theme.css(), _read("page.css"), *([_read(f"{stem}.css")] if _static(f"{stem}.css").is_file() else [])]
    specs = {
        figure.name: {
            "wide": figure.spec(),
            "narrow": figure.spec(narrow=True) if figure.narrow is not None else None,
            "title": figure.title,
        }
        for figure in figures
    }
    environment = _environment()
    return environment.get_template(template).render(
        title=text.shown(title),
        version=__version__,
        policy=_policy(parts, live=live),
        scripts=[Markup(part) for part in parts],
        styles=[Markup(style) for style in styles],
        figures={figure.name: figure for figure in figures},
        figure=_placer(environment, figures),
        charts=embedded(
            {"figures": specs, "config": theme.config(), "colours": theme.variables(), "cases": theme.case_tags()}
        ),
        embedded_data=embedded(data or {}),
        **context,
    )


def embedded(value: object) -> Markup:
    """A value as JSON that can stand inside a script element; NaN and infinities as null.

    >>> print(embedded({"a": "</script>"}))
    {"a":"\\u003c/script\\u003e"}
    """
    plain = without_nonfinite(value)
    found = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPED)
    return Markup(_LONE.sub(lambda half: f"\\u{ord(half[0]):04x}", found))


def _placer(environment: jinja2.Environment, figures: Sequence[Figure]) -> Callable[..., Markup]:
    """What a template calls to place a chart."""
    known = {figure.name: figure for figure in figures}
    template = environment.get_template("figure.html.j2")

    def place(name: str, heading: bool = True) -> Markup:
        return Markup(template.render(figure=known[name], heading=heading))

    return place


def _policy(scripts: Sequence[str], *, live: bool) -> str:
    allowed = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts
    )
    parts = [
        "default-src 'none'",
        f"script-src {allowed}",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if live else []),
    ]
    return "; ".join(parts)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("undertow.reporting.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": text.shown} | {
        name: getattr(words, name) for name in words.__all__ if name[0] > "Z"
    }
    return environment


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets ``window.vegaEmbed``."""
    import vl_convert

    # In a function of its own: the bundle names hundreds of things.
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub asks for a snippet, it does not
    return _inline(f"(() => {{{bundle}\n}})();")


@functools.cache
def _script(name: str) -> str:
    return _inline(_read(name))


def _inline(script: str) -> str:
    """A script that can stand inside a page: nothing in it looks like the end of its element."""
    return "\n" + _SCRIPT_END.sub(r"\\x3c", script).replace("\r\n", "\n").replace("\r", "\n") + "\n"


def _read(name: str) -> str:
    return _static(name).read_text(encoding="utf-8")


def _static(name: str) -> Traversable:
    return _HERE / "static" / name

"""Charts as files for papers, PNG or SVG in the light colours on a white ground, and pages as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from undertow.errors import OptionError
from undertow.files import write_atomically
from undertow.reporting.kinds import kind_of, report_figures, report_html
from undertow.reporting.page.shell import Figure
from undertow.reporting.page.theme import themed
from undertow.reporting.sweep.page import multi, names, side_by_side
from undertow.reporting.training.reading import Run, read_run
from undertow.runs.names import TRAIN
from undertow.runs.targets import Target, check_targets, run_input

Format = Literal["png", "svg"]
FORMATS: tuple[Format, ...] = ("png", "svg")

_PAGES = (".html", ".htm")

WIDTH = 640
"""Pixels of a chart that on the page takes the width there is."""
DENSITY = 300
"""Dots an inch of a PNG, where 72 pixels of the chart are an inch."""


def export(
    folders: Sequence[Path], *, png: Path | None = None, svg: Path | None = None, html: Path | None = None
) -> list[Path]:
    """Write what was asked for of one run, or of several training runs side by side; return the files.

    Several runs that are not all training runs have their charts in a folder each, and no common page.

    Raises:
        DataError: a folder holds no run of Undertow.
        OptionError: ``html`` for runs that have no common page.
        OutputError: a file cannot be written.
    """
    _check(folders, png=png, svg=svg, html=html)
    together = len(folders) > 1 and all(kind_of(folder) == TRAIN for folder in folders)
    if html is not None and len(folders) > 1 and not together:
        raise OptionError("--html: only training runs have a common page; name one folder, or training runs only.")
    written = []
    if html is not None:
        written.append(_write(html, (multi(folders) if together else report_html(folders[0])).encode()))
    for form, target in zip(FORMATS, (png, svg), strict=True):
        if target is None:
            continue
        if together:
            written += export_figures(side_by_side(_named_runs(folders)), target, form)
        elif len(folders) == 1:
            written += export_figures(report_figures(folders[0]), target, form)
        else:
            for name, folder in zip(_names(folders), folders, strict=True):
                written += export_figures(report_figures(folder), target / name.replace("/", "-"), form)
    return written


def _check(folders: Sequence[Path], *, png: Path | None, svg: Path | None, html: Path | None) -> None:
    """Refuse what cannot or must not be written, before anything is."""
    targets = [Target(f"--{form}", path, "folder") for form, path in zip(FORMATS, (png, svg), strict=True) if path]
    for target in targets:
        if target.path.exists() and not target.path.is_dir():
            raise OptionError(f"{target} is a file; name a folder for the charts.")
    if html is not None:
        if html.suffix.lower() not in _PAGES:
            raise OptionError(f"--html {html}: expected a name that ends in {' or '.join(_PAGES)}.")
        targets.append(Target("--html", html))
    check_targets(targets, map(run_input, folders))


def export_figures(figures: Iterable[Figure], folder: Path, form: Format) -> list[Path]:
    """Write each chart as ``folder/NAME.png`` or ``.svg``, and return the files.

    Raises:
        OutputError: the folder cannot be written.
    """
    return [_write(folder / f"{figure.name}.{form}", image(figure, form)) for figure in figures]


def image(figure: Figure, form: Format) -> bytes:
    """A chart as the bytes of a file. Nothing is fetched for it."""
    import vl_convert  # megabytes of JavaScript, for those who ask for files

    spec = themed(_sized(figure.spec()))
    if form == "svg":
        return str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])).encode()
    return bytes(vl_convert.vegalite_to_png(spec, ppi=DENSITY, allowed_base_urls=[]))


def _names(folders: Sequence[Path]) -> list[str]:
    return names([folder.resolve() for folder in folders])


def _named_runs(folders: Sequence[Path]) -> list[Run]:
    return [read_run(folder, name) for name, folder in zip(_names(folders), folders, strict=True)]


def _sized(value: Any) -> Any:
    """The specification with a width in pixels wherever it asks for its container's."""
    if isinstance(value, dict):
        return {
            key: WIDTH if key == "width" and inner == "container" else inner if key == "values" else _sized(inner)
            for key, inner in value.items()
        }
    return [_sized(inner) for inner in value] if isinstance(value, list) else value


def _write(path: Path, content: bytes) -> Path:
    with write_atomically(path) as file:
        file.write(content)
    return path

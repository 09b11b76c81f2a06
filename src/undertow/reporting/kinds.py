"""The registry of pages: what kind of run stands in a folder, and which room makes its page and charts.

A new page is an entry of ``_ROOMS`` and a room ``reporting/NAME/`` whose ``page.py`` has two functions:
``report(folder)`` gives the page, ``figures(folder)`` its charts. A room is imported when one of its pages is wanted.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from undertow.errors import DataError
from undertow.reporting.page.shell import Figure
from undertow.runs.folder import NAME_A_RUN, SETTINGS, check_there, is_callback_folder, read_command, read_summary
from undertow.runs.names import AUDIT, COMPARE, FORECAST, SUMMARIES, SWEEP, TRAIN

__all__ = [
    "WITH_PAIRS",
    "audit_folders",
    "audit_html",
    "kind_of",
    "kind_with_page",
    "remedies_html",
    "report_figures",
    "report_html",
]

_ROOMS = {AUDIT: "audit", FORECAST: "forecast", TRAIN: "training", SWEEP: "sweep", COMPARE: "comparison"}
WITH_PAIRS = (AUDIT, FORECAST, COMPARE)
"""Kinds of runs with a row a pair: ``undertow view`` has a table of all of them, and the page takes its address."""


def kind_of(folder: Path) -> str:
    """``audit``, ``forecast``, ``train``, ``sweep`` or ``compare``.

    An audit's folder with a forecast that went on from it is a forecast; one whose sub-folders are shards of an audit
    is an audit; one that the callback for TRL's trainers wrote is a
    training run.

    Raises:
        DataError: it is none of these.
    """
    check_there(folder)
    command = read_command(folder)
    if command == AUDIT and all((folder / SUMMARIES[kind]).exists() for kind in (AUDIT, FORECAST)):
        return FORECAST
    if command in (AUDIT, TRAIN, COMPARE):
        return command
    if is_callback_folder(folder):
        return TRAIN
    if (folder / SUMMARIES[SWEEP]).exists() or (folder / "arms").is_dir():
        return SWEEP
    if any(read_command(below) == AUDIT for below in _runs_below(folder)):
        return AUDIT
    raise DataError(f"{folder} holds no run of Undertow: {NAME_A_RUN}")


def audit_folders(folder: Path) -> Sequence[Path]:
    """The folder of an audit itself, or those of its shards."""
    return [folder] if (folder / SETTINGS).exists() else _runs_below(folder)


def kind_with_page(folder: Path) -> str:
    """The kind of a run that has a page already; a training run has one while it goes on.

    Raises:
        DataError: the folder holds no run of Undertow, or one that must be finished first.
    """
    kind = kind_of(folder)
    if kind in WITH_PAIRS:
        for run in audit_folders(folder) if kind == AUDIT else [folder]:
            read_summary(run, kind, SUMMARIES[kind])
    return kind


def _runs_below(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{SETTINGS}"))


def report_html(
    folder: Path, *, pairs_url: str | None = None, audit_url: str | None = None, arms_url: str | None = None
) -> str:
    """The page of a run.

    Args:
        folder: of the run.
        pairs_url: where its table of all pairs is served, if it is.
        audit_url: where the page of the audit is, of a forecast that went on from one.
        arms_url: of a forecast, where the page of the arms is that were simulated on it.

    Raises:
        DataError: the folder holds no run of Undertow, or an unfinished one.
    """
    kind = kind_of(folder)
    served = {"pairs_url": pairs_url} if kind in WITH_PAIRS else {}
    if kind == FORECAST:
        served |= {"audit_url": audit_url, "arms_url": arms_url}
    page: str = _module(kind).report(folder, **served)
    return page


def audit_html(folder: Path, *, forecast_url: str, pairs_url: str | None = None) -> str:
    """The page of the audit that a forecast went on from.

    Args:
        folder: of both.
        forecast_url: where the forecast's page is.
        pairs_url: where the table of all pairs is served, if it is.

    Raises:
        DataError: the folder holds no finished audit.
    """
    page: str = _module(AUDIT).report(folder, pairs_url=pairs_url, forecast_url=forecast_url)
    return page


def remedies_html(folder: Path) -> str:
    """The page of the arms that were simulated on a forecast.

    Raises:
        DataError: none were.
    """
    page: str = importlib.import_module("undertow.reporting.remedies.page").report(folder)
    return page


def report_figures(folder: Path) -> tuple[Figure, ...]:
    """The charts of that page.

    Raises:
        DataError: the folder holds no run of Undertow, or an unfinished one.
    """
    found: tuple[Figure, ...] = _module(kind_of(folder)).figures(folder)
    return found


def _module(kind: str) -> ModuleType:
    return importlib.import_module(f"undertow.reporting.{_ROOMS[kind]}.page")

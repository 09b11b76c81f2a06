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
from undertow.runs.names import AUDIT, COMPARE, SUMMARIES, SWEEP, TRAIN

__all__ = ["WITH_PAIRS", "audit_folders", "kind_of", "kind_with_page", "report_figures", "report_html"]

_ROOMS = {AUDIT: "audit", TRAIN: "training", SWEEP: "sweep", COMPARE: "comparison"}
WITH_PAIRS = (AUDIT, COMPARE)
"""Kinds of runs with a row a pair: ``undertow view`` has a table of all of them, and the page takes its address."""


def kind_of(folder: Path) -> str:
    """``audit``, ``train``, ``sweep`` or ``compare``.

    A folder whose sub-folders are shards of an audit is an audit; one that the callback for TRL's trainers wrote is a
    training run.

    Raises:
        DataError: it is none of these.
    """
    check_there(folder)
    command = read_command(folder)
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


def report_html(folder: Path, *, pairs_url: str | None = None) -> str:
    """The page of a run; ``pairs_url`` is where its table of all pairs is served, if it is.

    Raises:
        DataError: the folder holds no run of Undertow, or an unfinished one.
    """
    kind = kind_of(folder)
    served = {"pairs_url": pairs_url} if kind in WITH_PAIRS else {}
    page: str = _module(kind).report(folder, **served)
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

"""What kind of run stands in a folder, and its page and charts."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from undertow.comparing.folder import COMMAND as COMPARE
from undertow.comparing.folder import CompareFolder
from undertow.errors import DataError
from undertow.reporting.page.shell import Figure
from undertow.runs.folder import SETTINGS, read_command
from undertow.scoring.shards import COMMAND as AUDIT
from undertow.scoring.shards import read_summary
from undertow.training.folder import COMMAND as TRAIN
from undertow.training.sweep import SUMMARY as SWEEP_SUMMARY

__all__ = [
    "AUDIT",
    "COMPARE",
    "SWEEP",
    "TRAIN",
    "audit_folders",
    "check_shown",
    "kind_of",
    "report_figures",
    "report_html",
]

SWEEP = "sweep"
_MODULES = {AUDIT: "audit", TRAIN: "training", SWEEP: "sweep", COMPARE: "comparison"}


def kind_of(folder: Path) -> str:
    """``audit``, ``train``, ``sweep`` or ``compare``. A folder whose sub-folders are shards of an audit is an audit.

    Raises:
        DataError: it is none of these.
    """
    command = read_command(folder) if folder.is_dir() else None
    if command in (AUDIT, TRAIN, COMPARE):
        return command
    if (folder / SWEEP_SUMMARY).exists() or (folder / "arms").is_dir():
        return SWEEP
    if folder.is_dir() and any(read_command(below) == AUDIT for below in _runs_below(folder)):
        return AUDIT
    found = "holds no run of Undertow" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    raise DataError(
        f"{folder} {found}: name a folder that `undertow audit`, `undertow train` or `undertow compare` wrote."
    )


def audit_folders(folder: Path) -> Sequence[Path]:
    """The folder of an audit itself, or those of its shards."""
    return [folder] if (folder / SETTINGS).exists() else _runs_below(folder)


def check_shown(folder: Path) -> str:
    """The kind of a run that has a page already; a training run has one while it goes on.

    Raises:
        DataError: no run of ours stands there, or it has to be finished first.
    """
    kind = kind_of(folder)
    if kind == AUDIT:
        for run in audit_folders(folder):
            read_summary(run)
    if kind == COMPARE:
        CompareFolder(folder).summary()
    return kind


def _runs_below(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{SETTINGS}"))


def report_html(folder: Path, *, pairs_url: str | None = None) -> str:
    """The page of a run; ``pairs_url`` is where its table of all pairs is served, if it is.

    Raises:
        DataError: no run of ours stands there, or it is not finished.
    """
    kind = kind_of(folder)
    served = {"pairs_url": pairs_url} if kind in (AUDIT, COMPARE) else {}
    page: str = _module(kind).report(folder, **served)
    return page


def report_figures(folder: Path) -> tuple[Figure, ...]:
    """The charts of that page.

    Raises:
        DataError: no run of ours stands there, or it is not finished.
    """
    found: tuple[Figure, ...] = _module(kind_of(folder)).figures(folder)
    return found


def _module(kind: str) -> ModuleType:
    """Where a kind's page is made; imported when it is wanted, since one run needs one of them."""
    return importlib.import_module(f"undertow.reporting.{_MODULES[kind]}.page")

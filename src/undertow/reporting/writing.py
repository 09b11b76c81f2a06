"""Writing a run's page beside its numbers."""

from __future__ import annotations

from pathlib import Path

from undertow.files import write_atomically
from undertow.reporting.kinds import report_html
from undertow.runs.folder import REPORT

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Make the page of what stands in a run's folder, and write it there as ``report.html``.

    The page is a function of the folder: made again, it is the same, also where an earlier call was killed before it.

    Raises:
        DataError: the folder holds no run of Undertow, or an unfinished one.
        OutputError: the page cannot be written.
    """
    folder = Path(folder)
    page = report_html(folder)
    with write_atomically(folder / REPORT) as file:
        file.write(page.encode("utf-8"))
    return folder / REPORT

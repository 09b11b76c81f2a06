"""Writing a run's page beside its numbers."""

from __future__ import annotations

from pathlib import Path

from undertow.files import write_atomically
from undertow.reporting.kinds import audit_html, kind_of, report_html
from undertow.runs.folder import AUDIT_REPORT, REPORT
from undertow.runs.names import FORECAST

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Make the page of what stands in a run's folder, and write it there as ``report.html``.

    The page is a function of the folder: made again, it is the same, also where an earlier call was killed before it.
    In the folder of a forecast the audit's page stands beside as ``audit.html``.

    Raises:
        DataError: the folder holds no run of Undertow, or an unfinished one.
        OutputError: the page cannot be written.
    """
    folder = Path(folder)
    pages = {REPORT: report_html(folder, audit_url=AUDIT_REPORT)}
    if kind_of(folder) == FORECAST:
        pages[AUDIT_REPORT] = audit_html(folder, forecast_url=REPORT)
    for name, page in pages.items():
        with write_atomically(folder / name) as file:
            file.write(page.encode("utf-8"))
    return folder / REPORT

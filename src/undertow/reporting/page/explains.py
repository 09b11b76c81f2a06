"""Where a page's rows lead to: the page of one pair."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from undertow.errors import DataError
from undertow.explaining.settings import run_of

__all__ = ["Explains", "explains"]


@dataclass(frozen=True, slots=True)
class Explains:
    """How a pair of a run is explained.

    Attributes:
        command: to give, but for ``--row N``.
        url: where a pair's page is served, but for ``?row=N``; None where nothing is served.
    """

    command: str
    url: str | None

    def record(self) -> dict[str, str | None]:
        """For the scripts of a page."""
        return {"command": self.command, "url": self.url}


def explains(folder: Path, *, served: bool) -> Explains | None:
    """How the pairs of a run are explained; None where they cannot be: of shards, or of data that are gone.

    Args:
        folder: of the run.
        served: whether ``undertow view`` shows the page.
    """
    try:
        run = run_of(folder)
    except DataError:
        return None
    if run is None:
        return None
    return Explains(shlex.join(["undertow", "explain", str(folder)]), "explain" if served else None)

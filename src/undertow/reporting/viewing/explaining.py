"""The pages of single pairs, made on demand: one at a time, in a thread, by the model of the run."""

from __future__ import annotations

import shlex
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undertow.data.sources.opening import SHIPPED
from undertow.errors import UndertowError
from undertow.explaining.settings import Subject, run_of
from undertow.reporting.page.shell import render

__all__ = ["Explained"]

HOME = ("Report", "./")


class Explained:
    """The pairs of one run, each explained once. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._pages: dict[int, str] = {}
        self._failed: dict[int, str] = {}
        self._working: _Progress | None = None

    def page(self, row: int) -> str:
        """The page of a row, or one that waits for it."""
        with self._lock:
            if row in self._pages:
                return self._pages[row]
        return render(
            "explaining.html.j2",
            title=f"row {row}",
            data={"row": row},
            live=True,
            row=row,
            command=self._command(row),
            other=HOME,
        )

    def state(self, row: int) -> dict[str, Any]:
        """How far a row is; it is begun where nothing else is under way."""
        with self._lock:
            if row in self._pages:
                return {"state": "done"}
            if row in self._failed:
                return {"state": "failed", "says": self._failed.pop(row)}
            if self._working is None:
                missing = self._missing()
                if missing:
                    return {"state": "failed", "says": missing}
                self._working = _Progress(row)
                threading.Thread(target=self._make, args=(row, self._working), daemon=True).start()
            return {"state": "working", **self._working.record()}

    def _make(self, row: int, watch: _Progress) -> None:
        # Torch and transformers: `undertow view` starts without them.
        from undertow.explaining.explain import explain_pairs
        from undertow.reporting.explanation.page import explanation_html

        try:
            (found,) = explain_pairs(self._folder, None, Subject(rows=(row,)), watch=watch)
            page = explanation_html(found, home=HOME, link=lambda other: f"explain?row={other}")
            with self._lock:
                self._pages[row] = page
        except UndertowError as error:
            self._failed[row] = str(error)
        except Exception as error:  # a fault of ours must reach the page that waits
            traceback.print_exc()
            self._failed[row] = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._working = None

    def _missing(self) -> str | None:
        """Why nothing is begun: a model or data that would have to be fetched."""
        run = run_of(self._folder)
        if run is None:
            return "This folder's pairs cannot be explained."
        _, data, model, _ = run
        for what, name, shipped in (("model", model, ("demo",)), ("data", data, tuple(SHIPPED))):
            if name not in shipped and not Path(name).exists():
                return f"The {what} {name} would have to be fetched: give the command below in a terminal."
        return None

    def _command(self, row: int) -> str:
        return shlex.join(["undertow", "explain", str(self._folder), "--row", str(row)])


class _Progress:
    """What a page that waits is told."""

    def __init__(self, row: int) -> None:
        self.row, self._phase, self._total, self._done = row, "starting", 0, 0

    def phase(self, name: str, *, pairs: int | None = None, tokens: int | None = None, done: int = 0) -> None:
        """The next part of the work."""
        self._phase, self._total, self._done = name, tokens or 0, 0

    def advance(self, *, pairs: int = 0, tokens: int = 0) -> None:
        """Some of it."""
        self._done += tokens

    def note(self, message: str) -> None:
        """Nothing: the page says what matters."""

    def record(self) -> Mapping[str, Any]:
        """Row, phase and share done."""
        share = min(1.0, self._done / self._total) if self._total else None
        return {"row": self.row, "phase": self._phase, "share": share}

"""What a long job tells whoever watches it; the command line draws it, a library call stays silent."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Told about phases, progress and things worth knowing."""

    def phase(self, name: str, *, pairs: int | None = None, tokens: int | None = None, done: int = 0) -> None:
        """A new phase of the job begins; totals where they are known, ``done`` pairs of an earlier run."""

    def advance(self, *, pairs: int = 0, tokens: int = 0) -> None:
        """Some more is done."""

    def note(self, message: str) -> None:
        """Something a user should know."""


class Silent:
    """Watches nothing."""

    def phase(self, name: str, *, pairs: int | None = None, tokens: int | None = None, done: int = 0) -> None:
        """Nothing."""

    def advance(self, *, pairs: int = 0, tokens: int = 0) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""

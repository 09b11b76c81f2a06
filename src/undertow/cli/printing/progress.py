"""Progress on standard error: pairs, tokens a second and time left; silent when that is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from undertow.wording.visible import visible


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        pairs, total, seconds = task.fields["pairs"], task.fields["total_pairs"], task.fields["seconds"]
        of = f"/{total:,}" if total else ""
        text = f"{pairs:,}{of} pairs" if pairs or total else ""
        if task.fields["tokens"] and seconds > 0:
            text += f", {task.fields['tokens'] / seconds:,.0f} tokens/s"
        return Text(text)


class TerminalWatcher:
    """Draws phases as bars; a context manager, so that the terminal is whole again after an error or Ctrl-C."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),  # all of a line fits 80 columns
            _Done(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._started = time.monotonic()

    def __enter__(self) -> TerminalWatcher:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def phase(self, name: str, *, pairs: int | None = None, tokens: int | None = None, done: int = 0) -> None:
        """A bar of its own; the ones before are complete. It moves by tokens, which are what takes time."""
        for task in self._bars.tasks:
            self._bars.update(task.id, total=task.total or 1, completed=task.total or 1)
        self._started = time.monotonic()
        # Tokens of an earlier run's pairs are not known one by one: their share of all tokens is near enough for a bar.
        before = (tokens or 0) * done // pairs if pairs else 0
        self._bars.add_task(name, total=tokens, completed=before, pairs=done, total_pairs=pairs, tokens=0, seconds=0.0)

    def advance(self, *, pairs: int = 0, tokens: int = 0) -> None:
        """Move the newest bar."""
        task = self._bars.tasks[-1]
        self._bars.update(
            task.id,
            advance=tokens,
            pairs=task.fields["pairs"] + pairs,
            tokens=task.fields["tokens"] + tokens,
            seconds=time.monotonic() - self._started,
        )

    def note(self, message: str) -> None:
        """A line of its own, terminal or not, unless quiet."""
        if not self._quiet:
            self._console.print(f"note: {escape(visible(message))}")

"""Everything Undertow raises on purpose, and the exit code the command line gives it.

    UndertowError            1   anything else
    └── InputError           2   the input or the command line is wrong
        ├── DataError            a data set cannot be read
        │   └── BadRowsError     rows that cannot be used (``--on-bad-row stop``)
        ├── ModelError           a model or its tokenizer cannot be used
        ├── OptionError          options that make no sense, alone or together
        └── OutputError          the output cannot be written, or belongs to another run

A message says what came, what was expected, and the way out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from undertow.data.pairs import BadRow

SHOWN_BAD_ROWS = 10


class UndertowError(Exception):
    """Base of all errors that Undertow raises on purpose."""

    exit_code = 1


class InputError(UndertowError):
    """The input or the command line is wrong."""

    exit_code = 2


class DataError(InputError):
    """A data set cannot be read at all."""


class BadRowsError(DataError):
    """Rows that cannot be used, collected before stopping: the first ten with their reasons and the count of all."""

    def __init__(self, first: Sequence[BadRow], count: int) -> None:
        self.first = tuple(first[:SHOWN_BAD_ROWS])
        self.count = count
        lines = [f"{count} row{'s' if count != 1 else ''} cannot be used:"]
        lines += [f"  {bad.place}: {bad.reason}" for bad in self.first]
        if count > len(self.first):
            lines.append(f"  … and {count - len(self.first)} more")
        lines.append("Correct them, or go on without them: --on-bad-row skip (they are then listed in skipped.jsonl).")
        super().__init__("\n".join(lines))


class ModelError(InputError):
    """A model or its tokenizer cannot be used."""


class OptionError(InputError):
    """Options that make no sense, alone or together; the message begins with the one that it is about."""

    @property
    def option(self) -> str | None:
        """The name of the option that the message begins with, as a Python name (``max_length``)."""
        found = re.match(r"--([a-z][a-z-]*)", str(self))
        return found[1].replace("-", "_") if found else None


class OutputError(InputError):
    """The output cannot be written, or belongs to another run."""

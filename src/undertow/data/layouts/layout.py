"""What a layout is: its name, its columns, when it fits a row, and how it reads one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from undertow.data.layouts.values import MisfitError, Row
from undertow.data.layouts.vocabulary import HISTORY, INPUT, SYSTEM, TOOLS
from undertow.data.pairs import Message, Prompt
from undertow.data.rows import shown

Columns = Mapping[str, str]
"""For each part that a row has, the column it stands in."""


@dataclass(frozen=True, slots=True)
class Preference:
    """What a row of a pair says. The responses are turns of the assistant."""

    prompt: Prompt
    chosen: Message
    rejected: Message
    tools: str = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt with one response, and whether it is a good one."""

    prompt: Prompt
    completion: Message
    label: bool
    tools: str = ""


Reading = Preference | Labelled


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value must be, and how messages call it."""

    expected: str
    holds: Callable[[object], bool]


TEXT = Kind("a string", lambda value: isinstance(value, str))
LIST = Kind("a list", lambda value: isinstance(value, list | tuple))
TURN = Kind("an object with who speaks and what is said", lambda value: isinstance(value, Mapping))
TEXT_OR_LIST = Kind("a string or a list of messages", lambda value: isinstance(value, str | list | tuple))
ANSWER = Kind(
    "a string, a message or a list of messages", lambda value: isinstance(value, str | list | tuple | Mapping)
)
ANY = Kind("a value", lambda value: value is not None)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a pair, and the columns it may stand in, the best known first.

    ``needed``: without it a row is not of the layout. ``beside``: only where the prompt stands in one of these columns.
    """

    name: str
    columns: tuple[str, ...]
    kind: Kind
    needed: bool = True
    beside: tuple[str, ...] = ()

    def column(self, row: Row, taken: Mapping[str, str]) -> str | None:
        """The column of a row in which it stands: of those of the right kind the first that is not blank."""
        if self.beside and taken.get("prompt") not in self.beside:
            return None
        there = [name for name in _present(self.columns, tuple(row)) if name not in taken.values()]
        if len(there) < 2:  # the usual case
            return there[0] if there else None
        for rank in (lambda value: self.kind.holds(value) and not blank(value), self.kind.holds, blank):
            for name in there:
                if rank(row[name]):
                    return name
        return there[0]


@lru_cache(maxsize=4096)
def _present(columns: tuple[str, ...], there: tuple[str, ...]) -> tuple[str, ...]:
    """Which columns of a part a row has: the rows of a file have the same columns again and again."""
    return tuple(name for name in columns if name in there)


OPTIONAL = (
    Part("system", SYSTEM, ANY, needed=False),
    Part("input", INPUT, ANY, needed=False, beside=("instruction",)),
    Part("history", HISTORY, ANY, needed=False),
    Part("tools", TOOLS, ANY, needed=False),
)
"""What a row of any layout may have besides; a file in which some rows have it is still of one layout."""


def find_parts(parts: tuple[Part, ...], row: Row) -> dict[str, str]:
    """For each part that the row has, its column; no column serves twice."""
    found: dict[str, str] = {}
    for part in parts:
        if column := part.column(row, found):
            found[part.name] = column
    return found


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay out a row. A new layout is one such object in the list of ``registry.py``.

    Args:
        name: as ``--format`` takes it.
        parts: its columns, with the kind of value that each has.
        read: a row, and where each part stands in it, to a pair or to one labelled response; raises :class:`RowError`.
        when: what else must be true of a row, besides that it has all needed parts in their kinds.
        by_itself: whether it is recognised by itself, or only read where the user names it.
        read_named: how it is read where the user named it, if that differs.
        find: where the parts stand, if that is more than finding the columns by their names.
    """

    name: str
    parts: tuple[Part, ...]
    read: Callable[[Row, Columns], Reading]
    when: Callable[[Row], bool] = lambda row: True
    by_itself: bool = True
    read_named: Callable[[Row, Columns], Reading] | None = None
    find: Callable[[tuple[Part, ...], Row], dict[str, str]] = find_parts

    def columns(self, row: Row) -> dict[str, str]:
        """For each part that the row has, its column."""
        return self.find((*self.parts, *OPTIONAL), row)

    def fits(self, row: Row) -> bool:
        """Whether a row has the columns and types of this layout."""
        found = self.columns(row)
        return all(
            part.name in found and part.kind.holds(row[found[part.name]]) for part in self.parts if part.needed
        ) and self.when(row)

    def fits_columns(self, row: Row) -> bool:
        """Whether a row has the columns of this layout, whatever is in them."""
        found = self.columns(row)
        return all(part.name in found for part in self.parts if part.needed)

    def convert(self, row: Row, found: Columns, *, named: bool = False) -> Reading:
        """What a row says, where ``found`` is what :meth:`columns` tells of it.

        Raises:
            RowError: the row cannot be used.
        """
        for problem in self._misfits(row, found):
            raise MisfitError(problem)
        return (self.read_named or self.read)(row, found) if named else self.read(row, found)

    def _misfits(self, row: Row, found: Columns) -> Iterator[str]:
        for part in self.parts:
            column = found.get(part.name)
            if column is None and part.needed:
                names = " or ".join(f"`{name}`" for name in dict.fromkeys((*part.columns[:2], part.name)))
                columns = ", ".join(f"`{str(name)!s:.40}`" for name in list(row)[:8])
                yield f"{names} is missing (columns: {columns or 'none'})"
            elif column is not None and not part.kind.holds(row[column]) and (part.needed or row[column] is not None):
                yield f"`{column}` is {shown(row[column])}, expected {part.kind.expected}"


def blank(value: object) -> bool:
    """Whether a value says nothing: null, white space, an empty list or object."""
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], (), {})

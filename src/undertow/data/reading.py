"""Preference pairs from any source in any layout, with every row accounted for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from undertow.data.by_columns import check_columns, values_of
from undertow.data.layouts.accounting import refuse_media, unread, unused
from undertow.data.layouts.answers import refuse_identical
from undertow.data.layouts.cells import opened
from undertow.data.layouts.implicit import has_plain_texts
from undertow.data.layouts.layout import Labelled, Layout, Preference, Reading
from undertow.data.layouts.registry import FORMATS, by_columns, fitting, layout_of
from undertow.data.layouts.unpaired import Matcher
from undertow.data.layouts.values import MisfitError, RowError
from undertow.data.pairs import BadRow, Pair
from undertow.data.rows import RawRow
from undertow.data.sources.opening import Source, from_rows, open_source
from undertow.errors import SHOWN_BAD_ROWS, BadRowsError, DataError, OptionError

__all__ = ["FORMATS", "Pairs", "open_pairs", "parse_columns", "read_pairs"]

OnBadRow = Literal["stop", "skip"]
Data = str | Path | Iterable[Mapping[str, Any]] | Iterable[Pair]

# Rows looked at for one with the columns and types of a layout.
_LOOKED_AT = 100
_REQUIRED = ("prompt", "chosen", "rejected")
_FURTHER = ("system", "input", "history", "tools")
_PAIRS = {name: name for name in (*_REQUIRED, "tools")}
_NO_PROMPT = "no-prompt"
# Columns that a message names.
_NAMED = 12


class Pairs:
    """The pairs of a data set; can be iterated over any number of times, each time streamed from the source.

    Iterating yields the good pairs. Under ``on_bad_row="stop"`` it raises :class:`BadRowsError` at the end if a row was
    bad; under ``"skip"`` bad rows are left out. Either way ``bad_count`` and ``first_bad`` (the first ten) tell of the
    last complete pass, as do ``unused_columns`` and ``notes``. :meth:`entries` yields pairs and bad rows alike, and has
    no opinion.
    """

    def __init__(
        self,
        source: Source,
        *,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        on_bad_row: OnBadRow = "stop",
        limit: int | None = None,
        by: Sequence[str] = (),
    ) -> None:
        self.source = source
        self.on_bad_row = on_bad_row
        self.limit = limit
        self.by = tuple(dict.fromkeys(by))
        self.bad_count = 0
        self.first_bad: tuple[BadRow, ...] = ()
        self._columns = dict(columns) if columns else None
        self._layout = layout_of(format, self._columns) if format is not None else None
        self._named = format is not None
        self._prefix = ""
        self._unused: dict[str, None] = {}
        self._opened: dict[str, None] = {}

    @property
    def format(self) -> str:
        """The layout of the rows, given or recognised; an empty string where no row could be read at all.

        Raises:
            DataError: the source has no rows, or rows of no known layout.
        """
        layout = self._known()
        return layout.name if layout else ""

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """The columns of the rows read so far of which nothing was used, in the order in which they came.

        They are bookkeeping (ids, scores, sources), copies of what was read, or, where the layout was named by the
        user, whatever it leaves out.
        """
        return tuple(self._unused)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the rows were read, as far as they were read, in sentences."""
        found = []
        if self._opened:
            found.append(f"{_listed(self._opened)}: cells of JSON text, read as the lists that they hold.")
        if self._unused:
            found.append(f"Columns of the data that are not used: {_listed(self._unused)}.")
        return tuple(found)

    def describe(self) -> dict[str, object]:
        """How the rows were read, for the files that a run writes."""
        return {"format": self.format, "unused_columns": list(self.unused_columns), "notes": list(self.notes)}

    def __iter__(self) -> Iterator[Pair]:
        first: list[BadRow] = []
        count = 0
        for entry in self.entries():
            if isinstance(entry, Pair):
                yield entry
                continue
            count += 1
            if count <= SHOWN_BAD_ROWS:
                first.append(entry)
        self.bad_count, self.first_bad = count, tuple(first)
        if count and self.on_bad_row == "stop":
            raise BadRowsError(first, count)

    def entries(self) -> Iterator[Pair | BadRow]:
        """Every input row, as a pair or as a bad row, in input order; an ``unpaired`` one where it found its match.

        Raises:
            OptionError: a column of ``by`` that the data do not have.
        """
        if self.by:
            check_columns(self._rows(), self.by)
        matcher = Matcher()
        seen = False
        for raw in self._rows():
            seen = True
            if raw.value is None:
                yield _bad(raw, raw.error or "the row cannot be read")
                continue
            try:
                reading = self._read(raw.value)
            except RowError as error:
                yield self._refused(raw, error)
                continue
            by = values_of(raw.value, self.by)
            if isinstance(reading, Labelled):
                yield from matcher.add(raw, reading, by)
            else:
                yield _pair(raw, reading, by)
        yield from matcher.leftovers()
        if not seen:
            raise DataError(_no_rows(self.source))

    def check(self) -> None:
        """Read everything once.

        Raises:
            BadRowsError: a row is bad, under ``on_bad_row="stop"``.
            DataError: there are no rows, or they cannot be read.
        """
        for _ in self:
            pass

    def __repr__(self) -> str:
        format = self._layout.name if self._layout else None
        return f"Pairs({self.source.name!r}, format={format!r}, on_bad_row={self.on_bad_row!r})"

    def _rows(self) -> Iterator[RawRow]:
        return islice(self.source.rows(), self.limit)

    def _known(self) -> Layout | None:
        if self._layout is None:
            self._layout, self._prefix = self._recognise()
        return self._layout

    def _read(self, value: dict[str, Any]) -> Reading:
        """What a row says, where nothing of it that bears text is left out."""
        layout = self._known()
        if layout is None:
            raise MisfitError("the layout of the rows is not known")
        row, cells = opened(value)
        at = layout.columns(row)
        reading = layout.convert(row, at, named=self._named)
        if not isinstance(reading, Labelled):
            refuse_identical(reading)
        refuse_media(row)
        if not self._named and (left := unread(row, at.values())):
            raise MisfitError(_left_out(left))
        self._opened.update((name, None) for name in cells if name in at.values())
        self._unused.update((name, None) for name in unused(row, at) if name not in self.by)
        return reading

    def _refused(self, raw: RawRow, error: RowError) -> BadRow:
        # What a row should have been is only worth telling where it is not what it should have been.
        return _bad(raw, f"{self._prefix}{error}" if isinstance(error, MisfitError) else str(error))

    def _recognise(self) -> tuple[Layout | None, str]:
        looked_at: list[RawRow] = []
        partly: tuple[RawRow, Layout, list[str]] | None = None
        seen = False
        for raw in self._rows():
            seen = True
            if raw.value is None:
                continue
            layout, left = _fitting(raw.value)
            if layout is not None and not left:
                return layout, _recognised(layout.name, raw)
            if layout is not None and partly is None:
                partly = raw, layout, left
            looked_at.append(raw)
            if len(looked_at) == _LOOKED_AT:
                break
        if not seen:
            raise DataError(_no_rows(self.source))
        if partly is not None:
            raise DataError(_partly(self.source, *partly))
        return _by_columns(looked_at, self.source)


def open_pairs(
    data: Data,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    name: str | None = None,
    on_bad_row: OnBadRow = "stop",
    limit: int | None = None,
    by: Sequence[str] = (),
    empty_prompt: bool = False,
) -> Pairs:
    """Preference pairs that are read when they are asked for.

    Args:
        data: a file, a folder, ``"-"`` for JSON lines on standard input, a Hub id, a ``datasets.Dataset``, or an
            iterable of dicts or of :class:`Pair` (which is then held in memory).
        format: the layout of a row, one of ``FORMATS``; recognised by itself when None.
        columns: which of your columns is ``prompt``, ``chosen``, ``rejected`` and, if any, ``system``.
        split: which split of a data set with several.
        name: which configuration of a data set with several.
        on_bad_row: ``"stop"`` raises after the last row if any was bad; ``"skip"`` leaves bad rows out.
        limit: only the first so many rows.
        by: other columns of the data whose values each pair is to carry along, as ``Pair.by``.
        empty_prompt: the rows are pairs of texts without any prompt, which then is empty: the layout ``no-prompt``.

    Raises:
        DataError: the data are not there, or of no kind that can be read.
        OptionError: options that make no sense.
    """
    _check_options(format, columns, on_bad_row, limit)
    if empty_prompt:
        if columns or format not in (None, _NO_PROMPT):
            other = "--columns" if columns else f"--format {format}"
            raise OptionError(f"--empty-prompt and {other} exclude each other; leave one of them away.")
        format = _NO_PROMPT
    if isinstance(data, str | Path):
        source = open_source(data, split=split, name=name)
    elif split is not None or name is not None:
        raise OptionError("split and name choose from a repository or a folder; data in memory have neither.")
    else:
        source = from_rows(data)
        if format is None and columns is None and source.holds_pairs:
            columns = _PAIRS
    format = "columns" if columns else format
    return Pairs(source, format=format, columns=columns, on_bad_row=on_bad_row, limit=limit, by=by)


def read_pairs(
    data: Data,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    name: str | None = None,
    on_bad_row: OnBadRow = "stop",
    limit: int | None = None,
    empty_prompt: bool = False,
) -> Pairs:
    """As :func:`open_pairs`, but under ``on_bad_row="stop"`` every row is checked at once.

    Raises:
        BadRowsError: rows that cannot be used, under ``on_bad_row="stop"``: the first ten, and the count of all.
        DataError: the data are not there, or of no kind that can be read.
        OptionError: options that make no sense.
    """
    pairs = open_pairs(
        data,
        format=format,
        columns=columns,
        split=split,
        name=name,
        on_bad_row=on_bad_row,
        limit=limit,
        empty_prompt=empty_prompt,
    )
    if on_bad_row == "stop":
        pairs.check()
    return pairs


def parse_columns(text: str) -> dict[str, str]:
    """``prompt=a,chosen=b,rejected=c[,system=d]`` as a dict.

    Raises:
        OptionError: it is not of this form.
    """
    columns: dict[str, str] = {}
    for item in text.split(","):
        part, equals, column = (piece.strip() for piece in item.partition("="))
        if not equals or not part or not column:
            raise OptionError(f"--columns {text}: {item.strip()!r} is not of the form part=column. {_columns_form()}")
        if part in columns:
            raise OptionError(f"--columns {text}: {part} is given twice.")
        columns[part] = column
    _check_columns(columns, f"--columns {text}")
    return columns


def _check_options(format: str | None, columns: Mapping[str, str] | None, on_bad_row: str, limit: int | None) -> None:
    if format is not None and format not in FORMATS:
        close = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise OptionError(f"--format {format}: expected one of {', '.join(FORMATS)}.{hint}")
    if format == "columns" and not columns:
        raise OptionError(f"--format columns needs the names: {_columns_form()}")
    if columns is not None:
        if format not in (None, "columns"):
            raise OptionError(f"--columns and --format {format} exclude each other; leave one of them away.")
        _check_columns(columns, "--columns")
    if on_bad_row not in get_args(OnBadRow):
        raise OptionError(f"--on-bad-row {on_bad_row}: expected stop or skip.")
    if limit is not None and limit < 1:
        raise OptionError(f"--limit {limit}: expected at least 1.")


def _check_columns(columns: Mapping[str, str], option: str) -> None:
    if unknown := sorted(set(columns) - {*_REQUIRED, *_FURTHER}):
        raise OptionError(f"{option}: there is no part {unknown[0]!r}. {_columns_form()}")
    if missing := [part for part in _REQUIRED if part not in columns]:
        raise OptionError(f"{option}: {' and '.join(missing)} not given. {_columns_form()}")
    if columns["chosen"] == columns["rejected"]:
        raise OptionError(f"{option}: chosen and rejected are the same column, {columns['chosen']}.")


def _columns_form() -> str:
    return "Expected --columns prompt=…,chosen=…,rejected=…[,system=…]."


def _recognised(format: str, raw: RawRow) -> str:
    return f"recognised as `{format}` from {'the first row' if raw.row == 0 else f'row {raw.row}'}; here "


def _fitting(value: dict[str, Any]) -> tuple[Layout | None, list[str]]:
    """The first layout that reads all text of a row; if none does, the first that fits, and what it leaves out."""
    partly: tuple[Layout | None, list[str]] = None, []
    try:
        row, _ = opened(value)
    except RowError:
        return partly
    for layout in fitting(row):
        left = unread(row, layout.columns(row).values())
        if not left:
            return layout, []
        if partly[0] is None:
            partly = layout, left
    return partly


def _pair(raw: RawRow, reading: Preference, by: tuple[str, ...]) -> Pair:
    return Pair(
        raw.row,
        reading.prompt,
        reading.chosen.content,
        reading.rejected.content,
        raw.file,
        raw.line,
        by=by,
        chosen_extra=reading.chosen.extra,
        rejected_extra=reading.rejected.extra,
        tools=reading.tools,
    )


def _by_columns(looked_at: list[RawRow], source: Source) -> tuple[Layout | None, str]:
    for raw in looked_at:
        if raw.value and has_plain_texts(raw.value):
            raise DataError(_without_prompt(source, raw))
        if layout := by_columns(raw.value or {}):
            return layout, f"recognised as `{layout.name}` by the columns; "
    if not looked_at:
        return None, ""
    first = looked_at[0]
    names = ", ".join(map(str, list(first.value or {})[:_NAMED])) or "none"
    raise DataError(
        f"{source.name}: the layout of the rows is none of the known ones. {first.file}, line {first.line} has the "
        f"columns {names}. {_WAY_OUT} ({', '.join(FORMATS)})."
    )


_WAY_OUT = "Say which are which with --columns prompt=…,chosen=…,rejected=…, or name the layout with --format"


def _partly(source: Source, raw: RawRow, layout: Layout, left: list[str]) -> str:
    plural = len(left) > 1
    return (
        f"{source.name}: {raw.file}, line {raw.line} looks like `{layout.name}`, but its column{'s' if plural else ''} "
        f"{_listed(left)} hold{'' if plural else 's'} text that this layout does not read, and no other layout does. "
        f"{_WAY_OUT} {layout.name}; other columns are then not used, and named."
    )


def _without_prompt(source: Source, raw: RawRow) -> str:
    return (
        f"{source.name}: {raw.file}, line {raw.line} has two texts and no prompt (columns "
        f"{', '.join(map(str, list(raw.value or {})[:_NAMED]))}). If another column is the prompt, say so: --columns "
        "prompt=…,chosen=…,rejected=…. If both texts begin with it: --format implicit, which cuts them where they "
        "part. If there is none: --empty-prompt."
    )


def _left_out(left: list[str]) -> str:
    what = f"is a {_listed(left)} column" if len(left) == 1 else f"are the columns {_listed(left)}"
    return f"there {what} with text, which this layout does not read"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        ", ".join(f"`{ascii(name)[1:-1] if not name.isprintable() else name!s:.40}`" for name in found[:_NAMED]) + more
    )


def _bad(raw: RawRow, reason: str) -> BadRow:
    return BadRow(raw.row, raw.file, raw.line, reason)


def _no_rows(source: Source) -> str:
    return f"{source.name} holds no rows."

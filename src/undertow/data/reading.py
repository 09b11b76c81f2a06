"""Preference pairs from any source in any layout, with every row accounted for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from undertow.data.by_columns import check_columns, values_of
from undertow.data.layouts.fields import MisfitError, RowError
from undertow.data.layouts.formats import FORMATS, convert, read_labelled
from undertow.data.layouts.recognition import recognise, recognise_by_columns
from undertow.data.layouts.unpaired import Matcher
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
_PAIRS = {name: name for name in _REQUIRED}


class Pairs:
    """The pairs of a data set; can be iterated over any number of times, each time streamed from the source.

    Iterating yields the good pairs. Under ``on_bad_row="stop"`` it raises :class:`BadRowsError` at the end if a row was
    bad; under ``"skip"`` bad rows are left out. Either way ``bad_count`` and ``first_bad`` (the first ten) tell of the
    last complete pass. :meth:`entries` yields pairs and bad rows alike, and has no opinion.
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
        self._format = format
        self._prefix = ""

    @property
    def format(self) -> str:
        """The layout of the rows, given or recognised; an empty string where no row could be read at all.

        Raises:
            DataError: the source has no rows, or rows of no known layout.
        """
        if self._format is None:
            self._format, self._prefix = self._recognise()
        return self._format

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
        if self.format == "unpaired":
            yield from self._matched()
            return
        seen = False
        for raw in self._rows():
            seen = True
            yield self._entry(raw)
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
        return f"Pairs({self.source.name!r}, format={self._format!r}, on_bad_row={self.on_bad_row!r})"

    def _rows(self) -> Iterator[RawRow]:
        return islice(self.source.rows(), self.limit)

    def _entry(self, raw: RawRow) -> Pair | BadRow:
        if raw.value is None:
            return _bad(raw, raw.error or "the row cannot be read")
        try:
            prompt, chosen, rejected = convert(raw.value, self.format, self._columns)
        except RowError as error:
            return self._refused(raw, error)
        return Pair(raw.row, prompt, chosen, rejected, raw.file, raw.line, by=values_of(raw.value, self.by))

    def _matched(self) -> Iterator[Pair | BadRow]:
        matcher = Matcher()
        seen = False
        for raw in self._rows():
            seen = True
            if raw.value is None:
                yield _bad(raw, raw.error or "the row cannot be read")
                continue
            try:
                labelled = read_labelled(raw.value)
            except RowError as error:
                yield self._refused(raw, error)
            else:
                yield from matcher.add(raw, labelled, values_of(raw.value, self.by))
        yield from matcher.leftovers()
        if not seen:
            raise DataError(_no_rows(self.source))

    def _refused(self, raw: RawRow, error: RowError) -> BadRow:
        # What a row should have been is only worth telling where it is not what it should have been.
        return _bad(raw, f"{self._prefix}{error}" if isinstance(error, MisfitError) else str(error))

    def _recognise(self) -> tuple[str, str]:
        looked_at: list[RawRow] = []
        seen = False
        for raw in self._rows():
            seen = True
            if raw.value is None:
                continue
            if format := recognise(raw.value):
                return format, _recognised(format, raw)
            looked_at.append(raw)
            if len(looked_at) == _LOOKED_AT:
                break
        if not seen:
            raise DataError(_no_rows(self.source))
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

    Raises:
        DataError: the data are not there, or of no kind that can be read.
        OptionError: options that make no sense.
    """
    _check_options(format, columns, on_bad_row, limit)
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
) -> Pairs:
    """As :func:`open_pairs`, but under ``on_bad_row="stop"`` every row is checked at once.

    Raises:
        BadRowsError: rows that cannot be used, under ``on_bad_row="stop"``: the first ten, and the count of all.
        DataError: the data are not there, or of no kind that can be read.
        OptionError: options that make no sense.
    """
    pairs = open_pairs(data, format=format, columns=columns, split=split, name=name, on_bad_row=on_bad_row, limit=limit)
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
    if unknown := sorted(set(columns) - {*_REQUIRED, "system"}):
        raise OptionError(f"{option}: there is no part {unknown[0]!r}. {_columns_form()}")
    if missing := [part for part in _REQUIRED if part not in columns]:
        raise OptionError(f"{option}: {' and '.join(missing)} not given. {_columns_form()}")
    if columns["chosen"] == columns["rejected"]:
        raise OptionError(f"{option}: chosen and rejected are the same column, {columns['chosen']}.")


def _columns_form() -> str:
    return "Expected --columns prompt=…,chosen=…,rejected=…[,system=…]."


def _recognised(format: str, raw: RawRow) -> str:
    return f"recognised as `{format}` from {'the first row' if raw.row == 0 else f'row {raw.row}'}; here "


def _by_columns(looked_at: list[RawRow], source: Source) -> tuple[str, str]:
    for raw in looked_at:
        if format := recognise_by_columns(raw.value or {}):
            return format, f"recognised as `{format}` by the columns; "
    if not looked_at:
        return "", ""
    first = looked_at[0]
    names = ", ".join(map(str, list(first.value or {})[:12])) or "none"
    raise DataError(
        f"{source.name}: the layout of the rows is none of the known ones. {first.file}, line {first.line} has the "
        f"columns {names}. Say which are which with --columns prompt=…,chosen=…,rejected=…, or name the layout with "
        f"--format ({', '.join(FORMATS)})."
    )


def _bad(raw: RawRow, reason: str) -> BadRow:
    return BadRow(raw.row, raw.file, raw.line, reason)


def _no_rows(source: Source) -> str:
    return f"{source.name} holds no rows."

"""Rows to pairs: the layout recognised, every row accounted for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from undertow.data.fields import RowError, responses_differ
from undertow.data.formats import FORMATS, LAYOUTS, recognise, standard
from undertow.data.pairs import BadRow, Pair
from undertow.data.sources import RawRow, Source, from_rows, open_source
from undertow.data.unpaired import Pairing
from undertow.errors import SHOWN_BAD_ROWS, BadRowsError, DataError, OptionError

ROLES = ("prompt", "chosen", "rejected", "system")
LOOKED_AT = 100  # rows looked at to recognise a layout
ON_BAD_ROW = ("stop", "skip")


class Pairs:
    """The pairs of a data set: read anew, streamed, each time they are gone through.

    Going through them raises :class:`BadRowsError` at the end when a row was bad and ``on_bad_row`` is "stop"; with
    "skip" bad rows are left out and counted in ``skipped`` (the first ones in ``first_skipped``).
    """

    def __init__(
        self,
        source: Source,
        *,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        on_bad_row: str = "stop",
        limit: int | None = None,
    ) -> None:
        if format is not None and format not in FORMATS:
            raise OptionError(f"--format {format}: expected one of {', '.join(FORMATS)}.")
        if format == "columns" and not columns:
            raise OptionError("--format columns needs --columns prompt=…,chosen=…,rejected=…")
        if columns and format not in (None, "columns"):
            raise OptionError(f"--columns says what the columns are, --format {format} says something else; give one.")
        if on_bad_row not in ON_BAD_ROW:
            raise OptionError(f"--on-bad-row {on_bad_row}: expected one of {', '.join(ON_BAD_ROW)}.")
        self.source = source
        self.on_bad_row = on_bad_row
        self.limit = limit
        self.skipped = 0
        self.first_skipped: list[BadRow] = []
        self._columns = columns
        self._format = "columns" if columns else format
        self._recognised = False

    @property
    def format(self) -> str:
        """The layout of the rows, given or recognised from the first rows that show one."""
        if self._format is None:
            self._format = self._recognise()
            self._recognised = True
        return self._format

    def __iter__(self) -> Iterator[Pair]:
        self.skipped, self.first_skipped = 0, []
        for entry in self.entries():
            if isinstance(entry, Pair):
                yield entry
                continue
            self.skipped += 1
            if len(self.first_skipped) < SHOWN_BAD_ROWS:
                self.first_skipped.append(entry)
        if self.skipped and self.on_bad_row == "stop":
            raise BadRowsError(self.first_skipped, self.skipped)

    def entries(self) -> Iterator[Pair | BadRow]:
        """Every input row, as a pair or as a bad row with its reason."""
        rows = itertools.islice(self.source.rows(), self.limit)
        return self._unpaired(rows) if self.format == "unpaired" else map(self._entry, rows)

    def check(self) -> None:
        """Go through all rows once; raises :class:`BadRowsError` under "stop" when one is bad."""
        for _ in self:
            pass

    def _entry(self, raw: RawRow) -> Pair | BadRow:
        try:
            row = _value(raw)
            prompt, chosen, rejected = standard(self._renamed(row)) if self._columns else LAYOUTS[self.format](row)
            responses_differ(chosen, rejected)
        except RowError as error:
            return self._bad(raw, error)
        return Pair(raw.row, prompt, chosen, rejected, raw.file, raw.line)

    def _unpaired(self, rows: Iterable[RawRow]) -> Iterator[Pair | BadRow]:
        pairing = Pairing()
        for raw in rows:
            try:
                _value(raw)
                pair = pairing.add(raw)
            except RowError as error:
                yield self._bad(raw, error)
            else:
                if pair is not None:
                    yield pair
        yield from pairing.left()

    def _bad(self, raw: RawRow, error: RowError) -> BadRow:
        reason = str(error)
        if raw.error is None and self._recognised:
            reason += f" (rows were recognised as `{self.format}`)"
        return BadRow(raw.row, raw.file, raw.line, reason)

    def _renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        assert self._columns is not None
        for name in self._columns.values():
            if name not in row:
                raise RowError(f"`{name}` is missing (the row has {', '.join(map(repr, row))})")
        return {role: row[name] for role, name in self._columns.items()}

    def _recognise(self) -> str:
        seen: list[str] = []
        for raw in itertools.islice(self.source.rows(), LOOKED_AT):
            if raw.value is None:
                continue
            found = recognise(raw.value)
            if found:
                return found
            seen = seen or list(raw.value)
        if not seen:
            return "standard"  # no row can be read at all: each is reported with its own reason
        return self._by_names(seen)

    def _by_names(self, seen: list[str]) -> str:
        """No row has all it needs: take the layout its column names have, so that each row gets its own reason."""
        found = recognise(dict.fromkeys(seen, ""))
        if found:
            return found
        raise DataError(
            f"{self.source.name}: the layout of its rows is not known (columns: {', '.join(map(repr, seen))}). "
            "Name the columns: --columns prompt=…,chosen=…,rejected=…[,system=…], or a known layout: "
            f"--format with one of {', '.join(FORMATS)}."
        )


def _value(raw: RawRow) -> dict[str, Any]:
    if raw.value is None:
        raise RowError(raw.error or "cannot be read")
    return raw.value


def open_pairs(
    data: str | Path | Iterable[Mapping[str, Any]],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    name: str | None = None,
    on_bad_row: str = "stop",
    limit: int | None = None,
) -> Pairs:
    """The pairs of a data set, not looked at yet. Arguments: see :func:`read_pairs`."""
    source = open_source(data, split=split, name=name) if isinstance(data, (str, Path)) else from_rows(data)  # type: ignore[arg-type]
    return Pairs(source, format=format, columns=columns, on_bad_row=on_bad_row, limit=limit)


def read_pairs(
    data: str | Path | Iterable[Mapping[str, Any]],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    name: str | None = None,
    on_bad_row: str = "stop",
    limit: int | None = None,
) -> Pairs:
    """Read a preference data set, whatever its layout.

    Args:
        data: a file, a folder, ``-`` for JSONL on standard input, a folder saved by ``datasets``, a Hub id, or rows in
            memory (a list of dictionaries, a ``datasets.Dataset``).
        format: the layout; recognised by itself when None.
        columns: your own column names, ``{"prompt": …, "chosen": …, "rejected": …, "system": …}``.
        split: of a data set with several.
        name: configuration of a data set with several.
        on_bad_row: "stop" goes through all rows now and raises when one is bad; "skip" leaves bad rows out.
        limit: only the first so many rows.

    Returns:
        Pairs to go through as often as you like; they are streamed each time, never all in memory.

    Raises:
        DataError: the data cannot be read; BadRowsError: rows cannot be used, the first ten named.
    """
    pairs = open_pairs(data, format=format, columns=columns, split=split, name=name, on_bad_row=on_bad_row, limit=limit)
    if on_bad_row == "stop":
        pairs.check()
    return pairs


def parse_columns(text: str) -> dict[str, str]:
    """``"prompt=a,chosen=b,rejected=c"`` as a dictionary; prompt, chosen and rejected are needed, system is not."""
    parts = [part.partition("=") for part in text.split(",")]
    columns = {role.strip(): name.strip() for role, _, name in parts}
    wrong = [role for role, _, name in parts if role.strip() not in ROLES or not name.strip()]
    missing = [role for role in ROLES[:3] if role not in columns]
    if wrong or missing or len(columns) != len(parts):
        raise OptionError(
            f"--columns {text}: expected prompt=…,chosen=…,rejected=…[,system=…], each once"
            + (f"; {', '.join(missing)} missing" if missing else "")
            + "."
        )
    return columns

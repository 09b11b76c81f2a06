"""All layouts, in the order in which they are tried: a new one is one more object in this list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from undertow.data.layouts.answers import (
    ALPACA_RANKING,
    ARGILLA,
    CONVERSATIONAL,
    MESSAGES,
    MS_SWIFT,
    NO_PROMPT,
    OPENAI,
    QUESTION_ANSWERS,
    SHAREGPT,
    STANDARD,
    ULTRAFEEDBACK,
    named_columns,
)
from undertow.data.layouts.candidates import POOL, RANKED_LIST
from undertow.data.layouts.implicit import HH, IMPLICIT
from undertow.data.layouts.layout import Layout
from undertow.data.layouts.sides import ALPACAFARM, ARENA, TWO_RESPONSES
from undertow.data.layouts.unpaired import UNPAIRED
from undertow.data.layouts.values import Row

LAYOUTS = (
    ALPACAFARM,
    SHAREGPT,
    ULTRAFEEDBACK,
    CONVERSATIONAL,
    STANDARD,
    ALPACA_RANKING,
    ARGILLA,
    OPENAI,
    MESSAGES,
    QUESTION_ANSWERS,
    MS_SWIFT,
    HH,
    IMPLICIT,
    TWO_RESPONSES,
    ARENA,
    POOL,
    RANKED_LIST,
    UNPAIRED,
    NO_PROMPT,
)

FORMATS = (*(layout.name for layout in LAYOUTS if layout.by_itself), "no-prompt", "columns")
"""What ``--format`` takes."""


def layout_of(format: str, columns: Mapping[str, str] | None = None) -> Layout:
    """The layout of a name; ``columns`` says which column is what where the name is ``columns``."""
    if format == "columns":
        return named_columns(columns or {})
    return next(layout for layout in LAYOUTS if layout.name == format)


def fitting(row: Row) -> Iterator[Layout]:
    """The layouts whose columns and types a row has, in their order."""
    return (layout for layout in LAYOUTS if layout.by_itself and layout.fits(row))


def by_columns(row: Row) -> Layout | None:
    """The layout whose columns the row has, whatever is in them: for data in which no row has the right types."""
    preferred = (STANDARD, *LAYOUTS) if "prompt" in row else LAYOUTS
    return next((layout for layout in preferred if layout.by_itself and layout.fits_columns(row)), None)

"""The columns of the scores, each declared once: what it is called, holds and means, and where it is shown.

Everything that is said of a column is read from here: the schema of the Parquet files, which scores rank pairs and at
which of their ends the displacing pairs are, the labels of the page, the tables of the terminal and of the page, and
the table of columns in ``docs/audit.md``. A new column is one entry of :data:`COLUMNS`, in its place, and its value in
the row that its level returns (:mod:`undertow.scoring.levels`, :mod:`undertow.scoring.unembedding`); :func:`table_of`
refuses rows that do not fit. ``SCORE_VERSION`` of the levels goes up when a number changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = [
    "BY_LAYER",
    "CASES",
    "COLUMNS",
    "FORECAST_COLUMNS",
    "LEVELS",
    "PREDICTORS",
    "PRODUCT_PARTS",
    "PULL",
    "PULL_COLUMNS",
    "PULL_PARTS",
    "PUSH",
    "RANDOM",
    "TOKEN_COUNTS",
    "Column",
    "End",
    "Place",
    "Row",
    "check_row",
    "columns_of",
    "numbers_of",
    "shown_in",
    "table_of",
    "tokens_of",
]

End = Literal["highest", "lowest"]
Place = Literal["quantiles", "worst", "page"]
"""Where a column can be shown: the terminal's quantiles, its tables of the most and least displacing pairs (the text
apart, as far as there is room), and the page's table of pairs."""

CASES = (0, 1, 2, 3, 4)
"""The codes of the columns of cases, as :func:`undertow.maths.entanglement.cases` gives them; -1 where a number is not
finite."""

PRODUCT_PARTS = ("chosen", "cross", "rejected")
"""Of inner products: chosen with chosen, chosen with rejected, rejected with rejected."""

Row: TypeAlias = dict[str, object]
"""The numbers of one pair, by column."""

LEVELS = ("text", "hidden", "unembedding", "gradient")
"""Each includes those before it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the scores.

    Attributes:
        name: in tables, options and files.
        type: in Parquet.
        level: the first level that has it.
        meaning: one plain sentence, for the page and the docs.
        label: as people call it; the name where it is empty.
        heading: a short one for the page's table of pairs; the name where it is empty.
        unit: beside the name on an axis.
        displaces: of a score that says which pairs displace: at which of its ends those pairs are.
        rank: of such a score: its place among them, 1 the best. Numbers need not be neighbours.
        shown: the tables that show it.
        option: what the column takes besides an audit: its option ``pull``, or the command ``forecast``; or nothing.
        nullable: whether a value can be missing (null); a number that cannot be computed is NaN, not null.
    """

    name: str
    type: pa.DataType
    level: str
    meaning: str
    label: str = ""
    heading: str = ""
    unit: str = ""
    displaces: End | None = None
    rank: int | None = None
    shown: tuple[Place, ...] = ()
    option: Literal["", "pull", "forecast"] = ""
    nullable: bool = False

    def __post_init__(self) -> None:
        if (self.displaces is None) != (self.rank is None):
            raise ValueError(f"column {self.name}: `displaces` and `rank` are given together or not at all")
        if not self.meaning.endswith("."):
            raise ValueError(f"column {self.name}: its meaning is a sentence")


TOKEN_COUNTS = ("prompt_tokens", "chosen_tokens", "rejected_tokens")

PULL, PULL_PARTS = "pull", ("pull_own", "pull_others")
"""The column, and the two whose sum it is."""

_INT64, _INT32, _INT8, _FLOAT, _TEXT, _BOOL = (
    pa.int64(),
    pa.int32(),
    pa.int8(),
    pa.float64(),
    pa.string(),
    pa.bool_(),
)
_EVERYWHERE: tuple[Place, ...] = ("quantiles", "worst", "page")
_NATS, _STEP = "nats", "nats, unit learning rate"
BY_LAYER = "full_by_layer"
"""The column of the inner products over all parameters by block and kind of weight."""
_LAYERS = pa.list_(pa.struct([("block", _INT32), ("kind", _TEXT), *((part, _FLOAT) for part in PRODUCT_PARTS)]))
PUSH = "push"
"""The column of a pair's push on the protected responses; ``push:GROUP`` on a group of texts."""
RANDOM = "random"
"""A column without meaning, beside a forecast's: leaving pairs out by it is also a shorter run, with which other
filters are compared."""

COLUMNS: tuple[Column, ...] = (
    Column("row", _INT64, "text", "The pair's place in the input, from 0."),
    Column("pair_id", _TEXT, "text", "16 hex digits: a hash of prompt, chosen and rejected."),
    Column(
        "prompt_tokens",
        _INT32,
        "text",
        "Tokens of the prompt, after truncation.",
        label="prompt tokens",
        unit="tokens",
        shown=("quantiles",),
    ),
    Column(
        "chosen_tokens",
        _INT32,
        "text",
        "Tokens of the chosen response, after truncation, its end-of-turn token included.",
        label="chosen tokens",
        heading="n⁺",
        unit="tokens",
        shown=_EVERYWHERE,
    ),
    Column(
        "rejected_tokens",
        _INT32,
        "text",
        "Tokens of the rejected response, counted in the same way.",
        label="rejected tokens",
        heading="n⁻",
        unit="tokens",
        shown=_EVERYWHERE,
    ),
    Column("shared_prefix_tokens", _INT32, "text", "Tokens at the beginning that both responses share.", unit="tokens"),
    Column("truncated", _BOOL, "text", "Whether something was cut off to keep within the maximum length."),
    Column(
        "duplicate_of",
        _INT64,
        "text",
        "The first earlier row with the same prompt, chosen and rejected; empty where there is none.",
        nullable=True,
    ),
    Column(
        "contradicts",
        _INT64,
        "text",
        "The first row, earlier or later, with the same prompt and the two responses exchanged; empty where there is "
        "none.",
        nullable=True,
    ),
    Column(
        "edit_distance",
        _FLOAT,
        "text",
        "Token-level Levenshtein distance over the longer length: 0 where the responses are equal, 1 where they share "
        "no token; low means alike.",
        label="edit distance",
        heading="distance",
        displaces="lowest",
        rank=60,
        shown=_EVERYWHERE,
    ),
    Column(
        "ches",
        _FLOAT,
        "hidden",
        "Higher means more displacement expected; it grows with the rejected response's length.",
        label="CHES",
        displaces="highest",
        rank=40,
        shown=("quantiles",),
    ),
    Column(
        "ln_ches",
        _FLOAT,
        "hidden",
        "Higher means more displacement expected; the responses' lengths are divided out.",
        label="length-normalised CHES",
        heading="ln CHES",
        displaces="highest",
        rank=30,
        shown=_EVERYWHERE,
    ),
    Column(
        "last_hidden_ip",
        _FLOAT,
        "hidden",
        "Inner product of the hidden embeddings after the last tokens: a baseline; higher means more displacement "
        "expected.",
        label="last hidden embeddings",
        displaces="highest",
        rank=50,
    ),
    Column(
        "logp_chosen",
        _FLOAT,
        "unembedding",
        "Log-probability of the chosen response given the prompt, summed over its tokens.",
        label="log-probability of the chosen response",
        unit=_NATS,
        shown=("quantiles",),
    ),
    Column(
        "logp_rejected",
        _FLOAT,
        "unembedding",
        "The same for the rejected response.",
        label="log-probability of the rejected response",
        unit=_NATS,
        shown=("quantiles",),
    ),
    Column(
        "gg_chosen",
        _FLOAT,
        "unembedding",
        "Squared norm of the gradient of `logp_chosen` in the unembedding matrix.",
    ),
    Column(
        "gg_cross",
        _FLOAT,
        "unembedding",
        "Inner product of the gradients of `logp_chosen` and `logp_rejected` in the unembedding matrix.",
        shown=("quantiles",),
    ),
    Column(
        "gg_rejected",
        _FLOAT,
        "unembedding",
        "Squared norm of the gradient of `logp_rejected` in the unembedding matrix.",
    ),
    Column("hh_chosen", _FLOAT, "unembedding", "As `gg_chosen`, in the hidden embeddings as free features."),
    Column("hh_cross", _FLOAT, "unembedding", "As `gg_cross`, in the hidden embeddings as free features."),
    Column("hh_rejected", _FLOAT, "unembedding", "As `gg_rejected`, in the hidden embeddings as free features."),
    Column(
        "alpha_positive",
        _FLOAT,
        "unembedding",
        "Fraction of the coefficients α⁺ and α⁻ that are positive.",
        shown=("quantiles",),
    ),
    Column("d_chosen", _FLOAT, "unembedding", "The loss's weight of the chosen response at the audited model."),
    Column("d_rejected", _FLOAT, "unembedding", "The loss's weight of the rejected response at the audited model."),
    Column(
        "dlogp_chosen",
        _FLOAT,
        "unembedding",
        "Change of `logp_chosen` by one training step on this pair alone, to first order; below zero the step lowers "
        "the probability of the pair's own chosen response.",
        label="change of the chosen response",
        heading="Δ chosen",
        unit=_STEP,
        displaces="lowest",
        rank=10,
        shown=_EVERYWHERE,
    ),
    Column(
        "dlogp_rejected",
        _FLOAT,
        "unembedding",
        "Change of `logp_rejected` by the same step.",
        label="change of the rejected response",
        heading="Δ rejected",
        unit=_STEP,
        shown=("quantiles", "page"),
    ),
    Column(
        "case",
        _INT8,
        "unembedding",
        "Which way the two go: 1 chosen up and rejected down, 2 both down, 3 both up, 4 chosen down and rejected up, "
        "0 no gradient, -1 a number is not finite.",
        shown=("worst",),
    ),
    Column(
        "free_dlogp_chosen",
        _FLOAT,
        "unembedding",
        "As `dlogp_chosen`, with the hidden embeddings as free features beside the unembedding matrix.",
        label="with free hidden embeddings",
        unit=_STEP,
        displaces="lowest",
        rank=20,
    ),
    Column(
        "free_dlogp_rejected",
        _FLOAT,
        "unembedding",
        "As `dlogp_rejected`, with the hidden embeddings as free features.",
        unit=_STEP,
    ),
    Column("free_case", _INT8, "unembedding", "The case of these two changes."),
    Column(
        "full_gg_chosen",
        _FLOAT,
        "gradient",
        "Squared norm of the gradient of `logp_chosen` in all trained parameters.",
    ),
    Column(
        "full_gg_cross",
        _FLOAT,
        "gradient",
        "Inner product of the gradients of `logp_chosen` and `logp_rejected` in all trained parameters.",
        shown=("quantiles",),
    ),
    Column(
        "full_gg_rejected",
        _FLOAT,
        "gradient",
        "Squared norm of the gradient of `logp_rejected` in all trained parameters.",
    ),
    Column(
        "full_dlogp_chosen",
        _FLOAT,
        "gradient",
        "As `dlogp_chosen`, where the step moves all trained parameters.",
        label="over all parameters",
        heading="Δ chosen, all",
        unit=_STEP,
        displaces="lowest",
        rank=8,
        shown=_EVERYWHERE,
    ),
    Column(
        "full_dlogp_rejected",
        _FLOAT,
        "gradient",
        "As `dlogp_rejected`, where the step moves all trained parameters.",
        unit=_STEP,
    ),
    Column("full_case", _INT8, "gradient", "The case of these two changes."),
    Column(
        BY_LAYER,
        _LAYERS,
        "gradient",
        "The three inner products over all parameters by block (empty outside of the blocks) and kind of weight: "
        "`block`, `kind`, `chosen`, `cross`, `rejected`; they sum to `full_gg_chosen`, `full_gg_cross` and "
        "`full_gg_rejected`.",
    ),
    Column(
        PULL,
        _FLOAT,
        "unembedding",
        "Change of `logp_chosen` under the gradient of all pairs, to first order; below zero the data set as a "
        "whole pulls the chosen response down.",
        label="pull of all pairs on the chosen response",
        unit=_STEP,
        displaces="lowest",
        rank=5,
        shown=_EVERYWHERE,
        option="pull",
        nullable=True,
    ),
    Column(
        "pull_own",
        _FLOAT,
        "unembedding",
        "The part of the change of `logp_chosen` under the gradient of all pairs that comes from the pair itself.",
        unit=_STEP,
        shown=("quantiles",),
        option="pull",
        nullable=True,
    ),
    Column(
        "pull_others",
        _FLOAT,
        "unembedding",
        "The part of that change that comes from all other pairs.",
        unit=_STEP,
        shown=("quantiles",),
        option="pull",
        nullable=True,
    ),
    Column(
        "pull_rejected_own",
        _FLOAT,
        "unembedding",
        "As `pull_own`, for the rejected response.",
        unit=_STEP,
        option="pull",
        nullable=True,
    ),
    Column(
        "pull_rejected_others",
        _FLOAT,
        "unembedding",
        "As `pull_others`, for the rejected response.",
        unit=_STEP,
        option="pull",
        nullable=True,
    ),
    Column(
        "forecast_chosen",
        _FLOAT,
        "text",
        "Change of the log-probability of the chosen response over the whole training run, foretold; below zero it is "
        "displaced.",
        label="forecast of the chosen response",
        heading="forecast",
        unit=_NATS,
        displaces="lowest",
        rank=1,
        shown=_EVERYWHERE,
        option="forecast",
        nullable=True,
    ),
    Column(
        "forecast_rejected",
        _FLOAT,
        "text",
        "The same for the rejected response.",
        label="forecast of the rejected response",
        unit=_NATS,
        option="forecast",
        nullable=True,
    ),
    Column(
        "forecast_displaced",
        _FLOAT,
        "text",
        "Probability that the chosen response ends less likely than it began.",
        label="probability of displacement",
        unit="probability",
        option="forecast",
        nullable=True,
    ),
    Column(
        "own_chosen",
        _FLOAT,
        "text",
        "The part of `forecast_chosen` that training on the pair itself gives.",
        unit=_NATS,
        option="forecast",
        nullable=True,
    ),
    Column(
        "others_chosen",
        _FLOAT,
        "text",
        "The part of it that training on all other pairs gives.",
        unit=_NATS,
        option="forecast",
        nullable=True,
    ),
    Column(
        "curvature_chosen",
        _FLOAT,
        "text",
        "What the model's curvature adds to these two, as the look at the simulated end tells.",
        unit=_NATS,
        option="forecast",
        nullable=True,
    ),
    Column(
        PUSH,
        _FLOAT,
        "text",
        "What training on the pair adds to the mean of the protected chosen responses, its own part left out; below "
        "zero it pushes them down.",
        label="push on the protected responses",
        heading="push",
        unit=_NATS,
        shown=("page",),
        option="forecast",
        nullable=True,
    ),
    Column(
        "step",
        _INT32,
        "text",
        "The optimiser's step at which the pair is trained on first; empty where it is not, or where the order is not "
        "known.",
        option="forecast",
        nullable=True,
    ),
)
"""All columns, in the order of the files. Those of an option come last: a second pass, or a forecast, fills them."""

PULL_COLUMNS = tuple(column.name for column in COLUMNS if column.option == "pull")
"""With ``--pull``; empty (null) until the second pass over the data has filled them."""

FORECAST_COLUMNS = tuple(column.name for column in COLUMNS if column.option == "forecast")
"""Of a forecast: not in an audit's own files, but beside them; null where a pair has none."""

_RANKED = sorted((column for column in COLUMNS if column.rank is not None), key=lambda column: column.rank or 0)
PREDICTORS: dict[str, End] = {column.name: column.displaces for column in _RANKED if column.displaces}
"""Scores that say which pairs displace, best first, and at which of their ends those pairs are."""


def numbers_of(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column's values of all pairs, as float64; NaN where there is none."""
    return np.asarray(pc.fill_null(table[name].cast(pa.float64()), float("nan")).to_numpy(), dtype=np.float64)


def tokens_of(table: pa.Table) -> NDArray[np.int64]:
    """The tokens of each pair: of its prompt, counted once, and of both responses."""
    parts = (table[name].to_numpy().astype(np.int64) for name in TOKEN_COUNTS)
    return sum(parts, np.zeros(len(table), np.int64))


def columns_of(level: str, *, pull: bool = False) -> tuple[Column, ...]:
    """The columns of an audit's table of that level, in order."""
    upto = LEVELS[: LEVELS.index(level) + 1]
    options = ("", "pull") if pull else ("",)
    return tuple(one for one in COLUMNS if one.level in upto and one.option in options)


def shown_in(place: Place) -> tuple[str, ...]:
    """The columns that a table shows: quantiles in the order of the files, pairs with a forecast's first, then the
    deepest level's."""
    found = [column for column in COLUMNS if place in column.shown]
    if place != "quantiles":
        found.sort(key=lambda column: (column.option != "forecast", -LEVELS.index(column.level)))
    return tuple(column.name for column in found)


def check_row(row: Mapping[str, object], expected: Sequence[str]) -> None:
    """A row has the columns that are declared, all of them and no others.

    Raises:
        ValueError: it does not; the message names the columns.
    """
    if row.keys() == set(expected):
        return
    missing = ", ".join(name for name in expected if name not in row)
    unknown = ", ".join(name for name in row if name not in expected)
    found = [f"without a value: {missing}"] if missing else []
    found += [f"not declared in scoring/columns.py: {unknown}"] if unknown else []
    raise ValueError(f"a row of scores does not fit its columns; {'; '.join(found)}")


def table_of(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table of a schema of these columns.

    Raises:
        ValueError: a row lacks a value, or has one that its column cannot hold; the message names the column.
    """
    rows = list(rows)
    nullable = {column.name for column in COLUMNS if column.nullable}
    arrays = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if pa.types.is_integer(field.type) and any(isinstance(value, float) for value in values):
            raise ValueError(f"column {field.name} holds {field.type}, not fractions")  # Arrow would cut them off
        try:
            array = pa.array(values, field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(f"column {field.name} holds {field.type}: {error}") from error
        if array.null_count and field.name not in nullable:
            index = array.is_null().index(True).as_py()
            raise ValueError(f"column {field.name} has no value in row {rows[index].get('row', index)} of the input")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)

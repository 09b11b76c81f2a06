"""The columns of the scores: declared once, and what tables, terminal, page and docs hold are these."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tiny import random_pairs, tiny_model
from undertow.maths.entanglement import UNKNOWN, cases
from undertow.reporting.page import theme
from undertow.runs.progress import Silent
from undertow.scoring import scorer as scoring
from undertow.scoring.columns import (
    CASES,
    COLUMNS,
    FORECAST_COLUMNS,
    LEVELS,
    PREDICTORS,
    PULL_COLUMNS,
    Column,
    check_row,
    columns_of,
    shown_in,
    table_of,
)
from undertow.scoring.levels import schema, text_row
from undertow.scoring.scorer import Scorer, score_rows
from undertow.wording.names import AXES, CASE_LABELS, CASE_TAGS, LABELS, WHAT, column_table

DOCS = Path(__file__).parents[2] / "docs"
PAIRS = random_pairs(3)


def test_each_column_is_declared_once_and_whole() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    ranks = [column.rank for column in COLUMNS if column.rank is not None]
    assert len(set(ranks)) == len(ranks)
    assert all(column.level in LEVELS for column in COLUMNS)
    options = [column.option for column in COLUMNS]
    assert options == sorted(options, key=["", "pull", "forecast"].index)


@pytest.mark.parametrize("level", LEVELS)
def test_the_schema_is_the_declarations(level: str) -> None:
    for pull in (False, True):
        columns = columns_of(level, pull=pull)
        assert [(field.name, field.type) for field in schema(level, pull=pull)] == [(c.name, c.type) for c in columns]
    found = {column.name for column in columns_of(LEVELS[-1], pull=True)}
    assert found == {column.name for column in COLUMNS} - set(FORECAST_COLUMNS)
    assert found >= set(PULL_COLUMNS)


def test_what_is_shown_of_columns_is_the_declarations() -> None:
    assert list(PREDICTORS.items()) == [
        ("forecast_chosen", "lowest"),
        ("pull", "lowest"),
        ("full_dlogp_chosen", "lowest"),
        ("dlogp_chosen", "lowest"),
        ("free_dlogp_chosen", "lowest"),
        ("ln_ches", "highest"),
        ("ches", "highest"),
        ("last_hidden_ip", "highest"),
        ("edit_distance", "lowest"),
    ]
    assert shown_in("page") == (
        "forecast_chosen", "push", "full_dlogp_chosen", "dlogp_chosen", "dlogp_rejected", "pull", "ln_ches",
        "chosen_tokens", "rejected_tokens", "edit_distance",
    )  # fmt: skip
    assert shown_in("quantiles")[:3] == ("prompt_tokens", "chosen_tokens", "rejected_tokens")
    assert LABELS["ches"] == "CHES"
    assert LABELS["pair_id"] == "pair_id"
    assert AXES["dlogp_chosen"] == "dlogp_chosen (nats, unit learning rate)"
    assert AXES["ches"] == "ches"
    assert "`" not in "".join(WHAT.values())


def test_every_case_has_its_words_and_its_colour() -> None:
    half = torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, math.nan], dtype=torch.float64)
    weights = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.2], [-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]).double()
    found = cases(half, torch.tensor([0.5, 0.6, 0.5, 0.2, 0.5, 0.5]).double(), torch.ones(6).double(), *weights.T)
    assert set(found.tolist()) == {*CASES, UNKNOWN}
    assert CASE_LABELS.keys() == CASE_TAGS.keys() == theme.CASE_COLOURS.keys() == {*CASES, UNKNOWN}


def test_the_docs_list_every_column_as_it_is_declared() -> None:
    assert column_table() in (DOCS / "audit.md").read_text(encoding="utf-8"), f"docs/audit.md lacks\n{column_table()}"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"row": 1}, "without a value: pair_id$"),
        ({"row": 1, "pair_id": "a", "surprise": 2.0}, r"not declared in scoring/columns.py: surprise$"),
        ({"row": 1, "surprise": 2.0}, r"without a value: pair_id; not declared .*: surprise$"),
    ],
)
def test_a_row_that_lacks_a_column_or_brings_one_is_refused_by_name(row: dict[str, object], message: str) -> None:
    check_row({"pair_id": "a", "row": 1}, ("row", "pair_id"))
    with pytest.raises(ValueError, match=message):
        check_row(row, ("row", "pair_id"))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_that_forgets_a_column_stops_the_scoring(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(pair):
        row = text_row(pair)
        del row["edit_distance"]
        return row

    model = None if level == "text" else tiny_model("llama")
    assert len(list(score_rows(PAIRS, Scorer(level, model), Silent()))) == len(PAIRS)
    monkeypatch.setattr(scoring, "text_row", forgetful)
    with pytest.raises(ValueError, match="without a value: edit_distance"):
        list(score_rows(PAIRS, Scorer(level, model), Silent()))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("edit_distance", None, "column edit_distance has no value in row 7 of the input"),
        ("edit_distance", "near", "column edit_distance holds double"),
        ("chosen_tokens", 1 << 40, "column chosen_tokens holds int32"),
        ("chosen_tokens", 2.5, "column chosen_tokens holds int32"),
        ("truncated", "yes", "column truncated holds bool"),
    ],
)
def test_a_value_that_its_column_cannot_hold_is_refused_by_name(column: str, value: object, message: str) -> None:
    row = text_row(PAIRS[0]) | {"row": 7}
    assert table_of([row], schema("text")).to_pylist() == [row]
    with pytest.raises(ValueError, match=message):
        table_of([row | {column: value}], schema("text"))


def test_only_a_column_that_may_be_empty_holds_null() -> None:
    fields_ = pa.schema([("row", pa.int64()), *((name, pa.float64()) for name in PULL_COLUMNS)])
    empty = table_of([{"row": 0}], fields_)
    assert all(empty[name].null_count == 1 for name in PULL_COLUMNS)


@pytest.mark.parametrize("given", [{"displaces": "lowest"}, {"rank": 3}])
def test_a_score_that_ranks_pairs_says_at_which_end_and_how_well(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="given together"):
        Column("new", pa.float64(), "text", "A score.", **given)

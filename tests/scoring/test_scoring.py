"""Level text and hidden: equal to the slow loop, whatever the batches, the order and the parts."""

from __future__ import annotations

import random

import pytest
import torch

import naive
from tiny import FAMILIES, random_pairs, tiny_hf, tiny_model
from undertow.runs.progress import Silent
from undertow.scoring.levels import schema
from undertow.scoring.scorer import Scorer, score_rows

SCORES = ("ches", "ln_ches", "last_hidden_ip")
PAIRS = random_pairs(12)


def scores(model, pairs, batch_tokens=4096, level="hidden"):
    rows = score_rows(pairs, Scorer(level, model, batch_tokens=batch_tokens), Silent())
    return {row["row"]: row for row in rows}


def assert_close(found, expected, rel) -> None:
    """Relative, or to the column's largest value: a score is a difference of products, and near zero they cancel."""
    assert found.keys() == expected.keys()
    for name in SCORES:
        largest = max(abs(values[name]) for values in expected.values())
        for row, values in expected.items():
            assert found[row][name] == pytest.approx(values[name], rel=rel, abs=rel * largest), (row, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_slow_float64_loop(family: str) -> None:
    model, plain = tiny_model(family, dtype=torch.float64), tiny_hf(family, dtype=torch.float64)
    expected = {
        pair.row: naive.hidden_scores(plain, pair.prompt, pair.chosen, pair.rejected)
        | {"edit_distance": naive.edit_distance(pair.chosen, pair.rejected)}
        for pair in PAIRS
    }
    found = scores(model, PAIRS)
    assert_close(found, expected, 1e-5)  # float32 norms inside transformers
    for row, values in expected.items():
        assert found[row]["edit_distance"] == pytest.approx(values["edit_distance"])


@pytest.mark.parametrize("batch_tokens", [1, 50, 200, 100_000])
def test_same_scores_for_every_token_budget(batch_tokens: int) -> None:
    model = tiny_model("llama")
    assert_close(scores(model, PAIRS, batch_tokens), scores(model, PAIRS, 120), 1e-5)


def test_same_scores_in_every_order_and_partition() -> None:
    model = tiny_model("qwen3")
    shuffled = PAIRS.copy()
    random.Random(1).shuffle(shuffled)
    expected = scores(model, PAIRS)
    assert_close(scores(model, shuffled), expected, 1e-5)
    assert_close(scores(model, PAIRS[:5]) | scores(model, PAIRS[5:]), expected, 1e-5)


def test_one_at_a_time_equals_packed() -> None:
    packed, single = tiny_model("gemma3"), tiny_model("gemma3", packed=False)
    assert (packed.attention, single.attention) == ("tree", "sequence")
    assert_close(scores(packed, PAIRS), scores(single, PAIRS), 1e-5)


def test_text_level_needs_no_model_and_has_its_columns() -> None:
    rows = scores(None, PAIRS, level="text")
    assert list(rows[0]) == schema("text").names
    pair = PAIRS[0]
    assert rows[0]["prompt_tokens"] == len(pair.prompt)
    assert rows[0]["shared_prefix_tokens"] >= 1  # every third pair shares its beginning


def test_columns_are_the_contracts() -> None:
    assert schema("hidden").names == [
        "row", "pair_id", "prompt_tokens", "chosen_tokens", "rejected_tokens", "shared_prefix_tokens", "truncated",
        "duplicate_of", "contradicts", "edit_distance", "ches", "ln_ches", "last_hidden_ip",
    ]  # fmt: skip
    types = {field.name: str(field.type) for field in schema("hidden")}
    assert types["row"] == "int64"
    assert types["chosen_tokens"] == "int32"
    assert types["truncated"] == "bool"
    assert types["ches"] == types["edit_distance"] == "double"


def test_bfloat16_stays_finite_for_long_responses() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    (row,) = scores(model, random_pairs(1, longest=450)).values()
    assert all(torch.isfinite(torch.tensor(row[name])) for name in SCORES)


def test_nan_hidden_embedding_marks_its_pair_only() -> None:
    model = tiny_model("llama")
    poison = PAIRS[4].chosen[0]
    hit = [p.row for p in PAIRS if poison in p.prompt or poison in p.chosen or poison in p.rejected]
    assert 0 < len(hit) < len(PAIRS)
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[poison] = float("nan")
    found = scores(model, PAIRS)
    assert [row for row, values in found.items() if values["last_hidden_ip"] != values["last_hidden_ip"]] == hit

"""Scores of the real models, on real data, against the slow loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import naive
import undertow as ut
from undertow.data.tokens.encoder import PairEncoder


@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_scores_of_real_pairs_equal_the_slow_loop(name: str, request, shared_data: Path) -> None:
    folder = request.getfixturevalue(f"{name}_folder")
    model = ut.load_model(str(folder), dtype="float32")
    assert model.attention == "tree", model.attention_note
    settings = ut.TokenSettings(max_length=160)
    pairs = list(ut.read_pairs(shared_data / "alpaca_eval_pairs.jsonl", limit=6))
    table = ut.audit(pairs, model, tokens=settings).to_pylist()
    model.hf.set_attn_implementation("eager")
    encoder = PairEncoder(model.tokenizer, settings)
    for pair, row in zip(pairs, table, strict=True):
        tokens = encoder.encode(pair)
        states = model.hf.to(torch.float32)
        expected = naive.hidden_scores(states, tokens.prompt, tokens.chosen, tokens.rejected)
        size = abs(expected["ches"]) + abs(expected["last_hidden_ip"])
        assert row["ches"] == pytest.approx(expected["ches"], rel=1e-3, abs=1e-5 * size)
        assert row["ln_ches"] == pytest.approx(expected["ln_ches"], rel=1e-3, abs=1e-2)
        assert row["last_hidden_ip"] == pytest.approx(expected["last_hidden_ip"], rel=1e-3)
        assert row["edit_distance"] == pytest.approx(naive.edit_distance(tokens.chosen, tokens.rejected))


@pytest.mark.model
def test_persona_pairs_by_their_own_columns(smollm2_folder: Path, shared_data: Path) -> None:
    columns = {"prompt": "question", "chosen": "answer_matching_behavior", "rejected": "answer_not_matching_behavior"}
    pairs = ut.read_pairs(shared_data / "persona_ends_justify_means.jsonl", columns=columns, limit=8)
    table = ut.audit(pairs, ut.load_model(str(smollm2_folder)))
    assert len(table) == 8
    assert set(table["chosen_tokens"].to_pylist()) == {2}  # " Yes" or " No", and the end of the turn


@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_products_of_real_pairs_equal_autograd(name: str, request, shared_data: Path) -> None:
    """Float32, relative 1e-3: the two ways add some 10⁵ products a logit in another order."""
    folder = request.getfixturevalue(f"{name}_folder")
    model = ut.load_model(str(folder), dtype="float32")
    settings = ut.TokenSettings(max_length=120)
    pairs = list(ut.read_pairs(shared_data / "alpaca_eval_pairs.jsonl", limit=6))
    table = ut.audit(pairs, model, level="unembedding", tokens=settings).to_pylist()
    model.hf.set_attn_implementation("eager")
    encoder = PairEncoder(model.tokenizer, settings)
    for pair, row in zip(pairs, table, strict=True):
        tokens = encoder.encode(pair)
        expected = naive.unembedding_scores(model.hf, tokens.prompt, tokens.chosen, tokens.rejected)
        for kind in ("gg", "hh"):
            size = (expected[f"{kind}_chosen"] * expected[f"{kind}_rejected"]) ** 0.5
            for part in ("chosen", "cross", "rejected"):
                value = expected[f"{kind}_{part}"]
                assert row[f"{kind}_{part}"] == pytest.approx(value, rel=1e-3, abs=1e-4 * size), (kind, part)
        for side in ("chosen", "rejected"):
            assert row[f"logp_{side}"] == pytest.approx(expected[f"logp_{side}"], rel=1e-4)
        d_w, d_l = row["d_chosen"], row["d_rejected"]
        change = d_w * expected["gg_chosen"] - d_l * expected["gg_cross"]
        assert row["dlogp_chosen"] == pytest.approx(change, rel=1e-3)

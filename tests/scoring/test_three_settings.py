"""The paper's three settings on models: exact where the theorems are, and shown where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import undertow as ut
from tiny import tiny_model, tiny_tokenizer

TEXTS = {"before": "ab", "after": "cde"}


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma3"])
def test_theorems_are_the_unembeddings_products(family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    model.tokenizer = tiny_tokenizer()
    single, last, middle = ut.entanglement.three_settings(model, "the prompt", "X", "Y", **TEXTS)
    for part in ("gg_chosen", "gg_cross", "gg_rejected"):
        assert single.theorem[part] == pytest.approx(single.unembedding[part], rel=1e-9)
    assert single.claims["unembedding"] == (single.unembedding["gg_cross"] <= 0)
    assert single.chosen == ("X",)
    # Corollary 2 with the term that it needs is the measured gap.
    assert last.theorem["gap"] == pytest.approx(last.unembedding["gap"], rel=1e-8)
    assert last.theorem["own"] >= 0
    assert last.claims["full"] == (last.full["gap"] >= 0)
    # Before the first difference both gradients are one, at every level.
    size = abs(middle.full["gg_chosen"])
    for level in ("theorem", "unembedding", "full"):
        assert middle.positions[level].shape == (6,)
        assert middle.positions[level][:2].abs().max() <= 1e-6 * size
    assert middle.positions["theorem"][2] > 0
    assert middle.theorem["gap"] == pytest.approx(middle.positions["theorem"].sum().item())


def test_words_that_begin_alike_are_refused() -> None:
    model = tiny_model("llama")
    model.tokenizer = tiny_tokenizer()
    with pytest.raises(ut.OptionError, match="begin with the same token"):
        ut.entanglement.three_settings(model, "p", "Xa", "Xb")
    with pytest.raises(ut.OptionError, match="no tokens"):
        ut.entanglement.three_settings(model, "", "X", "Y")
    assert [one.name for one in ut.entanglement.three_settings(model, "p", "X", "Y")] == ["single token"]


@pytest.mark.model
def test_on_a_real_model(smollm2_folder: Path) -> None:
    """Single tokens repel, as Theorem 1 has it; one word at the end displaces, which the paper rules out."""
    model = ut.load_model(str(smollm2_folder), dtype="float32")
    words = ("The capital of France is", " Paris", " London")
    single, last = ut.entanglement.three_settings(model, *words, before=" the city of")
    for part in ("gg_chosen", "gg_cross", "gg_rejected"):
        assert single.theorem[part] == pytest.approx(single.unembedding[part], rel=1e-3)
    assert single.claims["unembedding"]
    assert last.theorem["own"] > 0 > last.theorem["gap"]
    assert last.theorem["gap"] == pytest.approx(last.unembedding["gap"], rel=1e-2)
    assert not last.claims["unembedding"] and not last.claims["full"]

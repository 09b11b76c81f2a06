"""Packed rows with tree attention give what single sequences give, for every family."""

from __future__ import annotations

import pytest
import torch

import naive
from tiny import FAMILIES, random_pairs, tiny_hf, tiny_model
from undertow.data.tokens.packing import pack
from undertow.errors import ModelError
from undertow.models import attention, checks
from undertow.models.families import Head, find_backbone, find_head
from undertow.models.forward import pair_states
from undertow.models.model import Model


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_states_equal_single_sequences(family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    assert model.attention == "tree", model.attention_note
    plain = tiny_hf(family, dtype=torch.float64)
    pairs = random_pairs(5)
    (batch,) = pack(pairs)
    with torch.no_grad():
        for states in pair_states(model, batch):
            pair = states.pair
            for found, response in ((states.chosen, pair.chosen), (states.rejected, pair.rejected)):
                expected = naive.hidden_states(plain, pair.prompt, response)[len(pair.prompt) - 1 :]
                # RMSNorm and rotary tables are float32 inside transformers, so float64 does not mean 1e-15.
                assert checks.relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_head_recomputes_the_logits(family: str) -> None:
    model = tiny_model(family, packed=False)
    ids = torch.tensor([[3, 5, 8, 13, 21]])
    hidden = model.backbone(input_ids=ids).last_hidden_state
    assert checks.relative_difference(model.head.logits(hidden), model.hf(input_ids=ids).logits) < 1e-5


def test_scale_and_softcap_are_read_and_tying_is_seen() -> None:
    assert tiny_model("cohere").head.scale == 0.25
    assert tiny_model("granite").head.scale == 0.25
    assert tiny_model("gemma2").head.softcap == 3.0
    assert tiny_model("llama-tied").head.tied
    assert not tiny_model("llama").head.tied


def test_a_head_that_does_not_recompute_the_logits_is_refused() -> None:
    model = tiny_model("cohere", packed=False)
    head = model.head
    model.head = Head(head.weight, head.bias, 1.0, None, head.tied)  # as if logit_scale were overlooked
    with pytest.raises(ModelError, match="cannot be recomputed"):
        checks.check_head(model)


def test_weights_that_are_no_numbers_are_named() -> None:
    model = tiny_model("llama", packed=False)
    checks.check_finite(model.hf, "./sft")
    with torch.no_grad():
        model.head.weight[7] = float("nan")
        model.hf.model.layers[1].self_attn.q_proj.weight[0, :2] = float("-inf")
        model.hf.model.layers[1].self_attn.q_proj.weight[1, 1] = float("nan")
    with pytest.raises(ModelError) as error:
        checks.check_finite(model.hf, "./sft")
    said = str(error.value)
    assert "--model ./sft: its weights are not finite" in said
    assert "model.layers.1.self_attn.q_proj.weight (1 NaN and 2 infinite of 1,024 numbers)" in said
    assert "lm_head.weight (32 NaN of 9,600 numbers)" in said


def test_a_broken_row_of_the_input_embedding_harms_only_its_token() -> None:
    """Whatever tokens the checks are made with."""
    for family in ("llama", "llama-tied"):
        hf = tiny_hf(family)
        with torch.no_grad():
            hf.get_input_embeddings().weight[5:] = float("nan")
        model = Model(family, hf, None, find_backbone(hf), find_head(hf), torch.device("cpu"), torch.float32)
        if family == "llama":
            checks.check_finite(hf, "x")
            checks.check_head(model)
            assert checks.tree_attention_problem(model) is None
            with torch.no_grad():
                hf.get_input_embeddings().weight[:] = float("nan")
        with pytest.raises(ModelError, match=r"model.embed_tokens.weight \(9,\d+ NaN of 9,600 numbers\)"):
            checks.check_finite(hf, "x")


def test_numbers_that_grow_too_large_for_their_type_are_said_to() -> None:
    model = tiny_model("llama", packed=False)
    with torch.no_grad():
        model.head.weight.fill_(3e38)
    checks.check_finite(model.hf, "x")
    with pytest.raises(ModelError, match="logits are not finite, though its weights are.*float32"):
        checks.check_head(model)


def test_a_wrong_packed_pass_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.causal_attention
    monkeypatch.setattr(attention, "causal_attention", lambda *a, offset, **k: right(*a, offset=offset, **k) * 1.1)
    model = tiny_model("llama")
    assert model.attention == "sequence"
    assert "differ from single sequences" in model.attention_note
    (batch,) = pack(random_pairs(2))
    states = list(pair_states(model, batch))
    expected = naive.hidden_states(tiny_hf("llama"), batch.pairs[0].prompt, batch.pairs[0].chosen)
    assert checks.relative_difference(states[0].chosen, expected[len(batch.pairs[0].prompt) - 1 :]) < 1e-5


@pytest.mark.parametrize("window", [None, 5, 200])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_blocks_equal_the_dense_formula(window: int | None, softcap: float | None) -> None:
    torch.manual_seed(0)
    heads, group, n, offset, dim = 2, 3, 300, 37, 8  # three blocks, the last one cut
    q = torch.randn(heads, group, n, dim, dtype=torch.float64)
    k, v = (torch.randn(heads, offset + n, dim, dtype=torch.float64) for _ in range(2))
    scores = torch.einsum("hgnd,hld->hgnl", q, k) * 0.3
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    row, column = torch.arange(offset, offset + n)[:, None], torch.arange(offset + n)[None]
    seen = column <= row
    if window:
        seen &= column > row - window
    dense = torch.einsum("hgnl,hld->hgnd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)
    found = attention.causal_attention(q, k, v, offset=offset, scale=0.3, window=window, softcap=softcap)
    torch.testing.assert_close(found, dense, rtol=1e-12, atol=1e-12)

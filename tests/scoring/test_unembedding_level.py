"""Level ``unembedding``: against autograd through whole models, the laws of the loop, the pull, the what-if curve."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
import torch

import naive
import undertow as ut
from tiny import FAMILIES, random_pairs, tiny_hf, tiny_model
from undertow.auditing.settings import check_loss
from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.maths.losses import by_name, names
from undertow.models.forward import pair_states
from undertow.runs.progress import Silent
from undertow.scoring.columns import PULL_COLUMNS
from undertow.scoring.levels import schema
from undertow.scoring.scorer import Scorer, score_rows
from undertow.scoring.unembedding import PRODUCTS, pull_row, residual_rows, unembedding_row

PAIRS = random_pairs(9)
CHANGES = ("d_chosen", "d_rejected", "dlogp_chosen", "dlogp_rejected", "free_dlogp_chosen", "free_dlogp_rejected")


def scores(model, pairs=PAIRS, **options) -> dict[int, dict]:
    return {row["row"]: row for row in score_rows(pairs, Scorer("unembedding", model, **options), Silent())}


def assert_close(found, expected, names, rel) -> None:
    """Relative, or to the column's largest value: inner products of unlike gradients cancel."""
    assert found.keys() == expected.keys()
    for name in names:
        largest = max(abs(values[name]) for values in expected.values())
        for row, values in expected.items():
            assert found[row][name] == pytest.approx(values[name], rel=rel, abs=rel * largest), (row, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_products_equal_autograd_through_the_whole_model(family: str) -> None:
    """The states are float64 but for the norms inside transformers, which both ways share: hence 1e-6 over the model,
    and 1e-9 from the states on (next test)."""
    model, plain = tiny_model(family, dtype=torch.float64), tiny_hf(family, dtype=torch.float64)
    expected = {p.row: naive.unembedding_scores(plain, p.prompt, p.chosen, p.rejected) for p in PAIRS}
    assert_close(scores(model), expected, next(iter(expected.values())), 1e-6)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma2", "cohere", "granite"])
def test_products_equal_autograd_from_the_states_on(family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    head = model.hf.get_output_embeddings()
    (batch,) = pack(PAIRS, 10_000)
    for states in pair_states(model, batch):
        row = unembedding_row(states, model.head, ut.losses.DPO())
        gradients = []
        for hidden, ids in ((states.chosen, states.pair.chosen), (states.rejected, states.pair.rejected)):
            weight = head.weight.detach().clone().requires_grad_()
            with torch.enable_grad():
                z = hidden[:-1] @ weight.T
                cap = model.head.softcap
                z = model.head.scale * (z if cap is None else cap * torch.tanh(z / cap))
                logp = z.log_softmax(-1)[range(len(ids)), list(ids)].sum()
                gradients.append(torch.autograd.grad(logp, weight)[0])
        g_w, g_l = gradients
        size = float((g_w * g_w).sum() + (g_l * g_l).sum())
        for name, value in (("gg_chosen", g_w * g_w), ("gg_cross", g_w * g_l), ("gg_rejected", g_l * g_l)):
            assert row[name] == pytest.approx(float(value.sum()), rel=1e-9, abs=1e-9 * size), name


def test_same_numbers_for_every_budget_order_and_partition() -> None:
    model = tiny_model("gemma3")
    expected = scores(model)
    shuffled = PAIRS.copy()
    random.Random(2).shuffle(shuffled)
    for found in (
        scores(model, batch_tokens=1),
        scores(model, batch_tokens=90),
        scores(model, shuffled),
        scores(model, PAIRS[:4]) | scores(model, PAIRS[4:]),
    ):
        assert_close(found, expected, PRODUCTS + CHANGES, 1e-5)


def test_weights_changes_and_cases_are_those_of_the_loss() -> None:
    model, other = tiny_model("llama"), tiny_model("llama-tied")
    loss = ut.losses.ConservativeDPO(beta=0.3, epsilon=0.2)
    found, ref = scores(model, loss=loss, reference=other), scores(other)
    for row, values in found.items():
        one = {
            key: torch.tensor([value], dtype=torch.float64)
            for key, value in (
                ("chosen", values["logp_chosen"]),
                ("rejected", values["logp_rejected"]),
                ("ref_chosen", ref[row]["logp_chosen"]),
                ("ref_rejected", ref[row]["logp_rejected"]),
            )
        }
        d_w, d_l = (weight.item() for weight in loss.weights(ut.Logps(**one)))
        assert (values["d_chosen"], values["d_rejected"]) == pytest.approx((d_w, d_l), rel=1e-5)
        a = d_w * values["gg_chosen"] - d_l * values["gg_cross"]
        b = d_w * values["gg_cross"] - d_l * values["gg_rejected"]
        assert (values["dlogp_chosen"], values["dlogp_rejected"]) == pytest.approx((a, b), rel=1e-4, abs=1e-6)
        free = a + d_w * values["hh_chosen"] - d_l * values["hh_cross"]
        assert values["free_dlogp_chosen"] == pytest.approx(free, rel=1e-4, abs=1e-6)
        if d_w > 0 and d_l > 0:
            assert values["case"] == (2 if a < 0 else 3 if b > 0 else 1)


def test_without_a_reference_the_model_is_its_own() -> None:
    found = scores(tiny_model("llama"), loss=ut.losses.DPO(beta=0.1))
    assert {(row["d_chosen"], row["d_rejected"]) for row in found.values()} == {(0.05, 0.05)}


@pytest.mark.parametrize("name", [name for name in names() if name not in ("rebel",)])
def test_every_loss_can_be_asked_for(name: str) -> None:
    loss = by_name(name)
    check_loss(loss)
    found = scores(tiny_model("llama"), PAIRS[:3], loss=loss)
    assert all(np.isfinite(row[column]) for row in found.values() for column in CHANGES), name


def test_columns_and_types_are_the_contracts() -> None:
    types = {field.name: str(field.type) for field in schema("unembedding", pull=True)}
    assert list(types)[13:] == [
        "logp_chosen", "logp_rejected", "gg_chosen", "gg_cross", "gg_rejected", "hh_chosen", "hh_cross", "hh_rejected",
        "alpha_positive", "d_chosen", "d_rejected", "dlogp_chosen", "dlogp_rejected", "case", "free_dlogp_chosen",
        "free_dlogp_rejected", "free_case", *PULL_COLUMNS,
    ]  # fmt: skip
    assert types["case"] == types["free_case"] == "int8"
    assert list(scores(tiny_model("llama"), PAIRS[:1])[PAIRS[0].row]) == list(types)[: -len(PULL_COLUMNS)]


def test_single_token_pairs_are_displaced_by_the_hidden_part_only() -> None:
    """Theory 4.2: with equal weights ``gg`` says case 1 for every single-token pair; the geometry of instance S, where
    the rejected token's row points the way of the chosen one's and is longer, displaces through ``hh``."""
    model = tiny_model("llama")
    pairs = [TokenPair(n, f"{n:016x}", (1, 20 + n), (30 + n,), (130 + n,), False) for n in range(40)]
    with torch.no_grad():
        model.head.weight[30:70] *= 10
        model.head.weight[130:170] = 2 * model.head.weight[30:70]
    found = scores(model, pairs).values()
    assert {row["case"] for row in found} == {1}
    assert 2 in {row["free_case"] for row in found}


def test_a_pair_that_is_not_finite_has_case_minus_one_and_leaves_the_update_alone() -> None:
    model = tiny_model("llama")
    update = torch.zeros_like(model.head.weight)
    poison = PAIRS[4].prompt[0]
    # The last token of a response predicts nothing: its state is in no inner product.
    hit = {p.row for p in PAIRS if poison in p.prompt + p.chosen[:-1] + p.rejected[:-1]}
    assert 0 < len(hit) < len(PAIRS)
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[poison] = float("nan")
    rows = list(score_rows(PAIRS, Scorer("unembedding", model), Silent(), update))
    assert {row["row"] for row in rows if row["case"] == -1} == hit
    assert torch.isfinite(update).all()
    assert update.abs().sum() > 0


def test_pull_is_the_sum_over_all_pairs() -> None:
    """Theory 4.3 on 20 pairs: pull_i = (1/|D|) Σ_j (d_w,j ⟨g_i, g_w,j⟩ − d_l,j ⟨g_i, g_l,j⟩), by autograd."""
    pairs, loss = random_pairs(20), ut.losses.DPO(beta=0.5)
    model = tiny_model("gemma2", dtype=torch.float64)
    plain, other = tiny_hf("gemma2", dtype=torch.float64), tiny_model("gemma3", dtype=torch.float64)
    scorer = Scorer("unembedding", model, loss, reference=other, batch_tokens=300)
    update = scorer.no_update()
    rows = list(score_rows(pairs, scorer, Silent(), update))
    update /= len(pairs)
    sides = [[naive.response_gradients(plain, p.prompt, y)[1] for y in (p.chosen, p.rejected)] for p in pairs]
    parts = (r["d_chosen"] * g_w - r["d_rejected"] * g_l for r, (g_w, g_l) in zip(rows, sides, strict=True))
    whole = sum(parts) / len(pairs)
    (batch,) = pack(pairs, 100_000)
    for states, row, gradients in zip(pair_states(model, batch), rows, sides, strict=True):
        own = row["dlogp_chosen"] / len(pairs), row["dlogp_rejected"] / len(pairs)
        found = pull_row(states, model.head, update, own)
        for name, gradient in zip(("pull", "pull_rejected"), gradients, strict=True):
            total = float((gradient * whole).sum())
            assert found[f"{name}_own"] + found[f"{name}_others"] == pytest.approx(total, rel=1e-6, abs=1e-6)
        assert found["pull_own"] == own[0]


def test_audit_with_pull_in_memory_and_its_parts() -> None:
    model = tiny_model("llama")
    update = torch.zeros_like(model.head.weight)
    rows = list(score_rows(PAIRS, Scorer("unembedding", model), Silent(), update))
    signed = torch.zeros_like(update)
    (batch,) = pack(PAIRS, 10_000)
    for states, row in zip(pair_states(model, batch), rows, strict=True):
        residual = residual_rows(states, model.head)
        n = states.pair.chosen_tokens
        weights = torch.cat(
            [torch.full((n,), row["d_chosen"]), torch.full((len(residual.tokens) - n,), -row["d_rejected"])]
        )
        signed += (residual.rows() * weights[:, None]).T @ residual.states
    assert torch.allclose(update, signed, rtol=1e-4, atol=1e-5)


def test_what_if_is_the_share_of_those_that_stay() -> None:
    table = pa.table({"ln_ches": [5.0, 4.0, 3.0, 2.0, 1.0], "dlogp_chosen": [-1.0, -1.0, 1.0, -1.0, 1.0]})
    assert ut.what_if(table, "ln_ches", shares=[0, 0.2, 0.4, 0.6]) == pytest.approx([0.6, 0.5, 1 / 3, 0.5])
    assert ut.what_if(table, "dlogp_chosen", shares=[0, 0.2, 0.4, 0.6]) == pytest.approx([0.6, 0.5, 1 / 3, 0])
    with pytest.raises(ut.OptionError, match="no column free_dlogp_chosen"):
        ut.what_if(table, "ln_ches", change="free_dlogp_chosen")
    with pytest.raises(ut.OptionError, match="expected one of forecast_chosen, pull, full_dlogp_chosen, dlogp_chosen"):
        ut.what_if(table, "row")

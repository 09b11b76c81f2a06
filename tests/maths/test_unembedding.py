"""Inner products at the unembedding matrix: against automatic differentiation, golden numbers, and their own laws."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undertow.maths.residuals import residuals
from undertow.maths.unembedding import (
    PairProducts,
    accumulate_update,
    heatmap,
    negative_scores,
    pair_products,
    pair_products_direct,
    pull,
    token_products,
)

# Instance G: theory 2.4; its values in 3.7 and 4.5 were worked out by hand and by float64 autograd.
W = torch.tensor([[0.5, -0.2], [0.1, 0.4], [-0.3, 0.6], [0.2, -0.5]], dtype=torch.float64)
H_CHOSEN = torch.tensor([[1, 0.5], [0.6, -0.4]], dtype=torch.float64)
H_REJECTED = torch.tensor([[1, 0.5], [0.8, 0.3], [-0.2, 0.9]], dtype=torch.float64)
CHOSEN, REJECTED = torch.tensor([0, 2]), torch.tensor([1, 3, 2])
G = (H_CHOSEN, H_REJECTED, W, CHOSEN, REJECTED)


def values(products: PairProducts) -> dict[str, float]:
    found = {f.name: getattr(products, f.name) for f in fields(products)}
    return {name: value.item() for name, value in found.items() if value is not None}


def close(found: dict[str, float], expected: dict[str, float], relative: float = 1e-9) -> None:
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=relative, abs=relative), name


def random_pair(
    seed: int, *, V: int = 11, d: int = 4, longest: int = 5
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A pair with states that depend on the context alone, so that a shared prefix has shared states."""
    g = torch.Generator().manual_seed(seed)
    n_w, n_l = (int(torch.randint(1, longest + 1, (), generator=g)) for _ in range(2))
    ids_w, ids_l = (torch.randint(0, V, (n,), generator=g) for n in (n_w, n_l))
    same = int(torch.randint(0, min(n_w, n_l) + 1, (), generator=g))
    ids_l[:same] = ids_w[:same]
    contexts: dict[tuple[int, ...], Tensor] = {}
    states = [
        torch.stack(
            [
                contexts.setdefault(tuple(ids[:k].tolist()), torch.randn(d, generator=g, dtype=torch.float64))
                for k in range(len(ids))
            ]
        )
        for ids in (ids_w, ids_l)
    ]
    return states[0], states[1], torch.randn(V, d, generator=g, dtype=torch.float64), ids_w, ids_l


def by_autograd(
    H_w: Tensor, H_l: Tensor, weights: Tensor, ids_w: Tensor, ids_l: Tensor, *, bias=None, scale=1.0, softcap=None
) -> dict[str, float]:
    """The specification: a model whose parameters are ``W`` and one free vector for every distinct context."""
    free = weights.clone().requires_grad_()
    contexts: dict[tuple[int, ...], Tensor] = {}

    def logp(H: Tensor, ids: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for k in range(len(ids)):
            h = contexts.setdefault(tuple(ids[:k].tolist()), H[k].clone().requires_grad_())
            u = free @ h + (0 if bias is None else bias)
            z = scale * (u if softcap is None else softcap * torch.tanh(u / softcap))
            total = total + z.log_softmax(-1)[ids[k]]
        return total

    a, b = logp(H_w, ids_w), logp(H_l, ids_l)
    parameters = [free, *contexts.values()]

    def gradients(value: Tensor) -> list[Tensor]:
        return torch.autograd.grad(value, parameters, materialize_grads=True)

    g_w, g_l = gradients(a), gradients(b)
    out = {"logp_chosen": a.item(), "logp_rejected": b.item()}
    for name, left, right in (("chosen", g_w, g_w), ("cross", g_w, g_l), ("rejected", g_l, g_l)):
        out[f"gg_{name}"] = (left[0] * right[0]).sum().item()
        out[f"hh_{name}"] = sum((x * y).sum().item() for x, y in zip(left[1:], right[1:], strict=True))
    return out


def test_golden_instance_g() -> None:
    close(
        values(pair_products(*G)),
        {
            "logp_chosen": -3.0690375313,
            "logp_rejected": -3.7035090834,
            "gg_chosen": 1.0733172396,
            "gg_cross": -1.1655179172,
            "gg_rejected": 1.3418859534,
            "hh_chosen": 0.8697738984,
            "hh_cross": -0.1100900489,
            "hh_rejected": 0.6396197821,
            "alpha_positive": 3 / 10,
        },
    )


def test_golden_coefficients_and_heat_map() -> None:
    tokens = token_products(*G)
    alpha_w = torch.tensor([[0.6366067647, -0.2863239649], [-0.2863239649, 0.9742652994]], dtype=torch.float64)
    alpha_l = torch.tensor(
        [[-0.3337732752, -0.2479847283, -0.1266263965], [-0.1596687487, -0.2620537809, 0.6726091075]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(tokens.alpha_chosen, alpha_w, rtol=0, atol=1e-10)
    torch.testing.assert_close(tokens.alpha_cross, alpha_l, rtol=0, atol=1e-10)
    expected = torch.tensor(
        [[-0.4172165940, -0.2355854919, -0.0316565991], [-0.0638674995, -0.0943393611, -0.3228523716]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(heatmap(tokens), expected, rtol=0, atol=1e-10)
    logps = [-1.1671383539, -1.9018991774, -1.2671383539, -1.5112982736, -0.9250724559]
    torch.testing.assert_close(tokens.logps, torch.tensor(logps, dtype=torch.float64), rtol=0, atol=1e-10)


def test_golden_shared_first_token() -> None:
    """G2 of theory 3.7: the first token is the same, so the first two contexts are shared."""
    H_l = torch.tensor([[1, 0.5], [0.6, -0.4], [-0.2, 0.9]], dtype=torch.float64)
    close(
        values(pair_products(H_CHOSEN, H_l, W, CHOSEN, torch.tensor([0, 3, 1]))),
        {
            "gg_chosen": 1.0733172396,
            "gg_cross": 0.6065780694,
            "gg_rejected": 1.5086198436,
            "hh_chosen": 0.8697738984,
            "hh_cross": -0.0986594797,
            "hh_rejected": 0.4186452826,
        },
    )


def test_golden_instance_s_displaces_only_through_the_hidden_embedding() -> None:
    """Theory 4.2: at the level of W the single-token pair is case 1, with free features both responses fall."""
    W_s = torch.tensor([[2, 0], [4, 0.5], [-1, 1]], dtype=torch.float64)
    h = torch.tensor([[-0.2, 0.1]], dtype=torch.float64)
    found = values(pair_products(h, h, W_s, torch.tensor([0]), torch.tensor([1])))
    close(
        found,
        {
            "gg_chosen": 0.0431831803,
            "gg_cross": -0.0028459092,
            "gg_rejected": 0.0511250012,
            "hh_chosen": 1.9565438378,
            "hh_cross": 4.1296900435,
            "hh_rejected": 10.5528362493,
        },
    )
    at_w = [0.05 * (found["gg_chosen"] - found["gg_cross"]), 0.05 * (found["gg_cross"] - found["gg_rejected"])]
    free = [
        at_w[0] + 0.05 * (found["hh_chosen"] - found["hh_cross"]),
        at_w[1] + 0.05 * (found["hh_cross"] - found["hh_rejected"]),
    ]
    assert at_w == pytest.approx([0.0023014545, -0.0026985455], abs=1e-10)
    assert free == pytest.approx([-0.1063558558, -0.3238558558], abs=1e-10)


HEADS = [
    {},
    {"bias": True},
    {"scale": 0.25},
    {"softcap": 2.0},
    {"bias": True, "scale": 1.7, "softcap": 1.5},
]


@pytest.mark.parametrize("head", HEADS, ids=str)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), chunk=st.integers(1, 12))
def test_both_routes_equal_autograd(head: dict, seed: int, chunk: int) -> None:
    pair = random_pair(seed)
    options = dict(head)
    if head.get("bias"):
        options["bias"] = torch.randn(11, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    expected = by_autograd(*pair, **options)
    close(values(pair_products(*pair, **options, chunk=chunk)), expected)
    close(values(pair_products_direct(*pair, **options, chunk=chunk)), expected)


def test_head_options_change_the_result() -> None:
    """Each option acts: otherwise the parity above could hold with the option ignored on both sides."""
    plain = pair_products(*G).gg_chosen
    for options in ({"scale": 0.5}, {"softcap": 1.0}, {"bias": torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)}):
        assert abs(pair_products(*G, **options).gg_chosen - plain) > 1e-3, options


def test_no_chunk_size_changes_anything() -> None:
    pair = random_pair(5, V=37, longest=6)
    whole = values(pair_products(*pair, chunk=37))
    for chunk in (1, 2, 5, 36, 1000):
        close(values(pair_products(*pair, chunk=chunk)), whole, 1e-12)


def test_swapping_the_responses_swaps_the_numbers() -> None:
    H_w, H_l, W_r, ids_w, ids_l = random_pair(3)
    there = values(pair_products(H_w, H_l, W_r, ids_w, ids_l))
    back = values(pair_products(H_l, H_w, W_r, ids_l, ids_w))
    for kind in ("gg", "hh"):
        assert there[f"{kind}_cross"] == pytest.approx(back[f"{kind}_cross"], rel=1e-12)
        assert there[f"{kind}_chosen"] == pytest.approx(back[f"{kind}_rejected"], rel=1e-12)
    assert there["logp_chosen"] == pytest.approx(back["logp_rejected"], rel=1e-12)


def test_heat_map_sums_to_the_cross_product_and_its_cosines_are_cosines() -> None:
    pair = random_pair(8)
    tokens = token_products(*pair)
    assert heatmap(tokens).sum().item() == pytest.approx(pair_products(*pair).gg_cross.item(), rel=1e-12)
    spared = negative_scores(tokens)
    assert spared.shape == (len(pair[4]),)
    assert spared.sum().item() == pytest.approx(pair_products(*pair).gg_cross.item(), rel=1e-12)
    H_w, H_l, W_r, ids_w, ids_l = pair
    R = residuals(torch.cat([H_w, H_l]), W_r, torch.cat([ids_w, ids_l])).rows()
    n = len(ids_w)
    grads = [torch.outer(r, h).reshape(-1) for r, h in zip(R, torch.cat([H_w, H_l]), strict=True)]
    naive = torch.stack([torch.stack([torch.cosine_similarity(a, b, 0) for b in grads[n:]]) for a in grads[:n]])
    torch.testing.assert_close(heatmap(tokens, cosine=True), naive, rtol=1e-9, atol=1e-12)
    zero = token_products(torch.zeros_like(H_w), H_l, W_r, ids_w, ids_l)
    assert heatmap(zero, cosine=True).abs().max().item() == 0


def test_pull_is_the_sum_of_pairwise_inner_products() -> None:
    """Theory 4.3: ⟨∇a_i, Ḡ⟩ = (1/|D|) Σ_j (d_w,j gg(y⁺_i, y⁺_j) − d_l,j gg(y⁺_i, y⁻_j)), own pair included."""
    pairs = [random_pair(seed) for seed in range(20, 24)]
    W_r = pairs[0][2]
    weights = [(0.05, 0.04), (0.07, 0.01), (-0.02, 0.03), (0.0, 0.06)]
    total = torch.zeros_like(W_r)
    for (H_w, H_l, _, ids_w, ids_l), (d_w, d_l) in zip(pairs, weights, strict=True):
        rows = residuals(torch.cat([H_w, H_l]), W_r, torch.cat([ids_w, ids_l]), chunk=3)
        signed = torch.tensor([d_w] * len(ids_w) + [-d_l] * len(ids_l), dtype=torch.float64)
        accumulate_update(total, rows, signed)
    total /= len(pairs)
    for i, (H_w, _, _, ids_w, _) in enumerate(pairs):
        parts = []
        for (J_w, J_l, _, jds_w, jds_l), (d_w, d_l) in zip(pairs, weights, strict=True):
            same = pair_products(H_w, J_w, W_r, ids_w, jds_w).gg_cross.item()
            other = pair_products(H_w, J_l, W_r, ids_w, jds_l).gg_cross.item()
            parts.append((d_w * same - d_l * other) / len(pairs))
        assert pull(total, residuals(H_w, W_r, ids_w, chunk=4)).sum().item() == pytest.approx(sum(parts), rel=1e-9), i
        d_w, d_l = weights[i]
        own = pair_products(*pairs[i][:2], W_r, *pairs[i][3:])
        assert parts[i] == pytest.approx((d_w * own.gg_chosen - d_l * own.gg_cross).item() / len(pairs), rel=1e-9)


def test_no_gradient_graph_is_kept() -> None:
    H_w, H_l, W_r, ids_w, ids_l = random_pair(2)
    found = pair_products(H_w.requires_grad_(), H_l, W_r.requires_grad_(), ids_w, ids_l)
    assert not found.gg_chosen.requires_grad


def test_single_entry_vocabulary_has_nothing_to_learn() -> None:
    h = torch.ones(1, 2, dtype=torch.float64)
    found = values(pair_products(h, h, torch.ones(1, 2, dtype=torch.float64), torch.tensor([0]), torch.tensor([0])))
    assert found["logp_chosen"] == 0 and found["gg_chosen"] == 0 and found["hh_chosen"] == 0

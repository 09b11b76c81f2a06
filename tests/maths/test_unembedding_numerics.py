"""Confident tokens, small types and wrong inputs, for the inner products at the unembedding matrix."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from undertow.maths import residuals as maths_residuals
from undertow.maths.residuals import residuals
from undertow.maths.unembedding import (
    PairProducts,
    accumulate_update,
    pair_products,
    pair_products_direct,
    pull,
    token_products,
)


def values(products: PairProducts) -> dict[str, float]:
    return {f.name: getattr(products, f.name).item() for f in fields(products)}


def random_pair(dtype: torch.dtype, *, V: int, d: int, seed: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    H_w, H_l, W = (torch.randn(n, d, generator=g).to(dtype) for n in (4, 5, V))
    return H_w, H_l, W, torch.randint(0, V, (4,), generator=g), torch.randint(0, V, (5,), generator=g)


def test_confident_token_in_float32() -> None:
    """Theory 4.3: logit 25 against 999 zeros. ‖R‖² = q²(1 + 1/999), q = 999/(999 + e²⁵); both naive forms lose it."""
    miss = 999 / (999 + math.exp(25))
    exact = miss**2 * (1 + 1 / 999)
    assert exact == pytest.approx(1.9268e-16, rel=1e-4, abs=0)
    W_c = torch.zeros(1000, 1)
    W_c[7] = 25.0
    h = torch.ones(1, 1)
    tokens = token_products(h, h, W_c, torch.tensor([7]), torch.tensor([8]), chunk=300)
    assert tokens.alpha_chosen.dtype == torch.float32
    # Float32 numbers near 25 are 1.9e-6 apart, which is the relative error of what is exponentiated.
    assert tokens.alpha_chosen.item() == pytest.approx(exact, rel=5e-6, abs=0)
    assert tokens.logps[0].item() == pytest.approx(math.log1p(-miss), rel=5e-6, abs=0)
    p = (W_c @ h[0]).softmax(0)
    assert (1 - 2 * p[7] + p.square().sum()).item() == pytest.approx(0, abs=1e-20)


def test_saturated_soft_cap_keeps_its_slope() -> None:
    """1 − tanh²(20) is 0 in float64; the slope there is 4/e⁴⁰ to 16 digits, and so is the row's entry."""
    W_c = torch.tensor([[20.0], [0.0]], dtype=torch.float64)
    rows = residuals(torch.ones(1, 1, dtype=torch.float64), W_c, torch.tensor([0]), softcap=1.0).rows()
    miss = 1 / (1 + math.e)
    assert rows[0, 0].item() == pytest.approx(4 * math.exp(-40) * miss, rel=1e-12, abs=0)


def test_bfloat16_is_upcast() -> None:
    half = random_pair(torch.bfloat16, V=50, d=16)
    exact = [t.double() if t.is_floating_point() else t for t in half]
    found, expected = values(pair_products(*half)), values(pair_products(*exact))
    # The bfloat16 numbers themselves are the data; only float32 rounding may remain, far below bfloat16's 4e-3.
    assert found == pytest.approx(expected, rel=2e-5, abs=2e-5)


def test_a_program_that_allows_low_precision_does_not_lower_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 or bfloat16 products, where a program allows them, are off inside and as before afterwards."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has one switch only, without a name for what it is set to")
    seen: list[str] = []
    plain = maths_residuals._pre_activations

    def settings() -> list[str]:
        return [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]

    def watched(*args):
        seen.extend(settings())
        return plain(*args)

    monkeypatch.setattr(maths_residuals, "_pre_activations", watched)
    pair = random_pair(torch.float32, V=300, d=64)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        allowed = settings()
        assert "ieee" not in allowed
        products = pair_products(*pair)
        total = torch.zeros_like(pair[2])
        rows = residuals(pair[0], pair[2], pair[3])
        accumulate_update(total, rows, torch.ones(len(pair[3])))
        pull(total, rows)
        pair_products_direct(*pair)
        assert settings() == allowed
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(seen) == 2 * 7 and set(seen) == {"ieee"}
    assert values(products) == values(pair_products(*pair))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen_ids": torch.tensor([0, 9])}, r"0\.\.3, got 0\.\.9"),
        ({"chosen_ids": torch.tensor([0])}, r"chosen: states .*\(2, 2\) and \(1,\)"),
        ({"rejected_states": torch.ones(0, 2), "rejected_ids": torch.zeros(0, dtype=torch.long)}, "rejected: .* n ≥ 1"),
        ({"unembedding": torch.ones(4, 1)}, r"\(5, 2\) and \(4, 1\)"),
        ({"bias": torch.zeros(3)}, r"bias must be \[V\] = \(4,\)"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"softcap": -1.0}, "softcap must be positive"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    good = (torch.ones(2, 2), torch.ones(3, 2), torch.ones(4, 2), torch.tensor([0, 2]), torch.tensor([1, 3, 2]))
    names = ("chosen_states", "rejected_states", "unembedding", "chosen_ids", "rejected_ids")
    with pytest.raises(ValueError, match=message):
        pair_products(**(dict(zip(names, good, strict=True)) | change))


def test_bfloat16_factors_change_digits_and_no_more() -> None:
    """Eight bits of mantissa in every factor: a few percent in each number, and the order of pairs stays."""
    pairs = [random_pair(torch.float32, V=300, d=64, seed=seed) for seed in range(24)]
    exact = [values(pair_products(*pair)) for pair in pairs]
    rough = [values(pair_products(*pair, products=torch.bfloat16)) for pair in pairs]
    assert rough != exact
    for name in exact[0]:
        a, b = (np.array([found[name] for found in table]) for table in (exact, rough))
        assert spearmanr(a, b).statistic > 0.98, name
        assert np.abs(a - b).max() < 0.05 * np.abs(a).max(), name

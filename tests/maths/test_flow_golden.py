"""Golden numbers of the free-feature rates, the projection, and the order of the tokens that gain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from free_features import FreeFeatures
from undertow import flow

SEEDS = st.integers(0, 2**31)
some = settings(max_examples=25, deadline=None)


def instance_g() -> FreeFeatures:
    """Theory 2.4."""
    model = FreeFeatures(0, V=4, d=2)
    model.W = torch.tensor([[0.5, -0.2], [0.1, 0.4], [-0.3, 0.6], [0.2, -0.5]], dtype=torch.float64).requires_grad_()
    for context, h in {(): [1, 0.5], (0,): [0.6, -0.4], (1,): [0.8, 0.3], (1, 3): [-0.2, 0.9]}.items():
        model.put(context, h)
    return model


def test_golden_theorems_4_and_5() -> None:
    model = instance_g()
    inputs = (model.W.detach(), model.state(()).detach(), torch.tensor(0), torch.tensor(1))
    found = flow.chosen_token_rate(*inputs, weight=0.05)
    assert [found.m.item(), found.S.item(), found.rate.item()] == pytest.approx(
        [1.4605888917, 0.0538422529, 0.0757215572], abs=1e-10
    )
    others = flow.other_token_rates(*inputs, weight=0.05)
    assert others.c.item() == pytest.approx(-0.0555688554, abs=1e-10)
    assert others.geometry[2:].tolist() == pytest.approx([-0.48, 0.38], abs=1e-10)
    assert others.rate[2:].tolist() == pytest.approx([-0.0267784428, 0.0162215572], abs=1e-10)


def test_golden_theorem_6() -> None:
    model = instance_g()
    found = flow.chosen_rate(model.W.detach(), model.response((), (0, 2)), model.response((), (1, 3, 2)), weight=0.05)
    terms = [found.m, found.S, found.rejected_overlap.sum(), found.chosen_overlap.sum(), found.bracket, found.rate]
    assert [t.item() for t in terms] == pytest.approx(
        [0.9260216944, 0.0538422529, -1.1655179172, 1.0733172396, 3.2186991040, 0.1609349552], abs=1e-10
    )


def test_golden_shared_first_token() -> None:
    """G2 of theory 3.7."""
    model = instance_g()
    model.put((0, 3), [-0.2, 0.9])
    y_w, y_l = model.response((), (0, 2)), model.response((), (0, 3, 1))
    assert flow.chosen_rate(model.W.detach(), y_w, y_l).bracket.item() == pytest.approx(1.4351725482, abs=1e-10)
    products = [flow.inner_product(model.W.detach(), u, v) for u, v in ((y_w, y_w), (y_w, y_l), (y_l, y_l))]
    assert [p.gg.item() for p in products] == pytest.approx([1.0733172396, 0.6065780694, 1.5086198436], abs=1e-10)
    assert [p.hh.item() for p in products] == pytest.approx([0.8697738984, -0.0986594797, 0.4186452826], abs=1e-10)


def test_golden_displaced_single_token() -> None:
    """Instance S of theory 4.2: both tokens of the pair fall and the third one takes what they lose."""
    W = torch.tensor([[2, 0], [4, 0.5], [-1, 1]], dtype=torch.float64)
    inputs = (W, torch.tensor([-0.2, 0.1], dtype=torch.float64), torch.tensor(0), torch.tensor(1))
    rates = [
        flow.chosen_token_rate(*inputs, weight=0.05).rate.item(),
        flow.rejected_token_rate(*inputs, weight=0.05).rate.item(),
        flow.other_token_rates(*inputs, weight=0.05).rate[2].item(),
    ]
    assert rates == pytest.approx([-0.1063558558, -0.3238558558, 0.1661441442], abs=1e-10)


def test_golden_projection() -> None:
    """Theory 7, with + = 0 and − = 1 of G."""
    W = instance_g().W.detach()
    found = flow.project(W[0], W[1])
    assert [found.parallel.item(), found.orthogonal.item(), found.norm.item()] == pytest.approx(
        [0.5942250822, 0.4085297440, 0.7211102551], abs=1e-10
    )


def test_most_gaining_tokens_are_ordered_by_theorem_5() -> None:
    model = FreeFeatures(3, V=9)
    W, h = model.W.detach(), model.state(()).detach()
    rates = flow.other_token_rates(W, h, torch.tensor(2), torch.tensor(5), weight=0.4)
    best = flow.most_gaining_tokens(W, h, 2, 5, weight=0.4, top=3, decode=lambda z: f"<{z}>")
    expected = sorted((z for z in range(9) if z not in (2, 5)), key=lambda z: -rates.geometry[z].item())
    assert [t.token for t in best] == expected[:3]
    assert [t.text for t in best] == [f"<{z}>" for z in expected[:3]]
    assert [t.rate for t in best] == [rates.rate[z].item() for z in expected[:3]]
    by_probability = flow.most_gaining_tokens(W, h, 2, 5, weight=0.4, top=99, by="probability_rate")
    assert [t.probability_rate for t in by_probability] == sorted(
        (rates.probability_rate[z].item() for z in expected), reverse=True
    )
    assert len(by_probability) == 7 and by_probability[0].text is None
    assert [t.token for t in by_probability] != expected  # the option acts
    with pytest.raises(ValueError, match="by must be"):
        flow.most_gaining_tokens(W, h, 2, 5, by="gain")  # type: ignore[arg-type]


@some
@given(seed=SEEDS)
def test_projection_squares_add_up(seed: int) -> None:
    plus, minus = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plus[0] = 0
    found = flow.project(plus, minus)
    torch.testing.assert_close(found.parallel.square() + found.orthogonal.square(), found.norm.square())
    assert found.parallel[0] == 0 and found.orthogonal[0] == found.norm[0]

"""Theorems 4 to 9 and Propositions 1 and 2: every rate equals the derivative of the free-features model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from free_features import FreeFeatures, logistic
from undertow import flow

SEEDS = st.integers(0, 2**31)
some = settings(max_examples=25, deadline=None)


def close(found: object, expected: float) -> None:
    """1e-9 relative, as float64 allows after a few cancellations of numbers of order one."""
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-10)


@some
@given(seed=SEEDS)
def test_theorems_4_and_5(seed: int) -> None:
    model = FreeFeatures(seed)
    plus, minus = torch.randperm(model.V, generator=model.generator)[:2]
    loss, weight_of = logistic(0.7)
    logps = (model.W @ model.state(())).log_softmax(-1)
    margin = logps[plus] - logps[minus]
    inputs = (model.W.detach(), model.state(()).detach(), plus, minus)
    weight = weight_of(margin.detach())
    chosen = flow.chosen_token_rate(*inputs, weight=weight)
    close(chosen.rate, model.rate(loss(margin), logps[plus]))
    assert chosen.m >= 0
    close(flow.rejected_token_rate(*inputs, weight=weight).rate, model.rate(loss(margin), logps[minus]))
    others = flow.other_token_rates(*inputs, weight=weight)
    for z in range(model.V):
        if z in (plus, minus):
            assert others.rate[z].isnan()
        else:
            close(others.rate[z], model.rate(loss(margin), logps[z]))
            close(others.probability_rate[z], model.rate(loss(margin), logps[z].exp()))


@some
@given(seed=SEEDS)
def test_theorem_6_with_and_without_a_shared_prefix(seed: int) -> None:
    model = FreeFeatures(seed)
    y_w, y_l = model.pair()
    loss, weight_of = logistic(0.7)
    a, b = model.logp((), y_w), model.logp((), y_l)
    found = flow.chosen_rate(
        model.W.detach(), model.response((), y_w), model.response((), y_l), weight=weight_of((a - b).detach())
    )
    close(found.rate, model.rate(loss(a - b), a))
    assert found.alpha_chosen.abs().max() <= 2 and found.alpha_rejected.abs().max() <= 2


PREFIX_CASES = {
    "differ at the first token": ((0, 1), (2, 1, 3), 1),
    "differ after two": ((0, 1, 2), (0, 1, 3, 4), 3),
    "rejected is a prefix of chosen": ((0, 1, 2, 0), (0, 1), 3),
    "chosen is a prefix of rejected": ((0, 1), (0, 1, 2), 3),
}


@pytest.mark.parametrize(("y_w", "y_l", "s"), PREFIX_CASES.values(), ids=PREFIX_CASES)
def test_shared_prefix_cases(y_w: tuple, y_l: tuple, s: int) -> None:
    model = FreeFeatures(4)
    loss, weight_of = logistic(1.3)
    a, b = model.logp((), y_w), model.logp((), y_l)
    found = flow.chosen_rate(
        model.W.detach(), model.response((), y_w), model.response((), y_l), weight=weight_of((a - b).detach())
    )
    assert found.differs_at == s
    close(found.rate, model.rate(loss(a - b), a))
    # k' ≤ j cancels between the two sums, and k ≤ j does not: theory 3.3.
    j = s - 1
    from_s = found.chosen_overlap[:, j:].sum() - found.rejected_overlap[:, j:].sum()
    close(found.m + found.S + from_s, found.bracket.item())
    if j:
        restricted = found.chosen_overlap[j:, j:].sum() - found.rejected_overlap[j:, j:].sum()
        assert abs(restricted - from_s) > 1e-6


@some
@given(seed=SEEDS)
def test_theorem_7(seed: int) -> None:
    model = FreeFeatures(seed)
    y_w, y_l = model.pair()
    z = model.ids(1, 4)
    loss, weight_of = logistic(0.7)
    margin = model.logp((), y_w) - model.logp((), y_l)
    value = model.logp((), z)
    weight = weight_of(margin.detach())
    inputs = [model.W.detach(), *(model.response((), y) for y in (z, y_w, y_l))]
    if z[0] in (y_w[0], y_l[0]):
        with pytest.raises(ValueError, match="use response_rate"):
            flow.other_rate(*inputs, weight=weight)
    else:
        close(flow.other_rate(*inputs, weight=weight).rate, model.rate(loss(margin), value))


@some
@given(seed=SEEDS, count=st.integers(1, 5))
def test_theorems_8_and_9(seed: int, count: int) -> None:
    model = FreeFeatures(seed)
    loss, weight_of = logistic(0.7)
    tokens = [torch.randperm(model.V, generator=model.generator)[:2] for _ in range(count)]
    chosen, rejected = torch.stack(tokens, dim=1)
    logps = [(model.W @ model.state((100 + i,))).log_softmax(-1) for i in range(count)]
    margins = torch.stack([lp[w] - lp[v] for lp, w, v in zip(logps, chosen, rejected, strict=True)])
    mean = loss(margins).mean()
    states = torch.stack([model.state((100 + i,)).detach() for i in range(count)])
    inputs = (model.W.detach(), states, chosen, rejected)
    weights = weight_of(margins.detach())
    found = flow.chosen_token_rates_many(*inputs, weights=weights)
    for i in range(count):
        close(found.rate[i], model.rate(mean, logps[i][chosen[i]]))
        others = flow.other_token_rates_many(*inputs, weights=weights, prompt=i).rate
        for z in set(range(model.V)) - {int(chosen[i]), int(rejected[i])}:
            close(others[z], model.rate(mean, logps[i][z]))
        assert others[torch.stack([chosen[i], rejected[i]])].isnan().all()


@some
@given(seed=SEEDS, count=st.integers(1, 3))
def test_any_response_under_any_pairs_and_unequal_weights(seed: int, count: int) -> None:
    """Formula (F): prompts may be equal, share a beginning, or go on where another pair's response went."""
    model = FreeFeatures(seed, V=3)
    prompts = [model.ids(1, 2) for _ in range(count)]
    pairs = [model.pair(longest=3) for _ in range(count)]
    prompt, z = model.ids(1, 2), model.ids(1, 3)
    weights = torch.randn(2, count, generator=model.generator, dtype=torch.float64)
    loss = sum(
        -d_w * model.logp(x, y_w) + d_l * model.logp(x, y_l)
        for x, (y_w, y_l), d_w, d_l in zip(prompts, pairs, *weights, strict=True)
    )
    expected = model.rate(loss / count, model.logp(prompt, z))
    found = flow.response_rate(
        model.W.detach(),
        model.response(prompt, z, with_prompt=True),
        [tuple(model.response(x, y, with_prompt=True) for y in ys) for x, ys in zip(prompts, pairs, strict=True)],
        chosen_weights=weights[0],
        rejected_weights=weights[1],
    )
    close(found.rate, expected)


def test_a_prompt_that_goes_on_where_another_ended_shares_its_contexts() -> None:
    model = FreeFeatures(6)
    first, second = model.response((0,), (1, 2, 3), with_prompt=True), model.response((0, 1), (2, 4), with_prompt=True)
    gradients = [model.gradient(model.logp((0,), (1, 2, 3))), model.gradient(model.logp((0, 1), (2, 4)))]
    found = flow.inner_product(model.W.detach(), first, second)
    close(found.total, (gradients[0] @ gradients[1]).item())
    n = model.W.numel()
    close(found.hh, (gradients[0][n:] @ gradients[1][n:]).item())
    assert found.hh != 0


def test_coefficients_of_one_leave_minus_ches() -> None:
    model = FreeFeatures(12)
    y_w, y_l = model.response((), (0, 1, 2)), model.response((), (3, 1))
    found = flow.chosen_rate(model.W.detach(), y_w, y_l)
    with_ones = (found.chosen_overlap / found.alpha_chosen).sum() - (
        found.rejected_overlap / found.alpha_rejected
    ).sum()
    S_w, S_l = y_w.states.sum(0), y_l.states.sum(0)
    close(with_ones, -(S_w @ (S_l - S_w)).item())


def test_leading_dimensions_are_a_batch() -> None:
    g = torch.Generator().manual_seed(1)
    W = torch.randn(6, 3, generator=g, dtype=torch.float64)
    h = torch.randn(2, 2, 3, generator=g, dtype=torch.float64)
    plus, minus = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 2], [3, 5]])
    batch = flow.chosen_token_rate(W, h, plus, minus)
    others = flow.other_token_rates(W, h, plus, minus)
    for i in range(2):
        for j in range(2):
            close(batch.rate[i, j], flow.chosen_token_rate(W, h[i, j], plus[i, j], minus[i, j]).rate.item())
            one = flow.other_token_rates(W, h[i, j], plus[i, j], minus[i, j])
            torch.testing.assert_close(others.rate[i, j], one.rate, equal_nan=True)


def test_many_pairs_of_one_are_the_single_pair() -> None:
    model = FreeFeatures(2)
    W, h = model.W.detach(), model.state(()).detach()
    plus, minus = torch.tensor(1), torch.tensor(4)
    many = flow.chosen_token_rates_many(
        W, h[None], plus[None], minus[None], weights=torch.tensor([0.3], dtype=torch.float64)
    )
    close(many.rate[0], flow.chosen_token_rate(W, h, plus, minus, weight=0.3).rate.item())


@some
@given(seed=SEEDS, lam=st.floats(0, 3), plus=st.floats(0.1, 3), minus=st.floats(0, 3))
def test_propositions_1_and_2_in_any_parametrisation(seed: int, lam: float, plus: float, minus: float) -> None:
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 6)).double()
    logps = net(torch.randn(4, dtype=torch.float64)).log_softmax(-1)
    a, b = logps[0] + logps[1], logps[2]

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, net.parameters(), retain_graph=True)])

    g_w, g_l = gradient(a), gradient(b)
    loss, weight_of = logistic(0.9)
    slope = -weight_of((a - b).detach())
    sft = flow.sft_rate(slope, g_w @ g_w, g_w @ g_l, sft_weight=lam)
    close(sft.rate, -(gradient(loss(a - b) - lam * a) @ g_w).item())
    mu = -weight_of((plus * a - minus * b).detach())
    uneven = flow.unequal_weights_rate(slope, mu, g_w @ g_w, g_w @ g_l, chosen_weight=plus, rejected_weight=minus)
    close(uneven.rate, -(gradient(loss(plus * a - minus * b)) @ g_w).item())
    close(uneven.rho * uneven.E + uneven.gamma * (g_w @ g_w), uneven.rate.item())


def test_proposition_2_at_an_inactive_hinge() -> None:
    """ℓ'(M) = 0 makes ρ 0/0 or infinite; the rate is defined and right: −μ'(λ⁺·3 − λ⁻·2)."""
    zero, three, two = (torch.tensor(x, dtype=torch.float64) for x in (0.0, 3.0, 2.0))
    off = flow.unequal_weights_rate(zero, zero, three, two, chosen_weight=1.0, rejected_weight=0.5)
    assert off.rate == 0 and off.rho.isnan()
    on = flow.unequal_weights_rate(zero, -three / 3, three, two, chosen_weight=1.0, rejected_weight=0.5)
    assert on.rate == 2.0 and on.rho.isinf()


def test_what_does_not_fit_is_refused() -> None:
    model = FreeFeatures(1)
    W, h = model.W.detach(), model.state(()).detach()
    one, two = torch.tensor(1), torch.tensor(2)
    with pytest.raises(ValueError, match="equals the rejected one"):
        flow.chosen_token_rate(W, h, one, one)
    with pytest.raises(ValueError, match=r"rejected: token ids must lie in 0\.\.6"):
        flow.other_token_rates(W, h, one, torch.tensor(7))
    with pytest.raises(ValueError, match=r"got \(3,\), \(1,\) and \(\)"):
        flow.chosen_token_rate(W, h, one[None], two)
    same = model.response((), (1, 2))
    with pytest.raises(ValueError, match="token for token the same"):
        flow.chosen_rate(W, same, model.response((), (1, 2)))
    shifted = flow.Response(torch.tensor([1, 3]), model.response((), (2, 0, 3)).states[1:])
    with pytest.raises(ValueError, match="last prompt token on"):
        flow.chosen_rate(W, same, shifted)
    with pytest.raises(ValueError, match="n ≥ 1"):
        flow.Response(torch.tensor([1, 2]), h[None])
    with pytest.raises(ValueError, match="or none when they answer the same one"):
        flow.inner_product(W, same, model.response((3,), (1,), with_prompt=True))
    with pytest.raises(ValueError, match="at least one pair: got 0 pairs"):
        flow.response_rate(W, same, [], chosen_weights=torch.ones(0), rejected_weights=torch.ones(0))
    with pytest.raises(ValueError, match=r"prompt must lie in 0\.\.0"):
        flow.other_token_rates_many(W, h[None], one[None], two[None], weights=torch.ones(1), prompt=1)
    with pytest.raises(ValueError, match="cannot be negative"):
        flow.sft_rate(-one.double(), -one.double(), one.double(), sft_weight=1.0)


@pytest.mark.parametrize(("scale", "softcap", "biased"), [(1.0, None, True), (0.25, None, False), (2.0, 3.0, True)])
def test_theorem_5_for_heads_with_bias_scale_and_soft_cap(scale: float, softcap: float | None, biased: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    W, h, b = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((9, 4), (4,), (9,)))
    bias = b if biased else None
    plus, minus = torch.tensor(2), torch.tensor(7)

    def logps(W: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        u = W @ h if bias is None else W @ h + bias
        u = u if softcap is None else softcap * torch.tanh(u / softcap)
        return (scale * u).log_softmax(-1)

    of_W, of_h = torch.autograd.functional.jacobian(logps, (W, h))
    direction_W, direction_h = of_W[2] - of_W[7], of_h[2] - of_h[7]
    expected = 0.3 * ((of_W * direction_W).sum((1, 2)) + (of_h * direction_h).sum(1))
    found = flow.other_token_rates(W, h, plus, minus, weight=0.3, bias=bias, scale=scale, softcap=softcap).rate
    others = [z for z in range(9) if z not in (2, 7)]
    torch.testing.assert_close(found[others], expected[others], rtol=1e-11, atol=1e-12)
    best = flow.most_gaining_tokens(W, h, 2, 7, weight=0.3, top=1, bias=bias, scale=scale, softcap=softcap)[0]
    assert best.token == max(others, key=lambda z: float(expected[z]))

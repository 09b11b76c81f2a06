"""The recurrence against a real optimiser on a model that is linear, and the sketch against exact inner products."""

from __future__ import annotations

import pytest
import torch

from undertow.maths.linearised import (
    CountSketch,
    Features,
    Kernel,
    RunningScale,
    SampleStep,
    contributions,
    linearised_run,
    own_parts,
    pushes,
    random_signs,
)

N, P = 12, 40


def steps(epochs: int = 3) -> list[SampleStep]:
    """Batches of four, each epoch in another order, at a falling learning rate."""
    orders = [torch.randperm(N, generator=torch.Generator().manual_seed(k)) for k in range(epochs)]
    batches = [order[begin : begin + 4] for order in orders for begin in range(0, N, 4)]
    share, own = torch.full((4,), 0.25, dtype=torch.float64), torch.ones(4, dtype=torch.bool)
    return [SampleStep(batch, share, own, 0.01 * (1 - t / len(batches))) for t, batch in enumerate(batches)]


def weights(step: int, pairs: torch.Tensor, changes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    d = 0.3 * torch.sigmoid(-0.3 * (changes[:, 0] - changes[:, 1]))
    return d, 0.5 * d


def by_hand(G: torch.Tensor, V: torch.Tensor, optimiser: str, clip: float, mean_square: float) -> torch.Tensor:
    """The same run of parameters, with a second moment that is ``v_t · V``."""
    theta, m, v = torch.zeros(P, dtype=torch.float64), torch.zeros(P, dtype=torch.float64), 0.0
    for t, step in enumerate(steps(), 1):
        f = (G @ theta).view(N, 2)[step.pairs]
        d_w, d_l = weights(t, step.pairs, f)
        rows = G.view(N, 2, P)[step.pairs]
        ascent = (0.25 * (d_w[:, None] * rows[:, 0] - d_l[:, None] * rows[:, 1])).sum(0)
        ascent = ascent * min(1.0, clip / float(ascent.norm()))
        if optimiser == "sgd":
            theta = theta + step.lr * ascent
            continue
        decay = 0.99 if optimiser == "rmsprop" else 0.999
        v = decay * v + (1 - decay) * float(ascent.square().sum()) / mean_square
        if optimiser == "rmsprop":
            theta = theta + step.lr * ascent / (v * V).sqrt()
        else:
            m = 0.9 * m + 0.1 * ascent
            theta = theta + step.lr * m / (1 - 0.9**t) / (v / (1 - decay**t) * V).sqrt()
    return G @ theta


@pytest.mark.parametrize("products", [Kernel.of, Features])
@pytest.mark.parametrize("clip", [0.2, 1e9])
@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop", "adamw"])
def test_a_linear_model_is_simulated_exactly(optimiser: str, clip: float, products) -> None:
    G = torch.randn(2 * N, P, generator=torch.Generator().manual_seed(1)).double()
    V = torch.rand(P, generator=torch.Generator().manual_seed(2)).double() + 0.1
    scaled = G if optimiser == "sgd" else G / V.sqrt().sqrt()
    if products is not Features:  # float32 products of the features
        products = lambda rows: Kernel(rows @ rows.T)  # noqa: E731
    (found,) = linearised_run(
        products(scaled), steps(), weights, RunningScale(optimiser), N,
        mean_square=0.7, norms=products(G), clip=clip,
    )  # fmt: skip
    torch.testing.assert_close(found.changes, by_hand(G, V, optimiser, clip, 0.7), rtol=1e-9, atol=1e-9)
    kernel = scaled @ scaled.T
    torch.testing.assert_close(contributions(kernel, found.coefficients).sum(1), found.linear, rtol=1e-9, atol=1e-9)
    own = own_parts(Kernel(kernel).blocks(N), found.coefficients)
    each = contributions(kernel, found.coefficients).view(N, 2, N)
    torch.testing.assert_close(own, torch.stack([each[i, :, i] for i in range(N)]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("products", [Kernel.of, Features])
def test_what_acts_may_be_another_function_than_what_is_read(products, optimiser: str) -> None:
    """As where a loss weights tokens: rows that act stand last, and the pairs' rows before them are only read."""
    draw = torch.Generator().manual_seed(3)
    acting, read = (torch.randn(2 * N, P, generator=draw).double() for _ in range(2))
    V = torch.rand(P, generator=draw).double() + 0.1
    text = torch.randn(1, P, generator=draw).double()
    rows = torch.cat([read, text, acting])
    scaled = rows if optimiser == "sgd" else rows / V.sqrt().sqrt()
    of = products if products is Features else lambda rows: Kernel(rows @ rows.T)
    first = 2 * N + 1
    (found,) = linearised_run(
        of(scaled), steps(), weights, RunningScale(optimiser), N,
        mean_square=0.7, norms=of(rows), clip=0.2, acting=first,
    )  # fmt: skip
    # The moved point, from what the rows that act came to.
    theirs = by_hand(acting, V, optimiser, 0.2, 0.7)
    torch.testing.assert_close(found.changes[first:], theirs, rtol=1e-9, atol=1e-9)
    moved = scaled[first:].T @ found.coefficients
    torch.testing.assert_close(found.linear, scaled @ moved, rtol=1e-9, atol=1e-9)
    kernel = scaled @ scaled.T
    each = contributions(kernel, found.coefficients, acting=first)
    torch.testing.assert_close(each.sum(1), found.linear, rtol=1e-9, atol=1e-9)
    blocks = of(scaled).blocks(N, 0, first)
    own = own_parts(blocks, found.coefficients)
    expected = torch.stack([each[2 * i : 2 * i + 2, i] for i in range(N)])
    torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9)
    protected = torch.tensor([0, 6, 2 * N])
    found_push = pushes(of(scaled), found.coefficients, protected, blocks=blocks, acting=first)
    without_own = each[protected].clone()
    without_own[0, 0] = without_own[1, 3] = 0
    torch.testing.assert_close(found_push, without_own.mean(0), rtol=1e-9, atol=1e-9)
    assert found.length == pytest.approx(float(moved @ moved), rel=1e-9)


def test_a_sketch_keeps_inner_products_within_its_error() -> None:
    size, found, exact = 4099, [], []
    draw = torch.Generator().manual_seed(0)
    for seed in range(40):
        a, b = torch.randn(2, 64, 96, generator=draw).double()
        sketch, out = CountSketch(size, seed), torch.zeros(2, size, dtype=torch.float64)
        signs = sketch.signs("w", 0, 64 * 96).double()
        sketch.add(out[0], "w", 0, a.flatten() * signs)
        for begin in (0, 20):  # in two runs, and in rows
            rows = torch.arange(begin, 20 if begin == 0 else 64)
            sketch.add_rows(out[1], "w", rows, b[rows] * signs.view(64, 96)[rows])
        exact.append(float(a.flatten() @ b.flatten()) / float(a.norm() * b.norm()))
        found.append(float(out[0] @ out[1]) / float(a.norm() * b.norm()))
    errors = torch.tensor(found) - torch.tensor(exact)
    assert errors.abs().max() < 5 / size**0.5
    assert abs(float(errors.mean())) < 4 / size**0.5 / 40**0.5


def test_signs_do_not_depend_on_the_part_they_are_made_in() -> None:
    whole = random_signs(0, 10_000, 7)
    assert torch.equal(whole[1234:5678], random_signs(1234, 5678, 7))
    assert abs(float(whole.float().mean())) < 0.05
    assert not torch.equal(whole, random_signs(0, 10_000, 8))

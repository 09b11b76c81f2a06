"""The standard error of a forecast against sketches drawn anew, and the probability against draws of a normal error."""

from __future__ import annotations

import torch

from undertow.maths.linearised import CountSketch, Features, Kernel, forecast_error, probability_below
from undertow.maths.linearised.errors import BENT, DRAWS

SIZE = 61


def sketched(vectors: torch.Tensor, seed: int) -> torch.Tensor:
    sketch = CountSketch(SIZE, seed)
    rows = torch.zeros(len(vectors), SIZE, dtype=torch.float64)
    for row, vector in zip(rows, vectors, strict=True):
        sketch.add(row, "weight", 0, vector * sketch.signs("weight", 0, len(vector)))
    return rows


def test_the_error_of_sketched_changes_is_as_large_as_it_is_said_to_be() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 2000, generator=draw, dtype=torch.float64)
    vectors[3:] += 2 * vectors[0]  # some products are large
    w = torch.randn(7, generator=draw, dtype=torch.float64)
    exact = vectors @ (vectors.T @ w)
    found = torch.stack([rows @ (rows.T @ w) for rows in (sketched(vectors, seed) for seed in range(400))])
    spread = (found - exact).square().mean(0).sqrt()
    length = float((vectors.T @ w).square().sum())
    said = forecast_error(vectors.square().sum(1), exact, torch.zeros(7), length, SIZE) / DRAWS**0.5
    assert (found.mean(0) - exact).abs().max() < 0.2 * spread.max()  # unbiased
    assert ((spread / said) < 1.15).all()
    assert ((spread / said) > 0.6).all()


def test_curvature_adds_its_part_and_exact_products_have_no_error_of_their_own() -> None:
    bend, none = torch.tensor([0.0, -3.0, 4.0]), torch.zeros(3)
    error = forecast_error(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]), bend, 5.0, 0)
    torch.testing.assert_close(error, BENT * bend.abs())
    both = forecast_error(torch.ones(3), none, bend, 5.0, 10)
    torch.testing.assert_close(both, (DRAWS * 0.5 + (BENT * bend) ** 2).sqrt())


def test_the_probability_is_that_of_a_normal_error() -> None:
    changes = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0], dtype=torch.float64)
    error = torch.tensor([1.0, 2.0, 1.0, 1.5, 1.0], dtype=torch.float64)
    draw = torch.randn(200_000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = ((changes + error * draw) < 0).double().mean(0)
    torch.testing.assert_close(probability_below(changes, error), drawn, atol=5e-3, rtol=0)
    sure = probability_below(changes, torch.zeros(5, dtype=torch.float64))
    assert sure.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_squares_are_the_diagonal_either_way() -> None:
    rows = torch.randn(9, 40, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(Kernel.of(rows).squares(), rows.double().square().sum(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(Features(rows).squares(), rows.double().square().sum(1))

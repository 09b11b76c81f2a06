"""Gradient features of tiny models against exact inner products of autograd's gradients, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engines import engine_of, entanglement, gradients, responses_of, some_pairs
from tiny import tiny_hf
from undertow.forecasting.features import FeatureRows, Sketcher, factors_of, features_of
from undertow.forecasting.measure import Engine, _standing_out
from undertow.maths.linearised import CountSketch

SIZE, SEEDS = 4093, 12
MODELS = pytest.mark.parametrize(("family", "lora"), [("llama", 0), ("gemma3", 0), ("gpt2", 0), ("llama", 4)], ids=str)


def scales_of(engine: Engine) -> dict[str, Tensor]:
    """``P^½`` as uneven as an optimiser's."""
    draw = torch.Generator().manual_seed(3)
    return {name: torch.rand(value.shape, generator=draw) * 3 + 0.1 for name, value in engine.parameters.items()}


def measured(engine: Engine, responses, scales, sketch: CountSketch, *, every_row: bool = False) -> FeatureRows:
    factors = factors_of(scales, sketch, _standing_out(engine, responses), every_row=every_row)
    rows = list(
        features_of(
            engine.model,
            engine.parameters,
            responses,
            factors,
            sketch,
            batch_tokens=engine.batch_tokens,
            packed=engine.packed,
            products=None,
        )
    )
    assert len(rows) > 1, "of several packs"
    return FeatureRows(*(torch.cat([getattr(one, name) for one in rows]) for name in ("scaled", "plain", "logps")))


@MODELS
@pytest.mark.parametrize("every_row", [True, False], ids=["every row", "a quarter"])
def test_inner_products_are_the_exact_ones_within_the_sketchs_error(family: str, lora: int, every_row: bool) -> None:
    """Unbiased over signs, offsets and drawn rows; and no further off than ``1/√D`` of the norms allows."""
    engine = engine_of(family, lora=lora)
    responses = responses_of(some_pairs())
    scales = scales_of(engine)
    exact = entanglement(*[gradients(engine, responses)] * 2, scales)
    found = [
        measured(engine, responses, scales, CountSketch(SIZE, seed), every_row=every_row).scaled.double()
        for seed in range(SEEDS)
    ]
    within(torch.stack([rows @ rows.T for rows in found]), exact, 1 / SIZE**0.5)


def within(found: Tensor, exact: Tensor, error: float) -> None:
    """Products by seed, ``[seeds, r, s]``, are the exact ones but for a noise of that size relative to the norms.

    Their mean over the seeds is nearer by as much as chance makes it: nothing is left of the noise in the limit.
    """
    norms = exact.diagonal().sqrt()
    errors = (found - exact) / torch.outer(norms, norms) / error
    assert errors.std() > 0.5, "a sketch is no exact product"
    assert errors.square().mean().sqrt() < 1.5
    assert errors.abs().max() < 8
    assert errors.mean(0).square().mean().sqrt() < 1.7 / len(found) ** 0.5
    assert errors.mean(0).abs().max() < 5 / len(found) ** 0.5


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_log_probabilities_are_those_of_the_model(family: str) -> None:
    engine = engine_of(family)
    responses = responses_of(some_pairs())
    found = measured(engine, responses, scales_of(engine), CountSketch(SIZE)).logps
    plain = tiny_hf(family)
    for one, logp in zip(responses, found.tolist(), strict=True):
        with torch.no_grad():
            logits = plain(torch.tensor([one.prompt + one.tokens])).logits[0].double()
        steps = logits[len(one.prompt) - 1 : -1].log_softmax(-1)
        assert logp == pytest.approx(float(steps.gather(1, torch.tensor(one.tokens)[:, None]).sum()), rel=1e-5)


@MODELS
def test_the_length_of_a_minibatchs_gradient_is_kept(family: str, lora: int) -> None:
    """By the small sketch of plain gradients: what clipping looks at. Its error is that of 32 projections on each side
    of a matrix; the mean of the square over seeds is the exact one."""
    engine = engine_of(family, lora=lora)
    responses = responses_of(some_pairs())
    exact_rows = gradients(engine, responses)
    weights = torch.randn(4, len(responses), generator=torch.Generator().manual_seed(0)).double()
    exact = (weights @ entanglement(exact_rows, exact_rows) @ weights.T).diagonal()
    ones = {name: torch.ones_like(value) for name, value in engine.parameters.items()}
    found = []
    for seed in range(SEEDS):
        plain = measured(engine, responses, ones, CountSketch(64, seed)).plain.double()
        found.append((weights @ plain).square().sum(1))
    ratios = torch.stack(found) / exact
    assert ratios.std() > 0.005
    assert (ratios - 1).abs().max() < 0.35
    assert (ratios.mean(0) - 1).abs().max() < 0.1


def test_however_a_gradient_comes_its_sketch_is_the_same() -> None:
    """As a product of two factors, in runs of rows; as a whole; as rows that repeat."""
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(9, 300, generator=draw), torch.randn(9, 20, generator=draw)
    scale = torch.rand(300, 20, generator=draw) + 0.5
    sketch = CountSketch(1021, 5)
    for every_row in (True, False):
        factors = factors_of({"w": scale}, sketch, {"w": torch.tensor([2, 299])}, every_row=every_row)
        sink = Sketcher(factors, sketch, 2, torch.device("cpu"))
        for begin in range(0, 300, 77):
            sink.outer("w", 0, begin, left[:, begin : begin + 77], right)
        sink.dense("w", 1, (left.T @ right).flatten())
        torch.testing.assert_close(sink.scaled[0], sink.scaled[1], rtol=1e-4, atol=1e-4)

    rows = torch.tensor([2, 299, 2, 4])
    values = torch.randn(4, 20, generator=draw)
    factors = factors_of({"w": scale}, sketch, {"w": torch.tensor([2, 4, 299])})
    sink = Sketcher(factors, sketch, 2, torch.device("cpu"))
    sink.rows("w", 0, rows, values)
    sink.dense("w", 1, torch.zeros(300, 20).index_add_(0, rows, values).flatten())
    torch.testing.assert_close(sink.scaled[0], sink.scaled[1], rtol=1e-4, atol=1e-4)


def test_a_quarter_of_a_large_matrixs_rows_counts_fourfold() -> None:
    """Of those that do not stand out; the squared error of the draw is three times the sum of their squares."""
    draw = torch.Generator().manual_seed(0)
    height, width, size = 1024, 8, 65_537  # so wide that the sketch itself adds next to nothing
    a, b = torch.randn(2, height, width, generator=draw)
    heavy = torch.tensor([3, 500])
    a[heavy], b[heavy] = a[heavy] * 30, b[heavy] * 30
    exact = float((a.double() * b.double()).sum())
    rest = (a * b).sum(1).double()
    rest[heavy] = 0
    errors, counts = [], []
    for seed in range(60):
        sketch = CountSketch(size, seed)
        factors = factors_of({"w": torch.ones(height, width)}, sketch, {"w": heavy})
        sink = Sketcher(factors, sketch, 2, torch.device("cpu"))
        sink.dense("w", 0, a.flatten())
        sink.dense("w", 1, b.flatten())
        counts.append(len(factors["w"].rows))
        errors.append(float(sink.scaled[0].double() @ sink.scaled[1].double()) - exact)
    assert sum(counts) / len(counts) == pytest.approx(height / 4, rel=0.05)
    found, expected = torch.tensor(errors), float((3 * rest.square().sum()).sqrt())
    assert float(found.square().mean().sqrt()) == pytest.approx(expected, rel=0.35)
    assert abs(float(found.mean())) < 3.5 * expected / len(errors) ** 0.5


def test_a_heavy_column_of_a_wide_layer_asks_for_a_prime() -> None:
    """Of 4,096 inputs one is large for every token, as in real models. A power of two folds its column into 32 sums,
    and two unlike gradients seem alike by chance; a prime spreads it over all."""
    rows, width, seeds = 512, 4096, 6
    draw = torch.Generator().manual_seed(0)
    right = torch.randn(4, width, generator=draw)
    right[:, 1234] = 3000
    lefts = torch.randn(6, 4, rows, generator=draw)
    whole = torch.stack([(left.T @ right).flatten() for left in lefts]).double()
    exact = whole @ whole.T
    norms = exact.diagonal().sqrt()

    def error(size: int) -> float:
        found = []
        for seed in range(seeds):
            sketch = CountSketch(size, seed)
            factors = factors_of({"w": torch.ones(rows, width)}, sketch, {}, every_row=True)
            sink = Sketcher(factors, sketch, len(lefts), torch.device("cpu"))
            for number, left in enumerate(lefts):
                sink.outer("w", number, 0, left, right)
            found.append((sink.scaled.double() @ sink.scaled.double().T - exact) / torch.outer(norms, norms))
        errors = torch.stack(found)[:, ~torch.eye(len(lefts), dtype=torch.bool)]
        return float(errors.square().mean().sqrt())

    assert error(131_071) < 1.5 / 131_071**0.5
    assert error(131_072) > 20 / 131_072**0.5
    assert error(131_072) == pytest.approx((1 / 32) ** 0.5, rel=0.35)

"""The optimiser's scaling at the start: V by hand, what no minibatch has touched, and its keeping."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import undertow as ut
from engines import engine_of, gradients, responses_of, some_pairs
from undertow.data.tokens.encoder import TokenPair
from undertow.forecasting.folder import ForecastFolder
from undertow.forecasting.measure import FEWEST_GRADIENTS, Engine, covering, minibatches, scaling
from undertow.forecasting.moments import (
    EPSILON,
    Minibatch,
    Moments,
    lend_to_unseen,
    scaling_of,
    second_moments,
    square_of_sums,
)
from undertow.maths.losses import PairLoss
from undertow.models.gradients import Response
from undertow.runs.progress import Silent
from undertow.training.order import Step, training_steps
from undertow.training.settings import TrainSettings

STEPS = training_steps(11, TrainSettings(batch_size=2, accumulate=2, epochs=2.0, seed=3))
"""Of four pairs each; the last of an epoch has a batch of two and one of one, whose pair counts twice as much."""


def starts(engine: Engine, pairs: list[TokenPair]) -> tuple[Tensor, Tensor]:
    """Log-probabilities at the start, and a reference that is not the model itself."""
    draw = torch.Generator().manual_seed(1)
    logps = torch.randn(len(pairs), 2, generator=draw).double() - 40
    return logps, logps + 3 * torch.randn(len(pairs), 2, generator=draw).double()


def measured(
    engine: Engine, pairs: list[TokenPair], loss: PairLoss, clip: float | None, steps: list[Step], parts: int = 1
) -> Moments:
    logps, reference = starts(engine, pairs)
    batches = minibatches(steps, pairs, loss, logps, reference, None)
    return second_moments(
        engine.model, engine.parameters, batches, clip=clip, parts=parts, batch_tokens=engine.batch_tokens,
        products=None, watch=Silent(),
    )  # fmt: skip


def by_hand(
    engine: Engine, pairs: list[TokenPair], loss: PairLoss, clip: float | None, steps: list[Step]
) -> tuple[list[float], dict[str, Tensor], float]:
    """Norms of the minibatches' gradients, ``V``, and the mean square, from each response's own gradient."""
    rows = gradients(engine, responses_of(pairs))
    logps, reference = (value.clone().requires_grad_(True) for value in starts(engine, pairs))
    norms, moments, squares = [], dict.fromkeys(engine.parameters, 0.0), []
    for step in steps:
        some = torch.from_numpy(step.pairs)
        batch = ut.losses.Logps(
            chosen=logps[some, 0], rejected=logps[some, 1], ref_chosen=reference[some, 0],
            ref_rejected=reference[some, 1],
            chosen_tokens=torch.tensor([float(len(pairs[at].chosen)) for at in some]),
            rejected_tokens=torch.tensor([float(len(pairs[at].rejected)) for at in some]),
        )  # fmt: skip
        (pull,) = torch.autograd.grad((loss(batch) * torch.from_numpy(step.shares)).sum(), logps)
        grad = {
            name: sum(float(c) * row[name] for c, row in zip(pull.flatten(), rows, strict=True) if c)
            for name in engine.parameters
        }
        norm = float(torch.cat(list(grad.values())).norm())
        kept = min(1.0, clip / norm) if clip else 1.0
        norms.append(norm)
        squares.append((kept * norm) ** 2)
        for name in grad:
            moments[name] = moments[name] + (kept * grad[name]) ** 2 / len(steps)
    return norms, moments, float(np.mean(squares))


@pytest.mark.parametrize("loss", [ut.losses.DPO(beta=0.2), ut.losses.SimPO()], ids=["dpo", "simpo"])
@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("clipped", [False, True])
def test_they_are_the_mean_square_of_the_minibatches_gradients(loss: PairLoss, lora: int, clipped: bool) -> None:
    """Over all steps, with the weights of the loss at the start, cut to the longest that training allows."""
    engine = engine_of(dtype=torch.float64, lora=lora)
    pairs = some_pairs(11)
    norms, *_ = by_hand(engine, pairs, loss, None, STEPS)
    clip = float(np.median(norms)) if clipped else None
    _, expected, mean_square = by_hand(engine, pairs, loss, clip, STEPS)
    found = measured(engine, pairs, loss, clip, STEPS)
    assert found.mean_square == pytest.approx(mean_square, rel=1e-6)
    for name, value in found.by_name.items():
        torch.testing.assert_close(value.flatten(), expected[name], rtol=1e-5, atol=1e-9 * float(expected[name].max()))
    assert sum(float(value.sum()) for value in found.by_name.values()) == pytest.approx(mean_square, rel=1e-6)
    assert all(parameter.grad is None for parameter in engine.parameters.values())


def test_parts_of_a_minibatch_add_up_to_it() -> None:
    whole = Minibatch(some_pairs(7), torch.arange(14.0).view(7, 2))
    for count, sizes in ((1, [7]), (3, [2, 2, 3]), (7, [1] * 7), (50, [1] * 7)):
        some = whole.parts(count)
        assert [len(part.pairs) for part in some] == sizes
        assert [pair for part in some for pair in part.pairs] == list(whole.pairs)
        assert torch.equal(torch.cat([part.coefficients for part in some]), whole.coefficients)


def test_the_square_of_sums_is_unbiased() -> None:
    """Over all draws of four gradients out of three, summed by two, exactly; entries of one sign need no floor."""
    of = torch.tensor([[1.0, 5.0], [2.0, 0.5], [4.0, 1.0]], dtype=torch.float64)
    found, expected = [], []
    for draw in itertools.product(range(3), repeat=4):
        some = of[list(draw)]
        squares = some.square().sum(0)
        square_of_sums(squares, some.sum(0), parts=4, sums=2, crossed=2 * 2)
        found.append(squares)
        expected.append(some.view(2, 2, 2).sum(1).square().mean(0))
    torch.testing.assert_close(torch.stack(found).mean(0), torch.stack(expected).mean(0), rtol=1e-12, atol=0)
    opposed = torch.tensor([2.0 * 9], dtype=torch.float64)  # 3 and −3: a mean square below zero counts as zero
    square_of_sums(opposed, torch.zeros(1).double(), parts=2, sums=1, crossed=2)
    assert opposed == 18


@pytest.mark.parametrize("clipped", [False, True])
def test_minibatches_in_parts(clipped: bool) -> None:
    """From each part's own gradient, cut to ``1/√k`` of what a minibatch may have."""
    engine, loss, parts = engine_of(dtype=torch.float64), ut.losses.DPO(), 2
    pairs = some_pairs(11)
    halves = [half for step in STEPS for half in parted(step)]
    norms, *_ = by_hand(engine, pairs, loss, None, halves)
    clip = float(np.median(norms)) * 2**0.5 if clipped else None
    limits = clip / 2**0.5 if clip else None
    rows, logps, reference = gradients(engine, responses_of(pairs)), *starts(engine, pairs)
    squares, sums = dict.fromkeys(engine.parameters, 0.0), dict.fromkeys(engine.parameters, 0.0)
    for batch in minibatches(halves, pairs, loss, logps, reference, None):
        at = [pairs.index(pair) for pair in batch.pairs]
        weighed = [(2 * k + side, float(batch.coefficients[i, side])) for i, k in enumerate(at) for side in (0, 1)]
        grad = {name: sum(c * rows[row][name] for row, c in weighed) for name in engine.parameters}
        norm = float(torch.cat(list(grad.values())).norm())
        kept = min(1.0, limits / norm) if limits else 1.0
        for name in grad:
            squares[name] = squares[name] + (kept * grad[name]) ** 2
            sums[name] = sums[name] + kept * grad[name]
    found = measured(engine, pairs, loss, clip, list(STEPS), parts)
    M, n = len(halves), len(STEPS)
    assert parts * n == M
    for name, value in found.by_name.items():
        mean = ((sums[name] ** 2 - squares[name]) / (M * (M - 1))).clamp_min(0)
        expected = squares[name] / n + 2 * mean
        torch.testing.assert_close(value.flatten(), expected, rtol=1e-5, atol=1e-9 * float(expected.max()))
    assert found.mean_square == pytest.approx(sum(float(value.sum()) for value in found.by_name.values()), rel=1e-9)


def parted(step: Step) -> list[Step]:
    half = len(step.pairs) // 2
    return [Step(step.pairs[part], step.shares[part], step.lr) for part in (slice(half), slice(half, None))]


def test_a_token_that_no_minibatch_had_is_scaled_as_the_mean_of_the_others() -> None:
    """Untied embeddings: one token is in one pair only, another in a text alone. ``1/ε`` would drown all else."""
    engine = engine_of("llama", dtype=torch.float64)
    used = {token for pair in some_pairs(11) for token in (*pair.prompt, *pair.chosen, *pair.rejected)}
    unseen, once = sorted(set(range(3, 300)) - used)[:2]
    pairs = some_pairs(11)
    pairs[4] = TokenPair(4, pairs[4].pair_id, (once, *pairs[4].prompt), pairs[4].chosen, pairs[4].rejected, False)
    V = measured(engine, pairs, ut.losses.DPO(), 1.0, STEPS).by_name
    (name,) = [name for name in V if "embed_tokens" in name]
    rows = V[name].clone()
    assert not rows[unseen].any()
    assert rows[once].all()
    P = scaling_of(V[name])
    moved = rows[rows > 0]
    assert torch.equal(P[unseen], P[unseen][:1].expand(32))
    assert float(P[unseen][0]) == pytest.approx(1 / (float(moved.mean()) ** 0.5 + EPSILON), rel=1e-9)
    torch.testing.assert_close(P[once], 1 / (rows[once].sqrt() + EPSILON), rtol=1e-9, atol=0)
    # A text with the unseen token: its features are as long as other responses', not 1/ε times as long.
    text = gradients(engine, [Response((unseen, 5, 6), (7, 8))])[0]
    length = float((text[name] * P.sqrt().flatten()).norm())
    assert (
        0
        < length
        < 10 * max(float((row[name] * P.sqrt().flatten()).norm()) for row in gradients(engine, responses_of(pairs)))
    )


def test_rounding_is_floored_and_what_nothing_moved_stays() -> None:
    V = torch.tensor([4.0, 1e-14, 0.0, 2.0], dtype=torch.float64)
    mean = (4 + 1e-14 + 2) / 3
    expected = 1 / (torch.tensor([4.0, 1e-8 * mean, mean, 2.0], dtype=torch.float64).sqrt() + 1e-8)
    torch.testing.assert_close(scaling_of(V.clone()), expected, rtol=1e-12, atol=0)
    assert torch.equal(scaling_of(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_the_first_matrix_of_a_fresh_adapter_does_not_move(tmp_path: Path) -> None:
    """B is 0 at the start, so that A has no gradient: its V is 0, and so is its scaling; B's is not."""
    engine = engine_of(lora=4)
    for name, parameter in engine.parameters.items():
        if "lora_B" in name:
            parameter.data.zero_()
    V = measured(engine, some_pairs(11), ut.losses.DPO(), 1.0, STEPS).by_name
    for name, value in V.items():
        P = scaling_of(value)
        assert P.isfinite().all()
        assert (P == 0).all() if "lora_A" in name else (P > 0).all()


def test_they_are_kept_and_read_back(tmp_path: Path) -> None:
    """In bfloat16: within a part in two hundred of the numbers measured; the second time no minibatch is run."""
    engine, pairs = engine_of(), some_pairs(11)
    folder = ForecastFolder(tmp_path)
    logps, reference = starts(engine, pairs)
    found, square = scaling(
        engine, folder, minibatches(STEPS, pairs, ut.losses.DPO(), logps, reference, None), "adamw", 1.0, Silent(),
        steps=len(STEPS), totals=(1, 1),
    )  # fmt: skip
    expected = measured(engine, pairs, ut.losses.DPO(), 1.0, STEPS, math.ceil(FEWEST_GRADIENTS / len(STEPS)))
    assert square == pytest.approx(expected.mean_square, rel=1e-6)
    for name, value in expected.by_name.items():
        torch.testing.assert_close(found[name], scaling_of(value).sqrt(), rtol=5e-3, atol=0)
    again, same = scaling(engine, folder, iter(()), "adamw", 1.0, Silent(), steps=1, totals=(0, 0))
    assert same == square
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_sgd_scales_nothing(tmp_path: Path) -> None:
    engine = engine_of()
    found, square = scaling(engine, ForecastFolder(tmp_path), iter(()), "sgd", 1.0, Silent(), steps=1, totals=(0, 0))
    assert square == 1.0
    assert all((value == 1).all() for value in found.values())


def test_a_token_that_no_minibatch_had_is_scaled_as_one_that_one_had() -> None:
    V = torch.tensor([[1.0, 2.0], [9.0, 9.0], [3.0, 4.0], [1e-9, 7.0], [1e-9, 1e-9]], dtype=torch.float64)
    lend_to_unseen(V, torch.tensor([1, 5, 1, 0, 0]), torch.tensor([0, 3]))
    # Row 3 is wanted and unseen: at least the mean of rows 0 and 2. Row 4 is unseen and nobody has it: as it was.
    expected = [[1.0, 2.0], [9.0, 9.0], [3.0, 4.0], [2.0, 7.0], [1e-9, 1e-9]]
    torch.testing.assert_close(V, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)
    before = V.clone()
    lend_to_unseen(V, torch.zeros(5, dtype=torch.long), torch.tensor([0, 3]))  # nobody to lend
    assert torch.equal(V, before)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_pair_outside_the_minibatches_has_features_as_long_as_the_others(tmp_path: Path, tied: bool) -> None:
    """Its tokens' rows of the unembedding have a gradient in every minibatch, and a tiny one."""
    engine = engine_of("llama-tied" if tied else "llama")
    assert (engine.model.hf.get_input_embeddings().weight is engine.model.hf.get_output_embeddings().weight) == tied
    pairs = some_pairs(12)
    used = {token for pair in pairs for token in (*pair.prompt, *pair.chosen, *pair.rejected)}
    alone = sorted(set(range(3, engine.model.vocabulary)) - used)[:12]
    pairs[11] = TokenPair(11, "b" * 32, tuple(alone[:4]), tuple(alone[4:8]), tuple(alone[8:]), False)
    logps, reference = starts(engine, pairs)
    found, _ = scaling(
        engine, ForecastFolder(tmp_path), minibatches(STEPS, pairs[:11], ut.losses.DPO(), logps, reference, None),
        "rmsprop", 1.0, Silent(), steps=len(STEPS), totals=(0, 0), responses=responses_of(pairs),
    )  # fmt: skip
    rows = gradients(engine, responses_of(pairs))
    lengths = [sum(float((row[name] * found[name].flatten()).square().sum()) for name in found) for row in rows]
    assert max(lengths[-2:]) < 3 * max(lengths[:-2])


def test_the_minibatches_have_every_pair_with_features() -> None:
    kept = np.array([0, 1, 2, 4, 5, 7, 8, 9, 10, 12, 13])  # eleven, as STEPS are of; two epochs in six steps
    whole = covering(STEPS, kept, np.arange(20), seed=0)
    assert whole == list(STEPS[:3])
    some = covering(STEPS, kept, np.array([1, 2, 3, 9, 10, 13]), seed=0)
    assert {len(step.pairs) for step in some} == {4}
    assert {int(at) for step in some for at in step.pairs} == {1, 2, 7, 8, 10}
    assert all(step.shares is STEPS[0].shares for step in some)
    short = covering(STEPS[:1], kept, np.arange(20), seed=0)  # a run that ends before it has seen all
    assert short[0] is STEPS[0]
    assert {int(at) for step in short for at in step.pairs} == set(range(11))

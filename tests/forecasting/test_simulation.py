"""Simulated runs of a linear model against the parameters' own course, in float64: every loss, order and optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import undertow as ut
from undertow.forecasting.simulation import Study, sample_steps, simulate_order, simulated
from undertow.maths.linearised import Curvature, Features, Kernel
from undertow.runs.settings import LossSettings
from undertow.training.order import learning_rates, training_steps
from undertow.training.settings import TrainSettings

PAIRS, HELD, TEXTS, ENTRIES, SQUARE = 16, 2, 3, 50, 0.7
ROWS = 2 * (PAIRS + HELD) + TEXTS
CLIP, NO_CLIP = 0.15, 1e9


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


G = normal(ROWS, ENTRIES, seed=1)
V = normal(ENTRIES, seed=2).abs() + 0.1
LOGPS = normal(ROWS, seed=3) - 20
REFERENCE = normal(PAIRS + HELD, 2, seed=4) - 20
TOKENS = normal(PAIRS + HELD, 2, seed=5).abs().mul(5).ceil()
BENT = normal(ROWS, seed=6)


def study(optimiser: str, sample: list[int] | None = None, *, length: float = 0.0, features: bool = False) -> Study:
    """Of the pairs in a sample (all where None), the held-out ones and the texts; with the curvature of a look."""
    taken = np.arange(PAIRS) if sample is None else np.array(sample)
    pairs = [*taken, *range(PAIRS, PAIRS + HELD)]
    rows = [row for pair in pairs for row in (2 * pair, 2 * pair + 1)] + list(range(2 * (PAIRS + HELD), ROWS))
    plain = G[rows]
    scaled = plain if optimiser == "sgd" else plain / V.sqrt().sqrt()
    kind = Features if features else lambda S: Kernel(S @ S.T)
    return Study(
        pairs=PAIRS, sample=taken, products=kind(scaled), norms=kind(plain), logps=LOGPS[rows],
        reference=REFERENCE[pairs], tokens=TOKENS[pairs], grad_norms=None, held_out=HELD, mean_square=SQUARE,
        curvature=Curvature(BENT[rows], length) if length else None,
    )  # fmt: skip


def run_of(**options: Any) -> TrainSettings:
    """Two epochs of uneven steps, with a warm-up: two batches a step, and a short one counts as much as a long one."""
    plain = {
        "lr": 0.03, "batch_size": 3, "accumulate": 2, "epochs": 2.0, "warmup_steps": 2, "schedule": "linear", "seed": 4,
        "max_grad_norm": CLIP,
    }  # fmt: skip
    return TrainSettings(**{**plain, **options})


def by_hand(settings: TrainSettings, sample: list[int], kept: list[int], length: float) -> dict[str, Any]:
    """The parameters' own course, with a second moment ``v_t · V``. What each pair has moved, as itself and as a
    stand-in, is kept apart, and left out where it shall not count; what one pair does in other pairs' names is of
    several pairs, so that their moves' lengths add up as those of different ones."""
    optimiser, n = settings.optimiser, len(sample)
    P = torch.ones(ENTRIES).double() if optimiser == "sgd" else 1 / V.sqrt()
    decay = {"rmsprop": 0.99, "adamw": 0.999, "sgd": 0.0}[optimiser]
    loss = settings.loss.make()
    steps = training_steps(len(kept), settings)
    plan = sample_steps(steps, np.array(kept), np.array(sample), seed=settings.seed)
    rates = learning_rates(len(steps), settings)
    theta, m = torch.zeros(2, n, ENTRIES).double(), torch.zeros(2, n, ENTRIES).double()
    names: list[tuple[int, Tensor, Tensor]] = []  # of pairs stood in for: by whom, what it moved, its momentum
    v, losses, clipped = 0.0, [], 0

    def changes(pair: int, own: bool) -> Tensor:
        """Of both responses of a pair of the sample, as itself or as a stand-in."""
        mine = theta[1, pair] + (0 if own else theta[0, pair])
        return bent(G[2 * sample[pair] : 2 * sample[pair] + 2] @ (theta.sum((0, 1)) - mine), 2 * sample[pair])

    def bent(linear: Tensor, row: int) -> Tensor:
        if not length:
            return linear
        return linear + BENT[row : row + len(linear)] * squared_length() / length

    def squared_length() -> float:
        size = lambda move: float((move**2 / P).sum())  # noqa: E731
        together = sum(size(theta[:, k].sum(0)) - size(theta[0, k]) for k in range(n))
        return size(theta.sum((0, 1))) - together + sum(size(move) for _, move, _ in names)

    for t, (step, planned, lr) in enumerate(zip(steps, plan, rates, strict=True), 1):
        ascents, total, others = torch.zeros(2, n, ENTRIES).double(), 0.0, []
        for number, share, own in zip(planned.pairs.tolist(), step.shares, planned.own.tolist(), strict=True):
            pair = sample[number]
            now = (LOGPS[2 * pair : 2 * pair + 2] + changes(number, own)).requires_grad_(True)
            value = loss.at_step(t - 1)(batch_of(pair, now)).sum()
            (pull,) = torch.autograd.grad(value, now)
            total += share * value.item()
            ascent = -share * (pull @ G[2 * pair : 2 * pair + 2])
            ascents[0 if own else 1, number] += ascent
            others += [] if own else [(number, ascent)]
        losses.append(total)
        norm = float(ascents.sum((0, 1)).norm())
        clipped += norm > settings.max_grad_norm
        kept_share = min(1.0, settings.max_grad_norm / norm) if norm else 1.0
        ascents = ascents * kept_share
        v = decay * v + (1 - decay) * (kept_share * norm) ** 2 / SQUARE
        keeps = 0.9 if optimiser == "adamw" else 0.0
        size = {"sgd": 1.0, "rmsprop": 1 / (v**0.5 or 1.0), "adamw": (v / (1 - decay**t)) ** -0.5 / (1 - 0.9**t)}
        names += [(number, torch.zeros(ENTRIES).double(), torch.zeros(ENTRIES).double()) for number, _ in others]
        fresh = [torch.zeros(ENTRIES).double()] * (len(names) - len(others)) + [kept_share * move for _, move in others]
        moving = [keeps * one[2] + (1 - keeps) * new for one, new in zip(names, fresh, strict=True)]
        pace = lr * size[optimiser] * P
        names = [(one[0], one[1] + pace * now, now) for one, now in zip(names, moving, strict=True)]
        m = keeps * m + (1 - keeps) * ascents
        theta = theta + pace * m
    rest = list(range(2 * PAIRS, ROWS))
    ends = [G[2 * p : 2 * p + 2] @ (theta.sum((0, 1)) - theta[1, k]) for k, p in enumerate(sample)]
    linear = torch.cat([*ends, G[rest] @ theta.sum((0, 1))])
    rows = [row for pair in sample for row in (2 * pair, 2 * pair + 1)] + rest
    own = torch.stack([G[2 * p] @ theta[0, k] for k, p in enumerate(sample)])
    size = squared_length()
    changed = linear + (BENT[rows] * size / length if length else 0)
    return {
        "linear": linear, "changes": changed, "own": own, "losses": losses, "clipped": clipped / len(steps),
        "length": size, "steps": steps,
    }  # fmt: skip


def batch_of(pair: int, now: Tensor) -> ut.losses.Logps:
    return ut.losses.Logps(
        chosen=now[:1], rejected=now[1:], ref_chosen=REFERENCE[pair, :1], ref_rejected=REFERENCE[pair, 1:],
        chosen_tokens=TOKENS[pair, :1], rejected_tokens=TOKENS[pair, 1:],
    )  # fmt: skip


def check(settings: TrainSettings, sample: list[int] | None = None, kept: list[int] | None = None, length: float = 0.0):
    """A simulation is that course: changes, loss, clipping, length of the move, and when each pair was trained."""
    kept = list(range(PAIRS)) if kept is None else kept
    expected = by_hand(settings, list(range(PAIRS)) if sample is None else sample, kept, length)
    for features in (False, True):
        found = simulate_order(
            study(settings.optimiser, sample, length=length, features=features), settings, np.array(kept)
        )
        torch.testing.assert_close(found.linear, expected["linear"], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found.changes, expected["changes"], rtol=1e-8, atol=1e-9)
        assert found.loss == pytest.approx(np.mean(expected["losses"]), rel=1e-9)
        assert found.length == pytest.approx(expected["length"], rel=1e-8)
        assert found.clipped == expected["clipped"]
        assert [point.step for point in found.curve] == list(range(1, found.steps + 1))
        assert [point.batch_loss for point in found.curve] == pytest.approx(expected["losses"], rel=1e-9)
        torch.testing.assert_close(found.curve[-1].texts, expected["changes"][-TEXTS:], rtol=1e-8, atol=1e-9)
    first = {
        kept[at]: number for number, step in reversed([*enumerate(expected["steps"], 1)]) for at in step.pairs.tolist()
    }
    assert found.first_step.tolist() == [first.get(pair, 0) for pair in range(PAIRS)]
    assert found.linear.abs().max() > 0.3, "the run goes far"
    return found, expected


@pytest.mark.parametrize("clip", [CLIP, NO_CLIP])
@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop", "adamw"])
def test_epochs_accumulation_warm_up_and_clipping(optimiser: str, clip: float) -> None:
    lr = {"sgd": 3.0 if clip == CLIP else 0.5, "rmsprop": 0.03, "adamw": 0.1}[optimiser]
    found, _ = check(run_of(optimiser=optimiser, max_grad_norm=clip, lr=lr))
    assert (found.clipped > 0.5) == (clip == CLIP)
    assert found.steps == 6


@pytest.mark.parametrize("schedule", ["constant", "cosine", "constant_with_warmup", "polynomial", "inverse_sqrt"])
def test_schedules(schedule: str) -> None:
    check(run_of(schedule=schedule))


@pytest.mark.parametrize("loss", [name for name in ut.losses.names() if name != "rebel"])
def test_every_loss(loss: str) -> None:
    """Its weights where the simulated run stands; V was measured with one of another size."""
    check(run_of(loss=LossSettings(name=loss), max_grad_norm=NO_CLIP))


@pytest.mark.parametrize("beta", [0.01, 1.0])
def test_another_beta_than_that_of_the_second_moments(beta: float) -> None:
    check(run_of(loss=LossSettings(beta=beta), max_grad_norm=NO_CLIP))


@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop", "adamw"])
def test_curvature_is_in_the_weights_and_in_what_is_read(optimiser: str) -> None:
    lr = {"sgd": 3.0, "rmsprop": 0.03, "adamw": 0.1}[optimiser]
    found, _ = check(run_of(optimiser=optimiser, lr=lr, loss=LossSettings(beta=0.5)), length=0.2)
    assert (found.changes - found.linear).abs().max() > 0.2
    straight = simulate_order(study(optimiser), run_of(optimiser=optimiser, lr=lr, loss=LossSettings(beta=0.5)), ALL)
    assert not torch.allclose(straight.linear, found.linear, rtol=1e-3)


ALL = np.arange(PAIRS)
SAMPLE = [1, 2, 5, 6, 9, 12]


@pytest.mark.parametrize("length", [0.0, 2.0])
@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop", "adamw"])
def test_a_sample_stands_in_for_the_others(optimiser: str, length: float) -> None:
    """Each acts on all but itself under the other's name, and weighs there as a pair that was not trained yet."""
    lr = {"sgd": 3.0, "rmsprop": 0.03, "adamw": 0.1}[optimiser]
    found, expected = check(run_of(optimiser=optimiser, lr=lr), SAMPLE, length=length)
    blocks = study(optimiser, SAMPLE).products.blocks(len(SAMPLE))
    own = (blocks @ found.coefficients.view(-1, 2, 1)).squeeze(2)[:, 0]
    torch.testing.assert_close(own, expected["own"], rtol=1e-8, atol=1e-9)
    assert found.stand_ins.abs().sum() > 0


def test_a_filtered_sample_acts_on_those_left_out_too() -> None:
    check(run_of(), SAMPLE, kept=[0, 1, 3, 4, 5, 7, 9, 10])
    check(run_of(), kept=[0, 1, 3, 4, 5, 7, 9, 10])


def test_stand_ins_are_drawn_evenly_from_those_that_are_trained() -> None:
    settings = run_of(epochs=300.0)
    kept, sample = np.array([0, 1, 3, 4, 5, 7, 9, 10]), np.array(SAMPLE)
    steps = training_steps(len(kept), settings)
    plan = sample_steps(steps, kept, sample, seed=9)
    counts = dict.fromkeys(range(len(SAMPLE)), 0)
    for step, planned in zip(steps, plan, strict=True):
        assert planned.shares.tolist() == step.shares.tolist()
        for number, at, own in zip(kept[step.pairs], planned.pairs.tolist(), planned.own.tolist(), strict=True):
            assert own == (number in SAMPLE)
            if own:
                assert SAMPLE[at] == number
            else:
                counts[at] += 1
    able = [SAMPLE.index(number) for number in (1, 5, 9)]
    assert sum(counts.values()) == 300 * 5
    assert {at: count for at, count in counts.items() if count} == dict.fromkeys(able, 500)
    same, other = (sample_steps(steps, kept, sample, seed=seed) for seed in (9, 10))
    assert all(torch.equal(one.pairs, two.pairs) for one, two in zip(plan, same, strict=True))
    assert not all(torch.equal(one.pairs, two.pairs) for one, two in zip(plan, other, strict=True))


def test_none_to_train_on_is_refused_with_the_way_out() -> None:
    with pytest.raises(ut.OptionError, match="no pair of the training set has features.*--sample more"):
        simulate_order(study("rmsprop", SAMPLE), run_of(), np.array([0, 3, 4]))


def test_an_unknown_order_is_the_mean_over_orders() -> None:
    """By a loop over the orders; the share of them in which a response falls is one of ``orders`` numbers."""
    settings, orders = run_of(epochs=1.0), 7
    found = simulated(study("rmsprop"), settings, ALL, order="unknown", orders=orders)
    each = [
        simulate_order(study("rmsprop"), settings, ALL, order="unknown", seed=settings.seed + k) for k in range(orders)
    ]
    for name in ("linear", "changes", "coefficients"):
        mean = sum(getattr(one, name) for one in each) / orders
        torch.testing.assert_close(getattr(found, name), mean, rtol=1e-12, atol=1e-12)
    falls = torch.stack([one.changes < 0 for one in each])
    torch.testing.assert_close(found.below, falls.double().mean(0))
    assert ((found.below > 0) & (found.below < 1)).any(), "fates depend on the order"
    assert found.loss == pytest.approx(np.mean([one.loss for one in each]))
    assert not found.first_step.any()
    assert found.curve[-1].displaced == pytest.approx(float(falls[:, 0 : 2 * PAIRS : 2].double().mean()))


def test_one_order_drawn_is_as_unknown_as_many() -> None:
    found = simulated(study("rmsprop"), run_of(), ALL, order="unknown", orders=1)
    one = simulate_order(study("rmsprop"), run_of(), ALL, order="unknown", seed=run_of().seed)
    assert torch.equal(found.changes, one.changes)
    assert one.first_step.any()
    assert not found.first_step.any(), "when a pair is trained is not known"


@pytest.mark.parametrize(("optimiser", "lr"), [("rmsprop", 1e-3), ("adamw", 1e-2), ("sgd", 1.0)])
def test_it_is_close_to_torchs_own_optimiser(optimiser: str, lr: float) -> None:
    """With V over all minibatches at the start; torch's running second moment is that of the gradients that come."""
    settings = run_of(optimiser=optimiser, lr=lr, epochs=6.0, max_grad_norm=NO_CLIP, accumulate=1)
    loss, steps = settings.loss.make(), training_steps(PAIRS, settings)
    wide = normal(ROWS, 4000, seed=8) * (normal(4000, seed=9).exp())
    theta = torch.zeros(4000, dtype=torch.float64, requires_grad=True)
    optimiser_of = {"rmsprop": torch.optim.RMSprop, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimiser]
    real = optimiser_of([theta], lr=lr, **({"weight_decay": 0.0} if optimiser == "adamw" else {}))

    def descend(step) -> None:
        real.zero_grad()
        total = torch.zeros(())
        for pair, share in zip(step.pairs.tolist(), step.shares, strict=True):
            total = (
                total
                + share
                * loss(batch_of(pair, LOGPS[2 * pair : 2 * pair + 2] + wide[2 * pair : 2 * pair + 2] @ theta)).sum()
            )
        total.backward()

    squares = []
    for step in steps[: len(steps) // 6]:
        descend(step)
        squares.append(theta.grad.square())
    second = torch.stack(squares).mean(0)
    for step in steps:
        real.param_groups[0]["lr"] = step.lr
        descend(step)
        real.step()
    scaled = wide if optimiser == "sgd" else wide / second.sqrt().sqrt()
    kernel, norms = Kernel(scaled @ scaled.T), Kernel(wide @ wide.T)
    one = study(optimiser)
    found = simulate_order(
        Study(
            PAIRS, one.sample, kernel, norms, LOGPS, REFERENCE, TOKENS, None, HELD, float(second.sum())
        ),
        settings, ALL,
    )  # fmt: skip
    fact = (wide @ theta).detach()
    slope = float(fact @ found.linear / (found.linear @ found.linear))
    correlation = float(np.corrcoef(fact.numpy(), found.linear.numpy())[0, 1])
    assert correlation > (0.999999 if optimiser == "sgd" else 0.97)
    assert slope == pytest.approx(1, rel=1e-6 if optimiser == "sgd" else 0.15)

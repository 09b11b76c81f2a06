"""The steps foretold are the steps taken: by our trainer, on one process and on two, and by TRL's."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from recorded_training import flat, gradient, make, recorded
from undertow.training.order import Step, learning_rates, training_steps
from undertow.training.settings import SCHEDULES, TrainSettings

TESTS = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def settings(**options: Any) -> TrainSettings:
    plain = {
        "batch_size": 3, "lr": 1e-4, "optimiser": "sgd", "max_grad_norm": 1e9, "dtype": "float32", "device": "cpu",
        "seed": 5,
    }  # fmt: skip
    return TrainSettings(**{**plain, **options})


def shares(sizes: Iterable[int]) -> list[float]:
    """Of each pair of batches of these sizes: every batch's loss is its mean, and the step's is the mean over them."""
    sizes = list(sizes)
    return [1 / (len(sizes) * size) for size in sizes for _ in range(size)]


@pytest.mark.parametrize(
    ("pairs", "options", "sizes"),
    [
        (12, {}, [[3]] * 4),
        (11, {}, [[3], [3], [3], [2]]),
        (22, {"accumulate": 3}, [[3, 3, 3], [3, 3, 3], [3, 1]]),
        (13, {"accumulate": 3, "epochs": 2}, [[3, 3, 3], [3, 1]] * 2),
        (10, {"accumulate": 3}, [[3, 3, 3], [1]]),
        (5, {"accumulate": 4, "epochs": 2}, [[3, 2]] * 2),
        (13, {"epochs": 0.5}, [[3]] * 3),
        (13, {"epochs": 1.5}, [*[[3]] * 4, [1], *[[3]] * 3]),
        (13, {"epochs": 2}, [*[[3]] * 4, [1]] * 2),
        (7, {"epochs": 0.01}, [[3]]),
        (11, {"max_steps": 3}, [[3]] * 3),
        (11, {"max_steps": 9, "epochs": 0.5}, [*[[3]] * 3, [2], *[[3]] * 3, [2], [3]]),
        (2, {}, [[2]]),
        (11, {"seed": 0}, [[3], [3], [3], [2]]),
        (11, {"seed": 2**32 - 1, "epochs": 2}, [[3], [3], [3], [2]] * 2),
        (12, {"schedule": "constant"}, [[3]] * 4),
        (12, {"schedule": "cosine", "warmup_steps": 2, "epochs": 2}, [[3]] * 8),
        (12, {"schedule": "linear", "warmup_steps": 3, "epochs": 1.5}, [[3]] * 6),
        (12, {"warmup_steps": 9}, [[3]] * 4),
    ],
)
def test_the_trainer_takes_these_steps(pairs: int, options: dict, sizes: list[list[int]], tmp_path: Path) -> None:
    """Pairs, learning rate and number of the steps; and the gradient of each is ``Σ_j share_j ∇ℓ_j``."""
    asked = settings(**options)
    steps = training_steps(pairs, asked)
    taken = recorded(pairs, asked, tmp_path, steps)
    assert [[len(batch) for batch in step.batches] for step in taken] == sizes
    assert len(steps) == len(taken)
    for foretold, step in zip(steps, taken, strict=True):
        assert foretold.pairs.tolist() == [pair for batch in step.batches for pair in batch]
        assert foretold.shares == pytest.approx(shares(map(len, step.batches)), rel=1e-15)
        assert foretold.lr == step.lr, "to the last bit"
        torch.testing.assert_close(step.gradient, step.expected, rtol=1e-7, atol=1e-10)
        assert step.gradient.norm() > 1e-3


def test_every_seed_and_every_epoch_has_its_own_order() -> None:
    def epochs(seed: int) -> list[tuple[int, ...]]:
        steps = training_steps(40, settings(seed=seed, epochs=3, batch_size=40))
        return [tuple(step.pairs.tolist()) for step in steps]

    assert len(set(epochs(5))) == 3
    assert epochs(5)[0] != epochs(6)[0]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs(5))


@pytest.mark.parametrize("order", ["train", "trl", "unknown"])
def test_a_seed_of_its_own_goes_before_that_of_the_settings(order: str) -> None:
    def pairs(**named: Any) -> list[list[int]]:
        seed = named.pop("of_settings")
        return [step.pairs.tolist() for step in training_steps(30, settings(seed=seed), order=order, **named)]

    assert pairs(of_settings=1, seed=8) == pairs(of_settings=8) != pairs(of_settings=1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 2])
def test_learning_rates_are_those_of_the_trainers_own_scheduler(schedule: str, warmup: int, tmp_path: Path) -> None:
    """Which is stepped here, after every step of the optimiser, and asked what it has set."""
    asked = settings(schedule=schedule, warmup_steps=warmup, lr=3e-4)
    trainer = make(3, asked, tmp_path)
    trainer.create_optimizer_and_scheduler(7)
    rates = []
    for _ in range(7):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert learning_rates(7, asked) == rates
    assert rates[0] == (0 if warmup and schedule != "constant" else 3e-4)


def test_three_steps_of_sgd_are_the_gradient_times_the_learning_rate(tmp_path: Path) -> None:
    """By hand, from weights of our own: ``θ ← θ − lr·g``, without momentum."""
    asked = settings(lr=1e-3, schedule="linear", max_steps=3, batch_size=4)
    trained, other = make(12, asked, tmp_path / "trained"), make(12, asked, tmp_path / "by-hand")
    trained.train()
    start = flat(other.model.parameters())
    assert trained.state.global_step == 3
    for step in training_steps(12, asked):
        moves = gradient(other, other.model, step)
        with torch.no_grad():
            for parameter, part in zip(
                other.model.parameters(), moves.split([p.numel() for p in other.model.parameters()]), strict=True
            ):
                parameter -= step.lr * part.view_as(parameter)
    came, expected = flat(trained.model.parameters()), flat(other.model.parameters())
    assert (came - start).norm() > 1e-4
    torch.testing.assert_close(came - start, expected - start, rtol=1e-6, atol=1e-12)


def test_an_unknown_order_is_a_fresh_permutation_an_epoch() -> None:
    asked = settings(epochs=2, batch_size=4, accumulate=2)
    steps = training_steps(19, asked, order="unknown", seed=7)
    generator = np.random.default_rng(7)
    expected = [generator.permutation(19).tolist() for _ in range(2)]
    seen = [pair for step in steps for pair in step.pairs.tolist()]
    assert [seen[:19], seen[19:]] == expected
    assert [len(step.pairs) for step in steps] == [8, 8, 3] * 2
    assert [step.lr for step in steps] == [step.lr for step in training_steps(19, asked)]


@pytest.mark.parametrize("order", ["train", "unknown"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("pairs", [1, 2, 7, 12, 25])
def test_shares_sum_to_one_and_every_process_has_the_same_number_of_pairs(
    pairs: int, accumulate: int, world_size: int, order: str
) -> None:
    asked = settings(epochs=1.5, accumulate=accumulate)
    steps = training_steps(pairs, asked, world_size=world_size, order=order)
    batches = math.ceil(math.ceil(pairs / 3) / world_size)
    a_epoch = math.ceil(batches / accumulate)
    assert len(steps) == math.ceil(1.5 * a_epoch)
    for step in steps:
        assert step.shares.sum() == pytest.approx(1)
        assert step.pairs.shape == step.shares.shape
        if world_size > 1:
            assert len(step.pairs) % (3 * world_size) == 0, "the last batches are filled"
            assert step.shares == pytest.approx(1 / len(step.pairs))
    once = np.concatenate([step.pairs for step in steps[:a_epoch]])
    assert set(once.tolist()) == set(range(pairs))


@pytest.mark.parametrize("pairs", [4, 13, 17])
def test_batches_of_several_processes_are_those_of_accelerates_shards(pairs: int) -> None:
    steps = training_steps(pairs, settings(accumulate=2), world_size=2)
    sampler = SeedableRandomSampler(range(pairs), data_seed=5)
    both = []
    for rank in range(2):
        sampler.set_epoch(0)
        both.append(list(BatchSamplerShard(BatchSampler(sampler, 3, False), num_processes=2, process_index=rank)))
    expected = [pair for time in zip(*both, strict=True) for batch in time for pair in batch]
    assert [pair for step in steps for pair in step.pairs.tolist()] == expected
    assert len(expected) > pairs, "filled from the beginning"


def test_two_processes_take_these_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker holds each step's gradient, averaged over both, against ``Σ_j share_j ∇ℓ_j``; here are the pairs."""
    options = {
        "batch_size": 3, "accumulate": 2, "epochs": 1.5, "lr": 1e-4, "optimiser": "sgd", "max_grad_norm": 1e9,
        "dtype": "float32", "device": "cpu", "seed": 5, "schedule": "cosine", "warmup_steps": 1,
    }  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent / 'src'}:{TESTS}")
    worker = [str(TESTS / "order_worker.py"), str(tmp_path), "16", json.dumps(options)]
    done = subprocess.run([*LAUNCH, *worker], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    steps = training_steps(16, TrainSettings(**options), world_size=2)
    assert len(one) == len(two) == len(steps) == 3
    for step, first, second in zip(steps, one, two, strict=True):
        times = zip(first["batches"], second["batches"], strict=True)
        assert step.pairs.tolist() == [pair for time in times for batch in time for pair in batch]
        assert step.lr == first["lr"] == second["lr"]
    assert [len(step.pairs) for step in steps] == [12, 6, 12]
    whole = np.concatenate([step.pairs for step in steps[:2]]).tolist()
    assert len(set(whole)) == 16 < len(whole) == 18, "the epoch's first pairs fill the last batch"


class Rates(TrainerCallback):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **_: Any) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


def test_trl_takes_these_steps(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its dataloader and its learning rates, in a run; and the loss it goes down is divided as ours."""
    pytest.importorskip("trl", reason="needs TRL: pip install undertow[trl]")
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": f"[{n}] Say it:", "chosen": f" yes {n}", "rejected": f" no {n}"} for n in range(13)]
    args = DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=3, gradient_accumulation_steps=2, num_train_epochs=1.5,
        learning_rate=1e-4, lr_scheduler_type="cosine", warmup_steps=1, seed=5, max_length=400, use_cpu=True,
        bf16=False, gradient_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True,
        optim="sgd", max_grad_norm=1e9,
    )  # fmt: skip
    tokenizer, rates = AutoTokenizer.from_pretrained(model), Rates()
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[rates],
    )
    batches: list[list[int]] = []
    losses: list[tuple[float, float]] = []
    compute, train = trainer.compute_loss, trainer.training_step

    def noting(model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        texts = tokenizer.batch_decode(inputs["input_ids"][: len(inputs["input_ids"]) // 2])  # the chosen come first
        batches.append([int(re.search(r"\[(\d+)\]", text)[1]) for text in texts])
        loss = compute(model, inputs, *more, **named)
        losses.append((float(loss.detach()), 0.0))
        return loss

    def divided(*arguments: Any) -> Any:
        loss = train(*arguments)
        losses[-1] = (losses[-1][0], float(loss))
        return loss

    monkeypatch.setattr(trainer, "compute_loss", noting)
    monkeypatch.setattr(trainer, "training_step", divided)
    trainer.train()
    asked = settings(accumulate=2, epochs=1.5, schedule="cosine", warmup_steps=1)
    steps = training_steps(13, asked, order="trl")
    assert [step.lr for step in steps] == rates.seen
    assert [pair for step in steps for pair in step.pairs.tolist()] == [pair for batch in batches for pair in batch]
    of_batches = [share for step in steps for share in of_batch(step)]
    assert [share * loss for share, (loss, _) in zip(of_batches, losses, strict=True)] == pytest.approx(
        [loss for _, loss in losses], rel=1e-5
    )
    assert set(of_batches) == {0.5, 1.0}, "the epoch's last step has one batch only"


def of_batch(step: Step) -> list[float]:
    """What the shares of each batch of three (or the rest) sum to."""
    return [round(float(step.shares[start : start + 3].sum()), 12) for start in range(0, len(step.pairs), 3)]


@pytest.mark.parametrize(("pairs", "world_size"), [(0, 1), (5, 0)])
def test_nothing_to_train_on_is_refused(pairs: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        training_steps(pairs, settings(), world_size=world_size)

"""Undertow's training against TRL's ``DPOTrainer``: the same weights, the same tokens, the same steps.

Each trains in a process of its own, one after the other, with the same settings: DPO, RMSProp, reference
log-probabilities computed before, no dropout, no gradient checkpointing, pairs in their order. TRL gets Undertow's
tokens, so that nothing but the training differs. Printed as JSON: seconds a step (the median without the first step,
which is slow for both), processor seconds a step (of all threads: less disturbed by what else runs on the machine),
tokens a second (of both sequences of a pair, prompt included, over the same steps), the peak of resident memory of the
whole process, the ratios TRL / Undertow, and the largest difference of the losses.

    python benchmarks/training.py --pairs 32 --batch-size 4 --max-length 512 --steps 6
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
TRAINERS = ("trl", "undertow")
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456"}
BETA = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data" / "alpaca_eval_pairs.jsonl"))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=0, help="0: once over the pairs")
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16: mixed precision")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument(
        "--malloc",
        choices=["both", "own"],
        default="both",
        help="both: memory kept by the same settings of the environment in both processes; own: each as it is run by "
        "its users, where `undertow train` makes such settings itself and TRL makes none",
    )
    parser.add_argument(
        "--track-every",
        type=int,
        default=0,
        help="also time looks at a probe set of the size that `undertow train` takes by itself, before the first step "
        "and after the last, and tell their share of the time at this interval",
    )
    parser.add_argument(
        "--track-gradients",
        action="store_true",
        help="looks with the products of the pairs' gradients, of as many pairs as `undertow train` takes by itself",
    )
    parser.add_argument("--only", choices=TRAINERS, help="train with this one, in this process")
    options = parser.parse_args()
    print(json.dumps(train(options) if options.only else compare(options), indent=2))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    found = {name: in_its_own_process(name, options) for name in TRAINERS}
    trl, ours = (found[name] for name in TRAINERS)
    losses = {name: run.pop("losses") for name, run in found.items()}
    return {
        **{name: value for name, value in vars(options).items() if name in ("pairs", "batch_size", "max_length")},
        "dtype": options.dtype,
        "malloc": options.malloc,
        "threads": options.threads or torch.get_num_threads(),
        **found,
        "ratio_seconds_a_step": round(trl["seconds_a_step"] / ours["seconds_a_step"], 2),
        "ratio_cpu_seconds_a_step": round(trl["cpu_seconds_a_step"] / ours["cpu_seconds_a_step"], 2),
        "ratio_tokens_a_second": round(ours["tokens_a_second"] / trl["tokens_a_second"], 2),
        "ratio_peak_mb": round(trl["peak_mb"] / ours["peak_mb"], 2),
        "losses": losses,
        "largest_loss_difference": max(abs(a - b) for a, b in zip(*losses.values(), strict=True)),
    }


def in_its_own_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    values = {key: value for key, value in vars(options).items() if key not in ("only", "track_gradients")}
    given = [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]
    environment = {**os.environ, "TQDM_DISABLE": "1", **(MALLOC if options.malloc == "both" else {})}
    command = [sys.executable, __file__, *given, f"--only={name}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index('{\n  "seconds_a_step"') :])
    return found


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train in this process; what it took."""
    from transformers.trainer_utils import set_seed

    from undertow.data.reading import read_pairs
    from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings
    from undertow.models.loading import load_model

    if options.threads:
        torch.set_num_threads(options.threads)
    model = load_model(options.model, device="cpu", dtype="float32", packed=options.only == "undertow")
    model.hf.requires_grad_(True).train()
    encoder = PairEncoder(model.tokenizer, TokenSettings(max_length=options.max_length))
    encoded = (encoder.encode(pair) for pair in read_pairs(options.data, limit=options.pairs))
    pairs = [pair for pair in encoded if isinstance(pair, TokenPair)]
    steps = options.steps or len(pairs) // options.batch_size
    if steps * options.batch_size > len(pairs):
        sys.exit(f"--steps {steps} take {steps * options.batch_size} pairs; there are {len(pairs)}.")
    pairs = pairs[: steps * options.batch_size]
    set_seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = {"trl": with_trl, "undertow": with_undertow}[options.only](model, pairs, options, Path(folder))
        seconds, cpu_seconds = time_steps(trainer)
        looks = time_looks(trainer, model, pairs, options) if options.only == "undertow" and options.track_every else []
        trainer.train()
    tokens = [2 * pair.prompt_tokens + pair.chosen_tokens + pair.rejected_tokens for pair in pairs]
    return {
        "seconds_a_step": round(statistics.median(seconds[1:]), 3),
        "cpu_seconds_a_step": round(statistics.median(cpu_seconds[1:]), 3),
        "tokens_a_second": round(sum(tokens[options.batch_size :]) / sum(seconds[1:]), 1),
        "peak_mb": peak_mb(),
        **(share_of_looks(looks, statistics.median(seconds[1:]), options) if looks else {}),
        "first_step_seconds": round(seconds[0], 3),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def common(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The settings that both trainers get."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": options.batch_size,
        "learning_rate": options.lr,
        "optim": "rmsprop",
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "activation_checkpointing": False,
        "bf16": options.dtype == "bfloat16",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": options.seed,
    }


def with_trl(model: Any, pairs: list[Any], options: argparse.Namespace, folder: Path) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class OnTokens(DPOTrainer):
        """TRL's trainer, given tokens instead of text; all else is its own."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    rows = [{f"{name}_ids": list(getattr(p, name)) for name in ("prompt", "chosen", "rejected")} for p in pairs]
    settings = {"beta": BETA, "max_length": options.max_length, "precompute_ref_log_probs": True}
    return OnTokens(
        model=model.hf,
        args=DPOConfig(**common(options, folder), **settings, disable_dropout=True),
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer,
    )


def with_undertow(model: Any, pairs: list[Any], options: argparse.Namespace, folder: Path) -> Any:
    from transformers import TrainingArguments

    from undertow.losses import DPO
    from undertow.models.device import keep_large_blocks
    from undertow.runs.progress import Silent
    from undertow.runs.token_file import TokenFile
    from undertow.training.dataset import PairDataset, collate
    from undertow.training.forward import train_on_pairs
    from undertow.training.reference import reference_logps
    from undertow.training.trainer import PreferenceTrainer

    keep_large_blocks()  # as the command does
    spool = TokenFile(folder / "tokens.arrow")
    for pair in pairs:
        spool.add(pair)
    spool.close()
    model.hf.eval()
    reference = reference_logps(spool, model, folder, "benchmark", batch_tokens=4096, watch=Silent())
    train_on_pairs(model)
    return PreferenceTrainer(
        loss=DPO(BETA),
        model=model.hf,
        args=TrainingArguments(**common(options, folder), remove_unused_columns=False, logging_nan_inf_filter=False),
        train_dataset=PairDataset(spool, reference),
        data_collator=collate,
    )


def time_steps(trainer: Any) -> tuple[list[float], list[float]]:
    """Seconds and processor seconds of each step, added while it trains: forward, backward and the optimiser's step."""
    from transformers import TrainerCallback

    clocks: tuple[Callable[[], float], ...] = (time.perf_counter, time.process_time)
    seconds: tuple[list[float], list[float]] = ([], [])

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = [clock() for clock in clocks]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            for kept, clock, started in zip(seconds, clocks, self.started, strict=True):
                kept.append(clock() - started)

    trainer.add_callback(Clock())
    return seconds


def time_looks(trainer: Any, model: Any, pairs: list[Any], options: argparse.Namespace) -> list[float]:
    """Seconds of each look at the probe set, added while it trains."""
    from undertow.training.phases import spread_evenly
    from undertow.training.settings import TrainSettings
    from undertow.training.tracking import callback
    from undertow.training.tracking.gradients import FullProbe, GradientProbe
    from undertow.training.tracking.tracker import Tracker

    settings = TrainSettings(
        batch_size=options.batch_size, track_every=options.track_every, track_gradients=options.track_gradients
    )
    count = settings.probe_pairs
    if count > len(pairs):
        sys.exit(f"the probe set takes {count} pairs; there are {len(pairs)}: raise --steps.")
    gradients = None
    if options.track_gradients:
        products = torch.bfloat16 if options.dtype == "bfloat16" else None
        gradients = GradientProbe(trainer.loss, full=FullProbe(spread_evenly(settings.gradient_pairs, count), products))
    seconds: list[float] = []
    look = callback.look

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        found = look(*arguments, **named)
        seconds.append(time.perf_counter() - started)
        return found

    callback.look = timed  # type: ignore[assignment]
    tracker = Tracker(pairs[:count], model.tokenizer)
    trainer.add_callback(callback.DisplacementCallback(model, tracker, every=options.track_every, gradients=gradients))
    return seconds


def share_of_looks(looks: list[float], step: float, options: argparse.Namespace) -> dict[str, float]:
    """What looking every so many steps takes of the whole time."""
    look = looks[-1]  # the first one also finds out how gradients can be had
    return {
        "seconds_a_look": round(look, 3),
        "tracking_share": round(look / (look + options.track_every * step), 4),
    }


def peak_mb() -> int:
    """The largest resident memory this process ever had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


if __name__ == "__main__":
    main()

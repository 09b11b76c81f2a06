"""What bfloat16 costs in accuracy: a model is trained by a few small steps, then read in float32 and in bfloat16.

Three ways of reading both models: ``float32``; ``bfloat16``, weights and products, as ``--dtype bfloat16`` does; and
``rounded``, weights rounded to bfloat16 with products in float32, which shows what the weights alone lose. As JSON:

- ``weights``: of the weights that training changed, how many are equal once rounded, and the median relative change
  beside the resolution of bfloat16.
- ``compare``: on the pairs trained on and on the demo's: the mean and the largest change of ln π(chosen), and the
  largest error of one pair's change, in nats; how many pairs are displaced in one type and not in the other; Spearman
  correlation of the changes with those of float32.
- ``audit``: of the trained model on the pairs it was trained on and on the demo's: errors of ln π(y|x) in nats,
  verdicts that change with the type (sign of ``dlogp_chosen``, of ``free_dlogp_chosen`` and of the pull, ``case``),
  correlations, pairs that the filter would drop in one type and not in the other, and the time over that of float32.

    python benchmarks/dtype.py --pairs 32 --max-length 256 --lr 1e-6 --steps 8
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import spearmanr

import undertow as ut
from undertow.comparing.weights import change_of
from undertow.models.device import keep_large_blocks
from undertow.runs.settings import DataSettings
from undertow.training.run import train_to_folder
from undertow.training.settings import TrainSettings

ROOT = Path(__file__).parents[1]
DEMO_PAIRS = ROOT / "src" / "undertow" / "demo" / "pairs.jsonl"
WAYS = ("float32", "bfloat16", "rounded")
SIGNS = ("dlogp_chosen", "free_dlogp_chosen", "pull")
RANKED = ("ln_ches", "ches", "dlogp_chosen", "free_dlogp_chosen", "pull")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data" / "alpaca_eval_pairs.jsonl"))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument(
        "--demo-pairs", type=int, default=60, help="of the demo's, for the audit; spread over its kinds"
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--trained", help="a model trained already, instead of training one")
    options = parser.parse_args()
    keep_large_blocks()
    with tempfile.TemporaryDirectory() as folder:
        trained = options.trained or train(options, Path(folder))
        print(json.dumps(measure(options, trained), indent=2))


def train(options: argparse.Namespace, folder: Path) -> str:
    """DPO by a few steps; where the trained model lies."""
    settings = TrainSettings(
        data=DataSettings(limit=options.pairs, on_bad_row="skip"),
        tokens=ut.TokenSettings(max_length=options.max_length),
        lr=options.lr,
        max_steps=options.steps,
        batch_size=options.batch_size,
        track_every=0,
        device=options.device,
        dtype="float32",
    )
    train_to_folder(options.data, options.model, folder / "run", settings)
    return str(folder / "run" / "model")


def measure(options: argparse.Namespace, trained: str) -> dict[str, Any]:
    trained_on = ut.read_pairs(options.data, limit=options.pairs, on_bad_row="skip")
    demo = list(ut.read_pairs(DEMO_PAIRS))
    data: dict[str, Any] = {"trained on": trained_on, "demo": demo[:: max(len(demo) // options.demo_pairs, 1)]}
    tokens = ut.TokenSettings(max_length=options.max_length)
    changes: dict[str, dict[str, np.ndarray]] = {name: {} for name in data}
    tables: dict[str, dict[str, pa.Table]] = {name: {} for name in data}
    seconds: dict[str, float] = {}
    for way in WAYS:
        kind = "bfloat16" if way == "bfloat16" else "float32"
        before = ut.load_model(options.model, dtype=kind, device=options.device)
        after = ut.load_model(trained, dtype=kind, device=options.device)
        if way == "float32":
            differ = change_of(*(dict(model.hf.named_parameters()) for model in (before, after)), torch.bfloat16)
        if way == "rounded":
            for parameter in (*before.hf.parameters(), *after.hf.parameters()):
                parameter.data = parameter.data.bfloat16().float()
        started = time.perf_counter()
        for name, pairs in data.items():
            moved = ut.compare(pairs, before, after, tokens=tokens, resamples=1).table
            changes[name][way] = column(moved, "dlogp_chosen")
            if way != "rounded":
                tables[name][way] = with_pull(ut.audit(pairs, after, reference=before, pull=True, tokens=tokens))
        seconds[way] = time.perf_counter() - started
        print(f"  {way}: {seconds[way]:.1f} s", file=sys.stderr, flush=True)
    return {
        "options": {name: getattr(options, name) for name in ("pairs", "max_length", "steps", "batch_size", "lr")},
        "device": str(after.device),
        "weights": {
            "changed": differ.changed,
            "equal_once_rounded": round(differ.lost / differ.changed, 4),
            "median_relative_change": differ.median,
            "resolution": differ.resolution,
        },
        "compare": {
            name: {way: compared(values, found["float32"]) for way, values in found.items()}
            for name, found in changes.items()
        },
        "audit": {name: audited(found["bfloat16"], found["float32"]) for name, found in tables.items()},
        "bfloat16_time_over_float32": round(seconds["bfloat16"] / seconds["float32"], 2),
    }


def with_pull(table: pa.Table) -> pa.Table:
    if "pull" in table.column_names:
        return table
    return table.append_column("pull", pa.array(column(table, "pull_own") + column(table, "pull_others")))


def compared(found: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    return {
        "mean_change": round(float(found.mean()), 3),
        "largest_change": round(float(np.abs(found).max()), 3),
        "pairs_displaced": int((found < 0).sum()),
        "largest_error": round(float(np.abs(found - exact).max()), 3),
        "displaced_in_one_only": int(((found < 0) != (exact < 0)).sum()),
        "spearman": rank_correlation(found, exact),
    }


def audited(found: pa.Table, exact: pa.Table) -> dict[str, Any]:
    errors = np.abs(column(found, "logp_chosen") - column(exact, "logp_chosen"))
    dropped = [set(np.argsort(column(table, "dlogp_chosen"))[: len(exact) // 10]) for table in (found, exact)]
    return {
        "pairs": len(exact),
        "logp_error": {"median": round(float(np.median(errors)), 3), "largest": round(float(errors.max()), 3)},
        "flips": {
            **{name: int(((column(found, name) < 0) != (column(exact, name) < 0)).sum()) for name in SIGNS},
            "case": int((column(found, "case") != column(exact, "case")).sum()),
            "free_case": int((column(found, "free_case") != column(exact, "free_case")).sum()),
        },
        "falling": {name: int((column(exact, name) < 0).sum()) for name in SIGNS},
        "spearman": {name: rank_correlation(column(found, name), column(exact, name)) for name in RANKED},
        "dropped_in_one_only": len(dropped[0] - dropped[1]),
    }


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return round(float(spearmanr(one, other).statistic), 5)


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)


if __name__ == "__main__":
    main()

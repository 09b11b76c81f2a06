"""Forecast against fact: a run is foretold, trained and measured, in several settings, and one table is printed.

A base cell and others that differ from it in one thing. Each is what a user would do: ``undertow forecast``, ``undertow
train`` with the same options, ``undertow compare --scores``; its folders stay in ``--out``, so that a stopped benchmark
goes on, and cells are added by calling it again. Responses are cut to ``--tokens`` tokens, so that CPUs can train on
them. The last ``--held-out`` pairs are not trained on. As Markdown, by cell:

- Spearman's ρ, AUC and slope of the realised change of ln π(chosen) on the forecast; the better of the papers' scores,
  and of the plain baselines, beside;
- share displaced, mean change of chosen and rejected, share of pairs whose margin grew and mean loss, foretold → real;
- the same ρ over the responses of held-out pairs; the cost of the forecast in training runs.

    python benchmarks/forecast.py --pairs 192 --held-out 32 --pull --cells base,unclipped,adamw --out bench
    python benchmarks/forecast.py --data hh.jsonl --cells sft,sft-quarter --out bench-hh
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

import undertow as ut
from undertow.files import write_atomically
from undertow.maths.statistics import auc_of
from undertow.models.loading import load_tokenizer
from undertow.models.sources import find_model

ROOT = Path(__file__).parents[1]
BASE = {"loss": "dpo", "beta": 0.1, "lr": 5e-6, "batch-size": 8}
QUARTER = "quarter of the pairs"
CELLS: dict[str, dict[str, Any]] = {
    "base": {},
    "unclipped": {"max-grad-norm": 1e9, "schedule": "constant"},
    "seed": {"seed": 1},
    "adamw": {"optimiser": "adamw"},
    "lora": {"lora-r": 16, "lr": 2e-4},
    "epochs": {"epochs": 3},
    "gentle": {"lr": 1e-6},
    "simpo": {"loss": "simpo", "beta": 2.0},
    "bfloat16": {"dtype": "bfloat16"},
    "gemma": {"model": "gemma"},
    "shared": {"token-weights": "shared"},
    "entangled": {"token-weights": "entangled"},
    "sft": {"sft": 1.0},
    "sft-shared": {"sft": 1.0, "token-weights": "shared"},
    "sft-entangled": {"sft": 1.0, "token-weights": "entangled"},
    "sft-seed": {"sft": 1.0, "seed": 1},
    # Of the same run as another cell: only the forecast differs.
    "no-look": {"as": "base", "forecast": ["--no-look"]},
    "quarter": {"as": "base", "forecast": ["--sample", QUARTER]},
    "unknown": {"as": "base", "forecast": ["--order", "unknown"]},
    "sft-no-look": {"as": "sft", "forecast": ["--no-look"]},
    "sft-quarter": {"as": "sft", "forecast": ["--sample", QUARTER]},
    "sft-unknown": {"as": "sft", "forecast": ["--order", "unknown"]},
}
SCORES = ("ches", "ln_ches", "dlogp_chosen", "pull", "chosen_tokens", "-logp_chosen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "alpaca_eval_pairs.jsonl")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--gemma", default="", help="the model of the cell gemma")
    parser.add_argument("--pairs", type=int, default=192, help="to train on")
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="a response is cut to so many")
    parser.add_argument("--dtype", default="float32", help="products of forecast and training")
    parser.add_argument("--pull", action="store_true", help="also this score, which takes another pass")
    parser.add_argument("--cells", default="base", help=f"of {', '.join(CELLS)}")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.cells.split(",")
    unknown = [name for name in names if name not in CELLS]
    if unknown:
        parser.error(f"no cell {unknown[0]!r}: there are {', '.join(CELLS)}")
    prepare(options)
    for name in names:
        run_cell(name, options)
        print(table(options), flush=True)


def prepare(options: argparse.Namespace) -> None:
    """The pairs, cut, as two files."""
    files = options.out / "pairs.jsonl", options.out / "held-out.jsonl"
    if all(file.exists() for file in files):
        return
    tokenizer = load_tokenizer(find_model(options.model))
    rows: list[str] = []
    for pair in ut.read_pairs(options.data, on_bad_row="skip"):
        sides = [
            tokenizer.decode(tokenizer(text)["input_ids"][: options.tokens]) for text in (pair.chosen, pair.rejected)
        ]
        if sides[0] != sides[1] and len(tokenizer(pair.prompt_text)["input_ids"]) <= 150:
            rows.append(json.dumps({"prompt": pair.prompt_text, "chosen": sides[0], "rejected": sides[1]}))
    wanted = options.pairs + options.held_out
    if len(rows) < wanted:
        sys.exit(f"{options.data} has {len(rows)} usable pairs, and {wanted} are asked for.")
    for file, some in zip(files, (rows[: options.pairs], rows[options.pairs : wanted]), strict=True):
        with write_atomically(file) as out:
            out.write(("\n".join(some) + "\n").encode())


def run_cell(name: str, options: argparse.Namespace) -> None:
    """Forecast, train, compare; what is finished already is only read."""
    cell, folder = CELLS[name], options.out / name
    run = options.out / cell.get("as", name)
    setting = BASE | {"dtype": options.dtype} | CELLS[cell.get("as", name)]
    model = options.gemma if setting.pop("model", None) else options.model
    sft = setting.pop("sft", None)
    shared = [text for key, value in setting.items() for text in (f"--{key}", str(value))]
    data, held_out = str(options.out / "pairs.jsonl"), str(options.out / "held-out.jsonl")
    more = ["--sft-epochs", str(sft), "--sft-lr", "1e-5"] if sft else []
    timed(
        run / "train.seconds", "train", data, "--model", model, "--out", run / "run", *shared, *more, "--track-every", 0
    )
    before = str(run / "run" / "sft" / "model") if sft else model
    pull = ["--pull"] if options.pull else []
    own = [
        str(sum(1 for _ in ut.read_pairs(data)) // 4) if text == QUARTER else text for text in cell.get("forecast", [])
    ]
    forecast = [data, "--model", before, "--out", folder / "forecast", "--held-out", held_out, *pull, *shared, *own]
    timed(folder / "forecast.seconds", "forecast", *forecast)
    compare = ["--before", before, "--after", run / "run" / "model", "--generate", 0]
    timed(run / "seen.seconds", "compare", data, *compare, "--out", run / "seen")
    timed(run / "unseen.seconds", "compare", held_out, *compare, "--out", run / "unseen")
    with write_atomically(folder / "cell.json") as out:
        out.write(json.dumps(measured(folder, run), indent=2).encode())


def timed(mark: Path, *arguments: object) -> None:
    """Run a command of undertow, unless it was run to its end; its seconds."""
    if mark.exists():
        return
    mark.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    print(f"undertow {' '.join(map(str, arguments))}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "undertow", *map(str, arguments), "--quiet"], check=True, env=os.environ)
    mark.write_text(f"{time.perf_counter() - started:.1f}\n")


def measured(folder: Path, run: Path) -> dict[str, Any]:
    """A cell's numbers."""
    forecast, trained = (
        json.loads(path.read_text()) for path in (folder / "forecast" / "forecast.json", run / "run" / "train.json")
    )
    found = pq.read_table(folder / "forecast" / "forecast.parquet")
    fact = pq.read_table(run / "seen" / "pairs.parquet")
    assert fact["pair_id"].to_pylist() == found["pair_id"].to_pylist()
    said, real = column(found, "forecast_chosen"), column(fact, "dlogp_chosen")
    inside = np.isfinite(said)
    scores = ut.read_scores(folder / "forecast")
    older = {}
    for name in SCORES:
        if name.removeprefix("-") not in scores.column_names:
            continue
        values = column(scores, name.removeprefix("-"))
        rises = values if name in ("dlogp_chosen", "pull") else -values
        rises = -rises if name == "-logp_chosen" else rises
        older[name] = against(rises, real)
    unseen, unseen_fact = (
        pq.read_table(path)
        for path in (folder / "forecast" / "held-out-forecast.parquet", run / "unseen" / "pairs.parquet")
    )
    texts = [
        np.concatenate([column(table, f"{kind}_{side}") for side in ("chosen", "rejected")])
        for table, kind in ((unseen, "forecast"), (unseen_fact, "dlogp"))
    ]
    end = forecast["end"]
    return {
        "pairs": len(real),
        "sample": int(inside.sum()),
        "forecast": against(said[inside], real[inside]) | line(said[inside], real[inside]),
        "scores": older,
        "displaced": [end["displaced"]["value"], float((real < 0).mean())],
        "probability": float(np.nanmean(column(found, "forecast_displaced"))),
        "chosen": [end["chosen"], float(real.mean())],
        "rejected": [end["rejected"], float(column(fact, "dlogp_rejected").mean())],
        "accuracy": [grew(found, "forecast"), grew(fact, "dlogp")],
        "loss": [end["loss"], trained["loss"]],
        "held_out": against(*texts) | line(*texts),
        "held_out_displaced": [
            float((column(unseen, "forecast_chosen") < 0).mean()),
            float((column(unseen_fact, "dlogp_chosen") < 0).mean()),
        ],
        "held_out_accuracy": [grew(unseen, "forecast"), grew(unseen_fact, "dlogp")],
        "cost": [seconds(folder / "forecast.seconds"), seconds(run / "train.seconds")],
        "stages": forecast["cost"],
    }


def against(said: np.ndarray, real: np.ndarray) -> dict[str, float]:
    known = np.isfinite(said) & np.isfinite(real)
    said, real = said[known], real[known]
    falls = real < 0
    return {
        "rho": float(spearmanr(said, real).statistic),
        "auc": float(np.ravel(auc_of(-said, falls)(np.ones(len(real))))[0])
        if falls.any() and not falls.all()
        else float("nan"),
    }


def line(said: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The least-squares slope of what happened on what was said."""
    return {"slope": float(np.polyfit(said, real, 1)[0])}


def grew(table: Any, kind: str) -> float:
    """The share of pairs whose margin over the reference is above 0 at the end: TRL's ``rewards/accuracies``."""
    chosen, rejected = (column(table, f"{kind}_{side}") for side in ("chosen", "rejected"))
    known = np.isfinite(chosen)
    return float((chosen > rejected)[known].mean())


def seconds(mark: Path) -> float:
    return float(mark.read_text())


def column(table: Any, name: str) -> np.ndarray:
    return table[name].to_numpy(zero_copy_only=False).astype(np.float64)


def table(options: argparse.Namespace) -> str:
    """All cells that were measured, as Markdown."""
    heads = [
        "cell",
        "pairs",
        "ρ",
        "AUC",
        "slope",
        "displaced",
        "chosen",
        "rejected",
        "margin grew",
        "loss",
        "unseen ρ",
        "unseen displaced",
        "unseen margin grew",
    ]
    heads += ["runs", "best score", "best baseline"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in CELLS:
        path = options.out / name / "cell.json"
        if not path.exists():
            continue
        cell = json.loads(path.read_text())
        one, scores = cell["forecast"], cell["scores"]
        best = [
            max((score for score in some if score in scores), key=lambda score: scores[score]["rho"])
            for some in (("ches", "ln_ches", "dlogp_chosen", "pull"), ("chosen_tokens", "-logp_chosen"))
        ]
        pairs = f"{cell['pairs']}" if cell["sample"] == cell["pairs"] else f"{cell['sample']} of {cell['pairs']}"
        share = [f"{value:.1%}" for value in cell["displaced"]]
        unseen_share = [f"{value:.0%}" for value in cell["held_out_displaced"]]
        means = {key: [f"{value:+.1f}" for value in cell[key]] for key in ("chosen", "rejected")}
        row = [name, pairs, f"{one['rho']:.3f}", f"{one['auc']:.3f}", f"{one['slope']:.2f}", " → ".join(share)]
        row += [" → ".join(means["chosen"]), " → ".join(means["rejected"])]
        accuracy, unseen_accuracy = (
            " → ".join(f"{value:.0%}" for value in cell[f"{group}accuracy"]) for group in ("", "held_out_")
        )
        row += [accuracy, " → ".join(f"{value:.3f}" for value in cell["loss"]), f"{cell['held_out']['rho']:.3f}"]
        row += [" → ".join(unseen_share), unseen_accuracy, f"{cell['cost'][0] / cell['cost'][1]:.2f}"]
        row += [f"{score} {scores[score]['rho']:.2f}, {scores[score]['auc']:.2f}" for score in best]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Remedies, foretold and trained: does the forecast pick the arm that displaces least?

From the folder of a forecast with held-out pairs (a cell of ``benchmarks/forecast.py``, say), its data and these pairs.
Each arm leaves a fifth of the pairs out or has another loss; it is simulated on the stored features, then trained for
real (``undertow train``), and all pairs are measured (``undertow compare``): those trained on, those left out and the
held-out ones. Orders are known: leaving pairs out draws another one, in the simulation as in training. As Markdown, arm
by arm, share displaced and mean change of the chosen responses, foretold → real; below it how well the arms are ranked.

    python benchmarks/remedies.py --forecast bench/base/forecast --data bench/pairs.jsonl \\
        --held-out bench/held-out.jsonl --arms none,push,random,rpo --out bench-remedies
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from undertow.files import write_atomically
from undertow.forecasting.optimise import choose_dropped
from undertow.forecasting.stored import Stored, planned, read_stored
from undertow.forecasting.sweep import arm_numbers, simulated_arm

SHARE = "20%"
FILTERS = {
    "push": f"push drop-lowest {SHARE}",
    "forecast": f"forecast_chosen drop-lowest {SHARE}",
    "ches": f"ches drop-highest {SHARE}",
    "ln-ches": f"ln_ches drop-highest {SHARE}",
    "length": f"chosen_tokens drop-highest {SHARE}",
    "random": f"random drop-lowest {SHARE}",
}
LOSSES: dict[str, dict[str, Any]] = {
    "beta-0.05": {"beta": 0.05},
    "beta-0.3": {"beta": 0.3},
    "rpo": {"loss": "rpo", "loss_args": {"lam": 0.1}},
}
ARMS = ("none", *FILTERS, "optimised", *LOSSES)
GROUPS = {"all": "all", "kept": "trained on", "left_out": "left out", "held_out": "held out"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forecast", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    names = options.arms.split(",")
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        parser.error(f"no arm {unknown[0]!r}: there are {', '.join(ARMS)}")
    stored = read_stored(options.forecast)
    for name in names:
        run_arm(name, stored, options)
        print(table(options.out), flush=True)


def run_arm(name: str, stored: Stored, options: argparse.Namespace) -> None:
    """Simulate, train, measure; what was done before is read."""
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "arm.json").exists():
        return
    rules = [FILTERS[name]] if name in FILTERS else []
    settings, kept = planned(stored, options.forecast, LOSSES.get(name, {}), rules)
    if name == "optimised":
        kept = np.setdiff1d(kept, choose_dropped(options.forecast, SHARE).dropped)
    study = stored.study_of(settings.train, kept)
    foretold = arm_numbers(study, simulated_arm(study, settings, kept), kept, settings)
    rows = options.data.read_text().splitlines()
    data = folder / "pairs.jsonl"
    with write_atomically(data) as file:
        file.write(("\n".join(rows[int(number)] for number in kept) + "\n").encode())
    train, arguments = replace(settings.train, held_out=None), stored.summary["arguments"]
    recipe = folder / "recipe.yaml"
    with write_atomically(recipe) as file:
        file.write(json.dumps(recipe_of(train.record(), LOSSES.get(name, {}), stored)).encode())
    model = str(arguments["model"])
    run = folder / "run"
    undertow("train", data, "--model", model, "--config", recipe, "--track-every", 0, "--out", run)
    measured = {}
    for what, pairs in (("seen", options.data), ("unseen", options.held_out)):
        out = folder / what
        compare = ["--before", model, "--after", run / "model", "--generate", 0, "--out", out]
        undertow("compare", pairs, *compare)
        found = pq.read_table(out / "pairs.parquet")
        measured[what] = [found[f"dlogp_{side}"].to_numpy() for side in ("chosen", "rejected")]
    inside = np.isin(np.arange(len(rows)), kept)
    parts = {"all": np.ones(len(rows), dtype=bool), "kept": inside, "left_out": ~inside}
    real = {part: means(*measured["seen"], some) for part, some in parts.items()}
    real["held_out"] = means(*measured["unseen"], np.ones(len(measured["unseen"][0]), dtype=bool))
    loss = json.loads((run / "train.json").read_text())["loss"]
    record = {"arm": name, "foretold": foretold, "real": real, "loss": [foretold["mean_loss"], loss]}
    with write_atomically(folder / "arm.json") as file:
        file.write(json.dumps(record, indent=2).encode())


def recipe_of(record: dict[str, Any], loss: dict[str, Any], stored: Stored) -> dict[str, Any]:
    """The options of the run that the forecast is of, and those of the arm."""
    names = [
        "epochs",
        "max_steps",
        "batch_size",
        "accumulate",
        "lr",
        "optimiser",
        "schedule",
        "warmup_steps",
        "max_grad_norm",
        "seed",
    ]
    names += ["lora_r", "dtype"]
    own = {name: stored.options[name] for name in ("loss", "beta", "loss_args") if stored.options.get(name) is not None}
    if "loss" in loss:
        own = {}
    return {name: record[name] for name in names} | own | loss


def means(chosen: np.ndarray, rejected: np.ndarray, some: np.ndarray) -> dict[str, Any]:
    if not some.any():
        return {"pairs": 0, "displaced": None, "chosen": None, "rejected": None}
    ups, downs = chosen[some], rejected[some]
    return {
        "pairs": int(some.sum()),
        "displaced": float((ups < 0).mean()),
        "chosen": float(ups.mean()),
        "rejected": float(downs.mean()),
    }


def undertow(*arguments: object) -> None:
    print(f"undertow {' '.join(map(str, arguments))}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "undertow", *map(str, arguments), "--quiet"], check=True, env=os.environ)


def table(out: Path) -> str:
    """All arms that were trained, as Markdown, and how the forecast ranks them."""
    arms = [json.loads((out / name / "arm.json").read_text()) for name in ARMS if (out / name / "arm.json").exists()]
    heads = ["arm", "pairs"] + [f"{words}: displaced, chosen" for words in GROUPS.values()] + ["margin (all)"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for arm in arms:
        cells = [arm["arm"], str(arm["foretold"]["pairs"])]
        for group in GROUPS:
            said, real = arm["foretold"][group], arm["real"][group]
            if not said["pairs"]:
                cells.append("")
                continue
            shares = " → ".join(f"{one['displaced']:.0%}" for one in (said, real))
            changes = " → ".join(f"{one['chosen']:+.1f}" for one in (said, real))
            cells.append(f"{shares}, {changes}")
        margins = [one["all"]["chosen"] - one["all"]["rejected"] for one in (arm["foretold"], arm["real"])]
        lines.append("| " + " | ".join([*cells, " → ".join(f"{value:.1f}" for value in margins)]) + " |")
    if len(arms) > 2:
        for group, key in (("all", "displaced"), ("held_out", "displaced"), ("all", "chosen"), ("held_out", "chosen")):
            said, real = ([arm[which][group][key] for arm in arms] for which in ("foretold", "real"))
            pick = min if key == "displaced" else max
            best = [arms[values.index(pick(values))]["arm"] for values in (said, real)]
            rho = spearmanr(said, real).statistic
            lines.append(
                f"\nArms by {key} of {GROUPS[group]} pairs: ρ {rho:.2f}; best foretold {best[0]}, real {best[1]}."
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Undertow's scoring pass against the reference procedure, in one process on the same pairs.

Reference: one sequence at a time, float32, full logits, all hidden states kept, as the papers' scripts do it.
Printed: the ratio of the times, tokens a second, the share of the machine's measured product peak, Spearman
correlation of the scores with the reference's float32 scores, and how much faster the edit distance is than the
textbook double loop. Of level ``unembedding``: its time over that of level ``hidden``, the correlation of its columns
with float32 where the products are in another type, and its peak of extra memory, on real pairs and on one made-up pair
of 1024 + 1024 tokens with a vocabulary of 262,144.

    python benchmarks/scoring.py --pairs 64 --max-length 512
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import naive  # noqa: E402
from undertow.data.reading import read_pairs  # noqa: E402
from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings  # noqa: E402
from undertow.maths.similarity import edit_distance  # noqa: E402
from undertow.models.device import choose_device, choose_dtype, keep_large_blocks  # noqa: E402
from undertow.models.loading import load_model  # noqa: E402
from undertow.models.model import Model  # noqa: E402
from undertow.runs.progress import Silent  # noqa: E402
from undertow.scoring.scorer import Scorer, score_rows  # noqa: E402
from undertow.scoring.unembedding import PRODUCTS  # noqa: E402

SCORES = ("ches", "ln_ches", "last_hidden_ip")
EXACT = (*PRODUCTS, "dlogp_chosen", "dlogp_rejected", "free_dlogp_chosen", "free_dlogp_rejected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data" / "alpaca_eval_pairs.jsonl"))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=2, help="reference and Undertow in turn, so many times")
    options = parser.parse_args()

    keep_large_blocks()
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    reference = load_model(options.model, dtype="float32", device=options.device, packed=False)
    model = load_model(options.model, dtype=options.dtype, device=options.device, tokenizer=reference.tokenizer)
    pairs = encode(reference, options)
    padded = sum(2 * pair.prompt_tokens + pair.chosen_tokens + pair.rejected_tokens for pair in pairs)
    shared = sum(pair.total for pair in pairs)
    print(f"{len(pairs)} pairs, {padded} tokens one sequence at a time, {shared} with the prompt shared")
    print(f"device {device}, {torch.get_num_threads()} threads, {dtype}, {model.attention} attention")

    slow(reference, pairs[:2]), fast(model, pairs[:2], options.batch_tokens)  # warm up
    times: dict[str, list[float]] = {"reference": [], "undertow": [], "unembedding": []}
    for _ in range(options.rounds):
        seconds, expected = timed(slow, reference, pairs)
        times["reference"].append(seconds)
        seconds, found = timed(fast, model, pairs, options.batch_tokens)
        times["undertow"].append(seconds)
        seconds, exact = timed(fast, model, pairs, options.batch_tokens, "unembedding")
        times["unembedding"].append(seconds)
        print("  " + ", ".join(f"{name} {values[-1]:.1f} s" for name, values in times.items()))
    ratios = [a / b for a, b in zip(times["reference"], times["undertow"], strict=True)]
    costs = [a / b for a, b in zip(times["unembedding"], times["undertow"], strict=True)]
    best = min(times["undertow"])
    useful = 2 * backbone_weights(model) * shared / best / 1e9
    result = {
        "ratio": round(sorted(ratios)[len(ratios) // 2], 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "tokens_per_second": round(shared / best),
        "gflops": round(useful),
        **{f"peak_{kind}": round(peak(kind, device)) for kind in ("float32", "bfloat16")},
        "spearman": {name: round(float(spearmanr(expected[name], found[name]).statistic), 5) for name in SCORES},
        "edit_distance_ratio": round(edit_distances(pairs)),
        "unembedding_cost": round(sorted(costs)[len(costs) // 2], 2),
        "unembedding_extra_mb": largest_pair_mb(),
    }
    if dtype != torch.float32:
        plain = load_model(options.model, dtype="float32", device=options.device, tokenizer=reference.tokenizer)
        wanted = fast(plain, pairs, options.batch_tokens, "unembedding")
        result["unembedding_spearman"] = {
            name: round(float(spearmanr(wanted[name], exact[name]).statistic), 5) for name in EXACT
        }
    result["share_of_bf16_peak"] = round(useful / result["peak_bfloat16"], 3)
    result["share_of_own_peak"] = round(useful / result[f"peak_{str(dtype).removeprefix('torch.')}"], 3)
    print(json.dumps(result, indent=2))


def encode(model: Model, options: argparse.Namespace) -> list[TokenPair]:
    encoder = PairEncoder(model.tokenizer, TokenSettings(max_length=options.max_length))
    found = (encoder.encode(pair) for pair in read_pairs(options.data, limit=options.pairs))
    return [pair for pair in found if isinstance(pair, TokenPair)]


def timed(function, *arguments):
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def slow(model: Model, pairs: list[TokenPair]) -> dict[str, list[float]]:
    """The reference procedure, without the reference edit distance (timed on its own)."""
    columns: dict[str, list[float]] = {name: [] for name in SCORES}
    for pair in pairs:
        scores = naive.hidden_scores(model.hf, pair.prompt, pair.chosen, pair.rejected)
        for name in SCORES:
            columns[name].append(scores[name])
    return columns


def fast(model: Model, pairs: list[TokenPair], batch_tokens: int, level: str = "hidden") -> dict[str, list[float]]:
    rows = list(score_rows(pairs, Scorer(level, model, batch_tokens=batch_tokens), Silent()))
    return {name: [row[name] for row in rows] for name in rows[0] if name in SCORES + EXACT}


def largest_pair_mb(tokens: int = 1024, vocabulary: int = 262_144, width: int = 640) -> dict[str, int]:
    """Peak of resident memory that the inner products of one large pair add, in MB, by the type of the weights.

    In a process of its own: the peak of a process never falls.
    """
    found = {}
    for kind in ("float32", "bfloat16"):
        script = _MEMORY.format(tokens=tokens, vocabulary=vocabulary, width=width, kind=kind)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        found[kind] = round(int(done.stdout) / 1024)
    return found


_MEMORY = """
import torch
from undertow.maths.unembedding import pair_products
W = torch.randn({vocabulary}, {width}).mul_(0.05).to(torch.{kind})
H = torch.randn({tokens}, {width}).to(torch.{kind})
ids = torch.arange({tokens})
small = pair_products(H[:2], H[:2], W, ids[:2], ids[2:4])
before = open("/proc/self/status").read().split("VmRSS:")[1].split()[0]
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
pair_products(H, H.flip(0), W, ids, ids + 1)
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) - int(before))
"""


def backbone_weights(model: Model) -> int:
    """Weights that take part in matrix products of the backbone (embeddings are looked up, not multiplied)."""
    embedding = model.hf.get_input_embeddings().weight
    return sum(p.numel() for p in model.backbone.parameters() if p.ndim > 1 and p is not embedding)


def peak(kind: str, device: torch.device) -> float:
    """GF/s of square products, from small ones up: a machine without native bfloat16 would take minutes at 2048."""
    best = 0.0
    for size in (128, 256, 512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device).to(getattr(torch, kind)) for _ in range(2))
        a @ b
        started, runs = time.perf_counter(), 0
        while runs < 3 or (time.perf_counter() - started < 0.3 and runs < 100):
            result = a @ b
            runs += 1
        float(result[0, 0])  # waits for an accelerator
        seconds = (time.perf_counter() - started) / runs
        best = max(best, 2 * size**3 / seconds / 1e9)
        if seconds > 0.2:
            break
    return best


def edit_distances(pairs: list[TokenPair]) -> float:
    """How many times faster our edit distance is than the double loop, on a few pairs."""
    some = pairs[:6]
    slow_seconds, expected = timed(lambda: [naive.edit_distance(p.chosen, p.rejected) for p in some])
    repeats = 50
    fast_seconds, found = timed(lambda: [[edit_distance(p.chosen, p.rejected) for p in some] for _ in range(repeats)])
    assert found[0] == expected
    return slow_seconds / (fast_seconds / repeats)


if __name__ == "__main__":
    main()

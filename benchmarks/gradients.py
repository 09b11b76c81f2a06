"""Inner products over all parameters against the plain way: time, memory, and how far the numbers are apart.

Two questions, each put to both ways in a process of its own, in turn:

- ``pairs``: the three products of each pair's two responses. The plain way makes both gradients by autograd, lays all
  their entries end to end and multiplies, one pair at a time.
- ``tokens``: the products of all tokens of one pair. The plain way makes one backward pass a token, keeps all gradients
  and multiplies them.

Memory is what a process held at most beyond what it held with the model loaded. As Markdown.

    python benchmarks/gradients.py --pairs 4 --tokens 60
    python benchmarks/gradients.py --only tokens --token-pair 8
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from undertow.data.tokens.encoder import TokenPair
from undertow.models.device import keep_large_blocks
from undertow.models.gradients import Response, response_gradients, trained_parameters
from undertow.models.gram import Group, gradient_gram
from undertow.models.loading import load_model
from undertow.models.model import Model
from undertow.models.token_gram import token_gram

WAYS = ("plain", "undertow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=20, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=60, help="tokens of each response")
    parser.add_argument("--token-pair", type=int, default=8, help="tokens of each response, token by token")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("pairs", "tokens"))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options)))
        return
    print("| question | way | seconds | memory, MiB | products |\n|---|---|---|---|---|")
    for question in ("pairs", "tokens"):
        if options.only in (None, question):
            best: dict[str, dict[str, Any]] = {}
            for _ in range(options.rounds):
                for way in WAYS:
                    found = asked(options, question, way)
                    if way not in best or found["seconds"] < best[way]["seconds"]:
                        best[way] = found
            for way, found in best.items():
                some = ", ".join(f"{value:.6g}" for value in found["products"])
                print(f"| {question} | {way} | {found['seconds']:.2f} | {found['memory']:.0f} | {some} |", flush=True)
            plain, ours = best["plain"], best["undertow"]
            print(
                f"| {question} | ratio | {plain['seconds'] / ours['seconds']:.1f} | "
                f"{ours['memory'] / plain['memory']:.2f} | {ours['device']} |",
                flush=True,
            )


def asked(options: argparse.Namespace, question: str, way: str) -> dict[str, Any]:
    values = {name: value for name, value in vars(options).items() if name not in ("way", "only", "rounds")}
    arguments = [str(part) for name, value in values.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, str(Path(__file__)), *arguments, "--only", question, "--way", way]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def measured(options: argparse.Namespace) -> dict[str, Any]:
    keep_large_blocks()
    model = load_model(options.model, device=options.device, dtype="float32")
    model.hf.requires_grad_(True)
    draw = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, model.vocabulary) for _ in range(count))

    length = options.tokens if options.only == "pairs" else options.token_pair
    count = options.pairs if options.only == "pairs" else 1
    pairs = [TokenPair(row, "", tokens(options.prompt), tokens(length), tokens(length), False) for row in range(count)]
    answer = {
        ("pairs", "plain"): plain_pairs,
        ("pairs", "undertow"): our_pairs,
        ("tokens", "plain"): plain_tokens,
        ("tokens", "undertow"): our_tokens,
    }[options.only, options.way]
    small = TokenPair(0, "", tokens(3), tokens(2), tokens(2), False)
    answer(model, [small])  # once before the clock runs: kernels are chosen, memory is had
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = sum(parameter.nbytes for parameter in model.hf.parameters()) + _without_model(model)
    started = time.perf_counter()
    found = answer(model, pairs)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds / count,
        "memory": (peak - before) / 2**20,
        "products": found[:3],
        "device": f"{model.device.type}, {torch.get_num_threads()} threads",
    }


def _without_model(model: Model) -> int:
    """Bytes that the libraries take: an import of them alone, measured in a process of its own."""
    code = "import psutil, undertow.models.loading, undertow.models.gram; print(psutil.Process().memory_info().rss)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout)


def both(pair: TokenPair) -> tuple[Response, Response]:
    return Response(pair.prompt, pair.chosen), Response(pair.prompt, pair.rejected)


class Whole:
    """Autograd's gradient of one response, all entries end to end."""

    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []

    def dense(self, name: str, response: int, values: torch.Tensor) -> None:
        self.parts.append(values)


def flat(model: Model, response: Response) -> torch.Tensor:
    sink = Whole()
    response_gradients(model, [response], trained_parameters(model.hf), sink, packed=False)  # type: ignore[arg-type]
    return torch.cat(sink.parts)


def plain_pairs(model: Model, pairs: list[TokenPair]) -> list[float]:
    found = []
    for pair in pairs:
        a, b = (flat(model, response) for response in both(pair))
        found += [float(a @ a), float(a @ b), float(b @ b)]
    return found


def our_pairs(model: Model, pairs: list[TokenPair]) -> list[float]:
    found: list[float] = []
    for pair in pairs:
        (products,), _ = gradient_gram(model, [Group(both(pair))], trained_parameters(model.hf))
        found += products.sum(0).flatten()[[0, 1, 3]].tolist()
    return found


def plain_tokens(model: Model, pairs: list[TokenPair]) -> list[float]:
    (pair,) = pairs
    several = [
        flat(model, Response(pair.prompt + tokens[:k], tokens[k : k + 1]))
        for tokens in (pair.chosen, pair.rejected)
        for k in range(len(tokens))
    ]
    n, gram = pair.chosen_tokens, torch.stack([torch.stack([a @ b for b in several]) for a in several])
    return [float(part.sum()) for part in (gram[:n, :n], gram[:n, n:], gram[n:, n:])]


def our_tokens(model: Model, pairs: list[TokenPair]) -> list[float]:
    (pair,) = pairs
    n, gram = pair.chosen_tokens, token_gram(model, pair, trained_parameters(model.hf)).values
    return [float(part.sum()) for part in (gram[:n, :n], gram[:n, n:], gram[n:, n:])]


if __name__ == "__main__":
    main()

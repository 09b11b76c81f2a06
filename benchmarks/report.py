"""The audit's page at 100,000 pairs: its size, the time to write it, and how long Chromium takes to open it.

The folder is what an audit writes: scores with the contract's columns, drawn at random with the signs and the spread of
real ones, and real texts, repeated. Printed as JSON: the seconds that writing the report took, its size, and for each
opening in a new browser profile the milliseconds until the load event and until all charts are drawn, as medians.
Targets: 15 MB, and 3 s until the charts stand. Also the seconds that the table of all pairs takes, over Parquet: to
open, for a page sorted by a score, and for a search through all texts.

    python benchmarks/report.py --pairs 100000
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from undertow.auditing.settings import AuditSettings
from undertow.auditing.summary import summarise
from undertow.data.pairs import Pair
from undertow.data.reading import read_pairs
from undertow.data.sources.opening import demo_pairs
from undertow.maths.losses import DPO
from undertow.reporting import write_report
from undertow.reporting.viewing.table import PairTable, Query
from undertow.runs.texts import TEXTS, TextLog
from undertow.scoring.columns import PULL_COLUMNS
from undertow.scoring.folder import ScoreStore
from undertow.scoring.levels import schema
from undertow.scoring.shards import part_path
from undertow.version import __version__

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "alpaca_eval_pairs.jsonl"
PART = 10_000
LARGEST_MB, SLOWEST_SECONDS = 15, 3.0
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument(
        "--data", default=str(REAL if REAL.exists() else demo_pairs()), help="where the texts come from"
    )
    parser.add_argument("--openings", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="make the folder here, and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary) / "scores"
        made = seconds(lambda: make_folder(folder, options.pairs, options.data))
        written = seconds(lambda: write_report(folder))
        page = folder / "report.html"
        found = {
            "pairs": options.pairs,
            "seconds_to_make_the_folder": made,
            "seconds_to_write_the_report": written,
            "report_mb": round(page.stat().st_size / 1e6, 2),
            "texts_mb": round((folder / TEXTS).stat().st_size / 1e6, 1),
            **open_page(page, options.openings),
            "table_seconds": time_table(folder),
        }
    opened = found.get("charts_drawn_ms")
    found["within_targets"] = found["report_mb"] < LARGEST_MB and opened is not None and opened < 1000 * SLOWEST_SECONDS
    print(json.dumps(found, indent=2))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 2)


def make_folder(folder: Path, pairs: int, data: str) -> None:
    """A finished audit's folder, with a column to group by."""
    settings = AuditSettings(pull=True, by=("kind",))
    store = ScoreStore(folder)
    store.begin({"made by": "benchmarks/report.py", "pairs": pairs}, settings.record(), overwrite=True)
    tokens = 0
    draw = np.random.default_rng(0)
    log = TextLog(folder / TEXTS, settings.by)
    for index, start in enumerate(range(0, pairs, PART)):
        table = some_scores(draw, start, min(PART, pairs - start))
        tokens += sum(int(table[f"{part}_tokens"].to_numpy().sum()) for part in ("prompt", "chosen", "rejected"))
        store.write_part(index, table)
    for pair in itertools.islice(some_pairs(data), pairs):
        log.add(pair)
    log.close()
    store.commit(
        {
            "undertow": __version__,
            "versions": {},
            "arguments": {"data": data, "model": "none: drawn at random", **settings.record()},
            "fingerprints": {"data": "0" * 64},
            "tokens": {"max_length": settings.tokens.max_length},
            "model": {"name": "none: drawn at random", "device": "cpu", "dtype": "float32", "attention": "tree"},
            "reference": None,
            "data": {"format": "standard", "pairs": pairs, "skipped": 0, "tokens": tokens},
            **summarise(store.read_parts()),
            "scoring": {"pairs": pairs, "seconds": 0.0, "tokens_per_second": 0.0},
        }
    )
    store.close()


def some_pairs(data: str) -> Iterator[Pair]:
    """The data's pairs over and over, each row its own."""
    kinds = ("code", "chat", "safety", "maths", "rewriting")
    pairs = list(read_pairs(data))
    for row in itertools.count():
        pair = pairs[row % len(pairs)]
        yield Pair(row, pair.prompt, pair.chosen, pair.rejected, by=(kinds[(row * 7919) % 13 % len(kinds)],))


def some_scores(draw: np.random.Generator, start: int, count: int) -> pa.Table:
    """Scores as a model gives them: Gram matrices of gradients, and what follows from these for one step of DPO."""
    weight = DPO().beta / 2
    lengths = {name: draw.integers(*limits, count) for name, limits in LENGTHS.items()}
    chosen, rejected = lengths["chosen_tokens"], lengths["rejected_tokens"]
    alike = draw.beta(2, 3, count)  # the cosine of the two gradients
    gg = {name: n * draw.lognormal(3, 0.6, count) for name, n in (("chosen", chosen), ("rejected", rejected))}
    hh = {name: n * draw.lognormal(2, 0.6, count) for name, n in (("chosen", chosen), ("rejected", rejected))}
    columns: dict[str, Any] = {
        "row": np.arange(start, start + count),
        "pair_id": [f"{row:016x}" for row in range(start, start + count)],
        **lengths,
        "shared_prefix_tokens": draw.integers(0, 4, count),
        "truncated": draw.random(count) < 0.02,
        "edit_distance": 1 - alike**2,
        "ches": -draw.lognormal(9, 1, count) + 90.0 * (rejected - chosen),
        "ln_ches": -draw.lognormal(4, 0.7, count) * (1 - alike),
        "last_hidden_ip": draw.normal(900, 250, count),
        "logp_chosen": -1.5 * chosen * draw.lognormal(0, 0.2, count),
        "logp_rejected": -1.6 * rejected * draw.lognormal(0, 0.2, count),
        "alpha_positive": draw.beta(8, 8, count),
        "d_chosen": np.full(count, weight),
        "d_rejected": np.full(count, weight),
    }
    for name, ours in (("gg", gg), ("hh", hh)):
        cross = 1.25 * alike * np.sqrt(ours["chosen"] * ours["rejected"])
        columns |= {f"{name}_chosen": ours["chosen"], f"{name}_cross": cross, f"{name}_rejected": ours["rejected"]}
    gradients = {part: columns[f"gg_{part}"] for part in ("chosen", "cross", "rejected")}
    both = {part: gradients[part] + columns[f"hh_{part}"] for part in gradients}
    for prefix, inner in (("", gradients), ("free_", both)):
        up = weight * (inner["chosen"] - inner["cross"])
        down = weight * (inner["cross"] - inner["rejected"])
        columns |= {f"{prefix}dlogp_chosen": up, f"{prefix}dlogp_rejected": down}
        columns[f"{prefix}case"] = np.select([(up >= 0) & (down <= 0), (up < 0) & (down < 0), up > 0], [1, 2, 3], 4)
    columns |= {name: draw.normal(20 if "own" in name else -5, 30, count) for name in PULL_COLUMNS}
    wanted = schema("unembedding", pull=True)
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in wanted}, schema=wanted)


LENGTHS = {"prompt_tokens": (10, 400), "chosen_tokens": (5, 700), "rejected_tokens": (5, 700)}


def open_page(page: Path, openings: int) -> dict[str, Any]:
    """Medians over several openings, each in a new profile of a browser that is running already."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is not installed: the page was not opened", file=sys.stderr)
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        times = []
        for _ in range(openings):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            tab = context.new_page()
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("html[data-ready]")
            times.append(
                tab.evaluate("() => [performance.getEntriesByType('navigation')[0].loadEventEnd, performance.now()]")
            )
            context.close()
        version = browser.version
        browser.close()
    load, drawn = (round(statistics.median(column)) for column in zip(*times, strict=True))
    return {
        "chromium": version,
        "processors": os.cpu_count(),
        "load_event_ms": load,
        "charts_drawn_ms": drawn,
        "all_charts_drawn_ms": [round(one[1]) for one in times],
    }


def time_table(folder: Path) -> dict[str, float]:
    parts = len(json.loads((folder / "audit.json").read_text(encoding="utf-8"))["parts"])
    numbers = [part_path(folder, index) for index in range(parts)]
    started = time.perf_counter()
    table = PairTable(numbers, [folder / TEXTS])
    found = {"open": round(time.perf_counter() - started, 3)}
    queries = {
        "sorted_page": Query(sort="ln_ches", descending=True),
        "later_page": Query(sort="ln_ches", descending=True, first=table.total // 2),
        "search": Query(sort="ln_ches", descending=True, search="the quick"),
    }
    found |= {name: seconds(lambda query=query: table.page(query)) for name, query in queries.items()}  # type: ignore[misc]
    found["pair"] = seconds(lambda: table.pair(table.total // 3))
    table.close()
    return found


if __name__ == "__main__":
    main()

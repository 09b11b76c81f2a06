"""What the run that the demo foretells really does: it is trained, every pair measured, and ``fact.json`` written.

python benchmarks/demo_truth.py --out bench-demo        # then commit src/undertow/demo/fact.json
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import pyarrow.parquet as pq
import torch

from undertow.comparing.compare import compare_to_folder
from undertow.comparing.settings import CompareSettings
from undertow.data.sources.opening import DEMO_SHORT
from undertow.demo.run import demo_training
from undertow.files import write_json
from undertow.models.device import choose_dtype
from undertow.reporting.forecast.reading import TRAINED_WITH
from undertow.training.run import train_to_folder

SHIPPED = Path(__file__).parents[1] / "src" / "undertow" / "demo" / "fact.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = demo_training()
    trained = train_to_folder(DEMO_SHORT, "demo", options.out / "run", settings)
    compare_to_folder(
        DEMO_SHORT, "demo", str(options.out / "run" / "model"), options.out / "moved", CompareSettings(generate=0)
    )
    table = pq.read_table(options.out / "moved" / "pairs.parquet")
    rows, chosen, rejected = (table[name].to_pylist() for name in ("row", "dlogp_chosen", "dlogp_rejected"))
    record, products = settings.record(), str(choose_dtype(settings.dtype, torch.device("cpu"))).removeprefix("torch.")
    fact = {
        "data": trained["fingerprints"]["data"],
        "trained_with": {name: record[name] for name in TRAINED_WITH},
        "made_on": f"{platform.machine()} CPU, products in {products}, torch {torch.__version__.partition('+')[0]}",
        "loss": trained["loss"],
        "pairs": [[row, round(up, 4), round(down, 4)] for row, up, down in zip(rows, chosen, rejected, strict=True)],
    }
    write_json(SHIPPED, fact)
    falls = sum(change < 0 for change in chosen)
    print(f"{falls} of {len(chosen)} chosen responses fell; mean changes {sum(chosen) / len(chosen):+.2f} and "
          f"{sum(rejected) / len(rejected):+.2f} nats. Written: {SHIPPED.name}")  # fmt: skip


if __name__ == "__main__":
    main()

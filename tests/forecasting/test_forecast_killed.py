"""A forecast that is killed outright and started again ends as one that was left alone."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq

from command import SERVER
from run_folders import ROWS, made, train_settings
from undertow.forecasting.folder import read_tensors
from undertow.forecasting.forecast import forecast_to_folder
from undertow.forecasting.settings import ForecastSettings

KILLS, PART_PAIRS = 3, 2
SETTINGS = ForecastSettings(
    train=train_settings(lr=3e-5, batch_size=3), sketch=16_381, part_pairs=PART_PAIRS, batch_tokens=100
)
RESULTS = ("forecast.parquet", "forecast/scaling.safetensors", "forecast/look.safetensors")
RESULTS += ("forecast/entanglement.safetensors", *(f"forecast/features/part-{k:05d}.safetensors" for k in range(12)))


def test_killed_at_random_moments_and_started_again(tmp_path: Path) -> None:
    """kill -9 among the features and in the look: no part is measured again, none is a half, the bytes are one."""
    data, model = made(tmp_path)
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"

    def start(folder: Path):
        process = SERVER.Process(target=forecast_to_folder, args=(data, str(model), folder, SETTINGS))
        process.start()
        return process

    start(undisturbed).join()
    draw = random.Random(0)
    stamps: dict[str, int] = {}
    for kill in range(KILLS):
        process = start(out)
        target = len(stamps) + draw.randint(1, 4)
        last = kill == KILLS - 1
        while process.is_alive() and not (
            (out / "forecast" / "look.safetensors").exists() if last else len(parts_of(out)) >= target
        ):
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (out / "forecast.json").exists()
        parts = parts_of(out)
        for part in parts:
            found = read_tensors(part)
            assert found is not None
            assert found[0]["scaled"].shape == (2 * PART_PAIRS, 16_381)
        now = {part.name: part.stat().st_mtime_ns for part in [*parts, out / "forecast" / "scaling.safetensors"]}
        assert {name: now[name] for name in stamps} == stamps, "nothing that stands is measured again"
        assert len(now) > len(stamps) or last
        stamps = now
    start(out).join()
    for name in RESULTS:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert len(parts_of(out)) == ROWS // PART_PAIRS
    assert pq.read_metadata(out / "forecast.parquet").num_rows == ROWS
    summaries = [json.loads((folder / "forecast.json").read_text()) for folder in (out, undisturbed)]
    assert [{**one, "cost": None} for one in summaries[:1]] == [{**one, "cost": None} for one in summaries[1:]]
    assert not list(out.rglob("*.tmp"))


def parts_of(folder: Path) -> list[Path]:
    return sorted((folder / "forecast" / "features").glob("part-*.safetensors"))

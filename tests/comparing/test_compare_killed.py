"""A comparison that is killed outright and started again ends as one that was left alone."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

import undertow as ut
from command import SERVER, some_rows, write_jsonl
from tiny import tiny_folder, tiny_hf, tiny_tokenizer
from undertow.comparing.compare import compare_to_folder
from undertow.comparing.folder import read_comparison
from undertow.comparing.settings import CompareSettings

PAIRS, PART_PAIRS, KILLS = 160, 8, 5
SETTINGS = CompareSettings(
    tokens=ut.TokenSettings(max_length=400), dtype="float32", batch_tokens=512, generate=1, resamples=20
)


def trained_folder(path: Path) -> Path:
    hf = tiny_hf("llama")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    hf.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_killed_at_random_moments_and_started_again(tmp_path: Path) -> None:
    """kill -9 at five random moments: no finished part is written again, no reader sees a half, the bytes are one."""
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(PAIRS))
    models = str(tiny_folder(tmp_path / "before")), str(trained_folder(tmp_path / "after"))
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"

    def start(folder: Path):
        process = SERVER.Process(
            target=compare_to_folder, args=(data, *models, folder, SETTINGS), kwargs={"part_pairs": PART_PAIRS}
        )
        process.start()
        return process

    start(undisturbed).join()
    whole, expected = read_comparison(undisturbed)
    draw = random.Random(0)
    kept: dict[str, int] = {}
    for _ in range(KILLS):
        process = start(out)
        target = len(kept) + draw.randint(0, 3)
        while process.is_alive() and len(list(out.glob(".parts/part-*.parquet"))) < target:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        parts = sorted(out.glob(".parts/part-*.parquet"))
        assert all(pq.read_table(part).num_rows == PART_PAIRS for part in parts)
        stamps = {part.name: part.stat().st_mtime_ns for part in parts}
        again = [name for name, stamp in kept.items() if stamps[name] != stamp]
        # The sum over the parts is written after each: the part whose sum was not may be computed once more.
        assert again in ([], sorted(kept)[-1:])
        kept = stamps
    assert 0 < len(kept) < PAIRS // PART_PAIRS
    start(out).join()
    table, summary = read_comparison(out)
    assert (out / "pairs.parquet").read_bytes() == (undisturbed / "pairs.parquet").read_bytes()
    assert table.equals(whole)
    for name in ("means", "masses", "gained", "continuations", "displacement", "fingerprints"):
        assert summary[name] == expected[name], name
    assert not list(out.rglob("*.tmp"))
    assert not (out / ".parts").exists()

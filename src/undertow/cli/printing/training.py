"""What a training run or a sweep came to, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from undertow.wording.numbers import typed
from undertow.wording.visible import one_line, visible

__all__ = ["print_sweep", "print_train"]


def print_train(out: Path, summary: Mapping[str, Any]) -> None:
    """What a training run came to: steps, loss, and where the probability of the probe set went."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{summary['steps']:,} steps on {summary['data']['trained']:,} pairs in {summary['seconds']:,.0f} s, mean loss "
        f"{summary['loss']:.4f}, peak memory {summary['peak_memory_mb'] or 0:,} MB; model in {visible(str(out))}/model",
        markup=False,
    )
    tracked = summary["tracked"]
    if not tracked:
        return
    table = Table(title=f"\nThe probe set at step {tracked['step']}", title_justify="left", show_edge=False)
    table.add_column("tracked")
    table.add_column("value", justify="right")
    for name, value in tracked.items():
        if isinstance(value, float):
            table.add_row(visible(name), typed(value))
    console.print(table)
    gained = [
        f"{one_line(repr(text), 20)} {gain:+.3f}"
        for text, gain in zip(tracked["gaining_tokens"], tracked["gaining"], strict=True)
        if gain > 0
    ]
    console.print(f"Gained most where the two responses part: {', '.join(gained) or 'no token'}", markup=False)


def print_sweep(out: Path, summary: Mapping[str, Any]) -> None:
    """The arms of a sweep side by side, on the probe set at the end."""
    console = Console(highlight=False)
    table = Table(title="Arms, on the probe set at the end", title_justify="left", show_edge=False)
    table.add_column("arm", no_wrap=True)
    for name in ("pairs", "displaced", "chosen", "rejected", "reward accuracy"):
        table.add_column(name, justify="right")
    table.add_column("gained")
    for arm in summary["arms"]:
        values = (arm[name] for name in ("displaced", "chosen_change", "rejected_change", "reward_accuracy"))
        gained = ", ".join(one_line(repr(text), 12) for text in arm["gained"])
        table.add_row(visible(arm["arm"]), str(arm["pairs"]), *map(typed, values), gained)
    console.print(table)
    console.print(f"written: {visible(str(out))}/sweep.json", markup=False, soft_wrap=True)

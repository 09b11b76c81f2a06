"""Running the real command line, in this process and as a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from undertow.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """``undertow ARGUMENTS`` in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def command(*arguments: object) -> list[str]:
    """The same as a command of its own."""
    return [sys.executable, "-m", "undertow", *map(str, arguments)]


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "undertow.auditing.audit",
        "undertow.filtering.filter",
        "undertow.comparing.compare",
        "undertow.forecasting.forecast",
        "undertow.cli.printing.audit",
    ]
)


def spawn(*arguments: object) -> multiprocessing.process.BaseProcess:
    """A process of its own that has its imports behind it: what is killed is the work, not the loading of torch."""
    process = SERVER.Process(target=main, args=([str(argument) for argument in arguments],))
    process.start()
    return process


def start(*arguments: object) -> subprocess.Popen[str]:
    """Started in the background, its output kept."""
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def some_rows(count: int) -> list[dict[str, Any]]:
    """Preference rows of varied length, with a column that is not ours."""
    return [
        {
            "prompt": f"Question {n}: what is {n} plus {n % 7}?",
            "chosen": f"It is {n + n % 7}." + " Count it out." * (n % 4),
            "rejected": f"It is {n + n % 7 + 1}!" + " Trust me." * (n % 3),
            "source": ["web", "book"][n % 2],
        }
        for n in range(count)
    ]

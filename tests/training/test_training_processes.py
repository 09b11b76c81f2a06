"""Several processes that train together: each file is written once, and what one can do for all is done once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import PartialState

from training_runs import arguments
from undertow.errors import OptionError
from undertow.training import processes
from undertow.training.processes import from_main_process

WORKER = Path(__file__).parents[1] / "writes_worker.py"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> tuple[int, list[str], str]:
    """Exit code, what the two processes noted, and standard error."""
    monkeypatch.setenv("UNDERTOW_TEST_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", str(WORKER.parents[1] / "src"))
    done = subprocess.run([*LAUNCH, str(WORKER), *map(str, options)], capture_output=True, text=True, timeout=300)
    lines = [line for path in sorted(tmp_path.glob("log.*")) for line in path.read_text().splitlines()]
    return done.returncode, lines, done.stderr


def test_two_processes_write_each_file_once_and_score_once(model, prefs, tmp_path, monkeypatch) -> None:
    arms, out = tmp_path / "arms.yaml", tmp_path / "sweep"
    arms.write_text("plain: {}\nfiltered: {filter: dlogp_chosen drop-lowest 25%}\n")
    options = [*arguments(model, prefs), "--max-steps", 2, "--track-every", 2, "--guard", "margin_change>0 -> warn"]
    code, lines, err = launched(tmp_path, monkeypatch, *options, "--sweep", arms, "--out", out, "--quiet")
    assert code == 0, err
    assert lines, "nothing was noted"
    assert {line.split()[0] for line in lines} == {"0"}, "only the main process writes, and scores"
    written = [line.removeprefix("0 write ") for line in lines]
    assert written.count("sweep.json") == written.count("filtered.jsonl") == 1
    assert lines.count("0 scores") == 1
    assert lines.count("0 reference") == 1, "the arms share the reference"
    assert written.count("train.json") == 2
    left_out = [json.loads(line) for line in (out / "arms" / "filtered" / "filtered.jsonl").read_text().splitlines()]
    assert len(left_out) == 6
    assert [arm["pairs"] for arm in json.loads((out / "sweep.json").read_text())["arms"]] == [24, 18]


def test_a_refusal_of_the_main_process_ends_all_of_them(model, prefs, tmp_path, monkeypatch) -> None:
    """The filter leaves nothing: the process that does not score ends too, and does not wait for the other."""
    options = [*arguments(model, prefs), "--filter", "dlogp_chosen drop-above -1e30"]
    code, lines, err = launched(tmp_path, monkeypatch, *options, "--out", tmp_path / "out", "--quiet")
    assert code != 0
    assert "--filter: no pair stays of 24" in err
    assert not any(line.startswith("1 ") for line in lines), lines


class Several:
    """Two processes, as the code asks for them."""

    num_processes = 2

    def __init__(self, main: bool) -> None:
        self.is_main_process = main


def test_what_one_process_makes_all_get(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list] = []

    def broadcast(values: list) -> None:
        if sent:
            values[:] = sent.pop()
        else:
            sent.append(list(values))

    def never() -> int:
        raise AssertionError("the others do no work")

    monkeypatch.setattr(processes, "broadcast_object_list", broadcast)
    assert from_main_process(Several(True), lambda: 7) == 7
    assert from_main_process(Several(False), never) == 7

    def refused() -> int:
        raise OptionError("--filter: no")

    with pytest.raises(OptionError, match="--filter: no"):
        from_main_process(Several(True), refused)
    with pytest.raises(Exception, match="--filter: no"):
        from_main_process(Several(False), never)
    assert from_main_process(PartialState(cpu=True), lambda: 3) == 3

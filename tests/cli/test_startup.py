"""What can be refused without torch is refused before torch is imported: modules are counted, never seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command import some_rows, write_jsonl

# Each takes from a third of a second to several seconds to import.
SLOW = ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "altair", "duckdb", "vl_convert", "pandas")
PROGRAM = """
import json, sys
from undertow.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def refused(folder: Path, *arguments: str) -> tuple[int, set[str], str]:
    """Exit code, imported packages and standard error of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.stdout, done.stderr
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules), " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("audit nope.jsonl --model demo --out x", "nope.jsonl does not exist"),
        ("audit prefs.json --model demo --out x", "Did you mean prefs.jsonl"),
        ("audit prefs.jsonl --model ./nope --out x", "--model ./nope: there is no such file or folder"),
        ("audit prefs.jsonl --model demo --ref ./nope --out x", "./nope: there is no such file or folder"),
        ("audit prefs.jsonl --model demo --out x --loss nope", "there is no loss 'nope'"),
        ("audit prefs.jsonl --model demo --out x --loss dpo --beta -1", "beta must be a number in (0, inf)"),
        ("audit prefs.jsonl --model demo --out x --level deep", "--level deep: expected one of"),
        ("audit prefs.jsonl --model demo --out x --max-length 1", "--max-length 1"),
        ("audit prefs.jsonl --model demo --out x --columns prompt", "--columns"),
        ("audit prefs.jsonl --model demo", "--out"),
        ("compare nope.jsonl --before demo --after demo --out x", "nope.jsonl does not exist"),
        ("compare prefs.jsonl --before demo --after ./nope --out x", "./nope: there is no such file or folder"),
        ("compare prefs.jsonl --before demo --after demo --out x --beta 0", "--beta 0"),
        ("train nope.jsonl --model demo --out x", "nope.jsonl does not exist"),
        ("train prefs.jsonl --model demo --loss nope --out x", "there is no loss 'nope'"),
        ("train prefs.jsonl --out x", "--model"),
        ("train prefs.jsonl --model demo --out x --guard nonsense", "--guard"),
        ("train prefs.jsonl --model demo --out x --filter nonsense", "--filter"),
        ("train prefs.jsonl --model demo --out x --config nope.yaml", "nope.yaml"),
        ("train prefs.jsonl --model demo --out x --sweep arms.yaml", "there is no loss 'nope'"),
        ("filter prefs.jsonl --scores s --by ln_ches --out o.jsonl --drop-highest 110%", "--drop-highest"),
        ("filter prefs.jsonl --scores nope --by ln_ches --out o.jsonl --drop-highest 10%", "nope"),
        ("view nope", "nope does not exist"),
        ("view prefs.jsonl", "prefs.jsonl is a file"),
        ("adit prefs.jsonl", "adit"),
    ],
)
def test_a_refused_command_does_not_wait_for_torch(tmp_path: Path, line: str, said: str) -> None:
    write_jsonl(tmp_path / "prefs.jsonl", some_rows(3))
    (tmp_path / "arms.yaml").write_text("good: {loss: dpo}\nbad: {loss: nope}\n")
    before = sorted(tmp_path.rglob("*"))
    code, modules, err = refused(tmp_path, *line.split())
    assert (code, said in err) == (2, True), err
    assert not modules & set(SLOW)
    assert sorted(tmp_path.rglob("*")) == before  # and nothing was written


def test_help_imports_neither_tables_nor_numbers(tmp_path: Path) -> None:
    for line in (["--help"], ["--version"], ["train", "--help"]):
        code, modules, _ = refused(tmp_path, *line)
        assert code == 0
        assert not modules & {*SLOW, "pyarrow", "numpy"}


def test_losses_are_named_without_torch() -> None:
    code = "import sys, undertow as ut; ut.losses.by_name('r-dpo', alpha='0.3'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

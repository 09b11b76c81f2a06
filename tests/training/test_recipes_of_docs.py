"""Every recipe in the documentation is a recipe: it is read, and a tiny training is run or simulated by it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from command import run
from run_folders import forecast, made
from tiny import tiny_folder

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```ya?ml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (f"{page.name}-{number}", block)
    for page in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8")))
]
SIMULATED = [block for name, block in BLOCKS if name.startswith("remedies.md")]
TRAINED = [(name, block) for name, block in BLOCKS if block not in SIMULATED]


def is_sweep(block: str) -> bool:
    """Arms by name, each a mapping of options."""
    return all(isinstance(value, dict | None) for value in yaml.safe_load(block).values())


def test_there_are_recipes_of_both_kinds() -> None:
    assert {is_sweep(block) for _, block in BLOCKS} == {True, False}


@pytest.mark.parametrize("block", [block for _, block in TRAINED], ids=[name for name, _ in TRAINED])
def test_a_recipe_of_the_docs_trains(capsys, prefs: Path, tmp_path: Path, monkeypatch, block: str) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_folder(tmp_path / "sft")  # the model of the recipes
    (tmp_path / "file.yaml").write_text(block, encoding="utf-8")
    option = "--sweep" if is_sweep(block) else "--config"
    model = [] if "model:" in block else ["--model", "./sft"]
    code, out, err = run(
        capsys, "train", prefs, option, "file.yaml", *model, "--max-steps", 2, "--max-length", 400, "--track-every", 1,
        "--device", "cpu", "--out", "run", "--quiet", "--json",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    asked = yaml.safe_load(block)
    if option == "--sweep":
        assert [arm["arm"] for arm in told["arms"]] == list(asked)
        return
    assert told["arguments"]["lr"] == float(asked["lr"])
    for name, words in told["arguments"]["watch"].items():
        assert f"{name}: [{', '.join(words)}]" in block
        tracked = pq.read_table(tmp_path / "run" / "tracking.parquet").column_names
        assert f"watch/{name}" in tracked


def test_the_arms_of_the_docs_of_remedies_are_simulated(capsys, tmp_path: Path) -> None:
    out = forecast(*made(tmp_path), tmp_path / "out")
    for block in SIMULATED:
        (tmp_path / "arms.yaml").write_text(block, encoding="utf-8")
        code, told, err = run(capsys, "simulate", out, "--sweep", tmp_path / "arms.yaml", "--quiet", "--json")
        assert code == 0, err
        assert {arm["arm"] for arm in json.loads(told)["arms"]} > set(yaml.safe_load(block))
    assert SIMULATED

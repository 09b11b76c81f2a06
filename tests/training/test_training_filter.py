"""``train --filter``: what it scores with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import undertow as ut
from command import run
from tiny import tiny_folder
from training_runs import arguments
from undertow.runs.settings import LossSettings
from undertow.scoring import scorer


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same vocabulary."""
    folder = tiny_folder(tmp_path_factory.mktemp("other"))
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        hf.lm_head.weight.mul_(1.7)
    hf.save_pretrained(folder)
    return folder


def lowest(prefs: Path, model: Path, reference: Path | None) -> set[int]:
    loaded, held_against = (
        ut.load_model(str(path), dtype="float32") if path is not None else None for path in (model, reference)
    )
    table = ut.audit(
        ut.read_pairs(prefs), loaded, reference=held_against, loss=LossSettings("ipo").make(),
        tokens=ut.TokenSettings(max_length=400),
    )  # fmt: skip
    return {row["row"] for row in sorted(table.to_pylist(), key=lambda row: row["dlogp_chosen"])[:8]}


def test_a_filter_scores_with_the_reference_of_the_run(capsys, model, prefs, other, tmp_path) -> None:
    """The weights of IPO hang on the reference, and so does which pairs lower their chosen responses."""
    out = tmp_path / "run"
    options = ["--loss", "ipo", "--ref", other, "--filter", "dlogp_chosen drop-lowest 8"]
    code, _, err = run(capsys, *arguments(model, prefs), *options, "--max-steps", 1, "--out", out)
    assert code == 0, err
    left_out = {json.loads(line)["row"] for line in (out / "filtered.jsonl").read_text().splitlines()}
    assert left_out == lowest(prefs, model, other)
    assert left_out != lowest(prefs, model, None)


def test_nothing_is_scored_before_all_rules_are_known_to_be_rules(capsys, model, prefs, tmp_path, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be scored")

    monkeypatch.setattr(scorer, "score_parts", never)
    options = ["--filter", "ln_ches drop-highest 1", "--filter", "beauty drop-highest 1"]
    code, _, err = run(capsys, *arguments(model, prefs), *options, "--out", tmp_path / "out")
    assert (code, "no score beauty" in err) == (2, True), err
    assert not (tmp_path / "out").exists()

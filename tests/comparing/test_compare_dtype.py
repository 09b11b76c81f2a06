"""A comparison is one in float32 unless told otherwise, and a type that cannot show the difference is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from command import run, some_rows, write_jsonl
from tiny import tiny_folder, tiny_hf, tiny_tokenizer
from undertow.comparing.folder import read_comparison
from undertow.comparing.weights import change_of, weight_change
from undertow.models.sources import find_model

STEP = 3e-4
"""Of a weight: a tenth of what bfloat16 can tell apart."""


def trained_folder(path: Path, *, by: float = STEP, dtype: torch.dtype = torch.float32) -> Path:
    """The tiny model after small steps: every weight changed by a random part of itself."""
    hf = tiny_hf("llama", dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter *= 1 + by * torch.randn(parameter.shape, generator=generator)
    hf.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("before"))


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("after"))


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in some_rows(8)]
    return write_jsonl(tmp_path_factory.mktemp("data") / "prefs.jsonl", rows)


def arguments(prefs: Path, before: Path, after: Path, out: Path, *more: object) -> list[object]:
    base: list[object] = ["compare", prefs, "--before", before, "--after", after, "--out", out, "--max-length", 400]
    return [*base, "--resamples", 20, "--generate", 0, *more]


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_float32_on_every_processor(capsys, prefs, before, after, tmp_path, monkeypatch, native) -> None:
    monkeypatch.setattr("undertow.models.device.multiplies_bfloat16", lambda _device: native)
    code, stdout, err = run(capsys, *arguments(prefs, before, after, tmp_path / "out"))
    assert (code, err) == (0, "")
    table, summary = read_comparison(tmp_path / "out")
    assert summary["before"]["dtype"] == summary["after"]["dtype"] == "float32"
    assert "in float32" in stdout
    changes = np.array(table["dlogp_chosen"])
    assert 0 < np.abs(changes).max() < 0.1  # in bfloat16 the noise alone is larger


def test_a_type_that_cannot_show_the_difference_is_said(capsys, prefs, before, after, tmp_path) -> None:
    code, _, err = run(capsys, *arguments(prefs, before, after, tmp_path / "out", "--dtype", "bfloat16"))
    assert code == 0, err
    found = weight_change(find_model(str(before)), find_model(str(after)), torch.bfloat16)
    assert f"{found.changed:,} weights that differ" in err
    assert f"{found.lost / found.changed:.0%} are equal once rounded to bfloat16" in err
    assert "3.9e-03" in err
    assert "leave --dtype away" in err


def test_a_type_that_shows_the_difference_is_not_warned_of(capsys, prefs, before, tmp_path) -> None:
    """Checkpoints that were saved in bfloat16 lose nothing by being read in it, however small the steps were."""
    both = [tiny_hf("llama", dtype=torch.bfloat16), None]
    both[0].save_pretrained(tmp_path / "one")
    tiny_tokenizer().save_pretrained(tmp_path / "one")
    trained_folder(tmp_path / "two", by=0.05, dtype=torch.bfloat16)
    code, _, err = run(
        capsys, *arguments(prefs, tmp_path / "one", tmp_path / "two", tmp_path / "out", "--dtype", "bfloat16")
    )
    assert code == 0, err
    assert "cannot show" not in err


def test_what_is_lost_is_counted(before: Path, after: Path) -> None:
    """Against the definition, on the loaded weights."""
    old, new = (
        torch.cat([p.flatten() for _, p in sorted(hf.named_parameters())]) for hf in (tiny_hf("llama"), _loaded(after))
    )
    differ = old != new
    found = weight_change(find_model(str(before)), find_model(str(after)), torch.bfloat16)
    assert found.weights == len(old)
    assert found.changed == int(differ.sum()) > 0.9 * len(old)
    assert found.lost == int((old.bfloat16()[differ] == new.bfloat16()[differ]).sum()) > found.changed / 2
    assert not found.visible
    exact = ((new - old).abs() / old.abs())[differ].median().item()
    assert found.median == pytest.approx(exact, rel=0.05)


def _loaded(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_weights_in_several_files_are_all_counted(before: Path, after: Path, tmp_path: Path) -> None:
    _loaded(after).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    whole = weight_change(find_model(str(before)), find_model(str(after)), torch.bfloat16)
    assert weight_change(find_model(str(before)), find_model(str(tmp_path)), torch.bfloat16) == whole


def test_an_adapter_changes_what_it_is_merged_into(before: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_loaded(before), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(before)}))
    found = weight_change(find_model(str(before)), find_model(str(tmp_path)), torch.bfloat16)
    assert 0 < found.changed <= sum(p.numel() for n, p in _loaded(before).named_parameters() if "q_proj" in n)


def test_equal_weights_have_no_change() -> None:
    weights = {"a": torch.ones(3), "b": torch.zeros(2, 2), "ids": torch.arange(3)}
    found = change_of(weights, {**weights, "c": torch.ones(1)}, torch.bfloat16)
    assert (found.weights, found.changed, found.lost) == (7, 0, 0)
    assert found.visible
    assert math.isnan(found.median)


def test_changes_by_hand() -> None:
    """1 + 2⁻¹⁰ rounds to 1 and is lost; 1 + 2⁻⁷ is a bfloat16; from 0, any change is seen."""
    old, new = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1 + 2**-10, 1 + 2**-7, 1.0, 1e-5])
    found = change_of({"a": old}, {"a": new}, torch.bfloat16)
    assert (found.weights, found.changed, found.lost) == (4, 3, 1)
    assert found.median == pytest.approx(2**-7, rel=0.05)
    assert found.resolution == 2**-8

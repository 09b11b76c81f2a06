"""A model that cannot be had is named as the user named it, whichever option that was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from command import run, some_rows, write_jsonl
from tiny import tiny_folder
from undertow.errors import ModelError
from undertow.models.sources import find_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", ["./nope", "nope"])
@pytest.mark.parametrize("option", ["--before", "--after", "audit --ref", "train --ref"])
def test_messages_name_the_option_that_named_the_model(
    capsys, monkeypatch, folder: Path, tmp_path: Path, option: str, name: str
) -> None:
    """``./nope`` is a path that is not there, ``nope`` a Hub id that cannot be had."""
    monkeypatch.setattr("undertow.models.loading.AutoConfig.from_pretrained", _offline_unless_local)
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(3))
    models = {"--before": folder, "--after": folder} | {option: name}
    compare = ["compare", data, *(word for pair in models.items() for word in pair)]
    command, _, ref = option.partition(" ")
    words = [command, data, "--model", folder, ref, name] if ref else compare
    code, _, err = run(capsys, *words, "--out", tmp_path / "out", "--max-length", 400)
    assert code == 2
    assert f"{option.split()[-1]} {name}: " in err
    assert "--model" not in err
    assert not (tmp_path / "out").exists()


def _offline_unless_local(location: str, **_options: object) -> object:
    if not Path(location).is_dir():
        raise OSError("We couldn't connect to the Hub.")
    return AutoConfig.for_model("llama", max_position_embeddings=512)


def test_an_adapters_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "./nowhere"}))
    save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="--after .*: its base model ./nowhere: there is no such file"):
        find_model(str(tmp_path), option="--after")

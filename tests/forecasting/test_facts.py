"""Forecasts of runs of a tiny model held against those runs: trained pairs, held-out pairs, and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from command import some_rows, write_jsonl
from run_folders import compared, made, train_settings, trained
from tiny import tiny_tokenizer
from undertow.forecasting.forecast import forecast_to_folder
from undertow.forecasting.settings import ForecastSettings

ROWS = some_rows(52)
HELD = [{**row, "prompt": row["prompt"].replace("Question", "Riddle")} for row in ROWS[24:36]]
TEXTS = [
    {
        "prompt": ROWS[n]["prompt"],
        "response": ("No." if n % 2 else "It is so!") + " Really" * (n % 3),
        "group": ["yes", "no"][n % 2],
        "end": n % 4 > 0,
    }
    for n in range(36, 52)
]
RUNS: dict[str, dict[str, Any]] = {
    "rmsprop, two epochs, two batches a step": {"lr": 3e-5, "epochs": 2.0, "max_steps": 0, "accumulate": 2},
    "adamw, clipped": {"optimiser": "adamw", "lr": 3e-5, "max_grad_norm": 0.5, "schedule": "cosine"},
    "sgd, clipped, warm-up": {"optimiser": "sgd", "lr": 2e-2, "max_grad_norm": 1.0, "warmup_steps": 2},
    "adapter, rmsprop, clipped": {"lora_r": 4, "lr": 1e-4, "max_grad_norm": 0.5},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """Data, model, held-out pairs and texts."""
    folder = tmp_path_factory.mktemp("inputs")
    data, model = made(folder)
    return data, model, write_jsonl(folder / "held.jsonl", HELD), write_jsonl(folder / "texts.jsonl", TEXTS)


def agree(fact: np.ndarray, foretold: np.ndarray, correlation: float, slope: tuple[float, float]) -> None:
    """Fact on forecast."""
    assert np.corrcoef(fact, foretold)[0, 1] > correlation
    assert slope[0] < float(fact @ foretold / (foretold @ foretold)) < slope[1]


def text_logps(model: Path) -> np.ndarray:
    """Of the texts, from a folder's logits, with the chat written out by hand."""
    hf, tokenizer = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval(), tiny_tokenizer()
    found = []
    for text in TEXTS:
        prompt, response = (
            tokenizer(said, add_special_tokens=False)["input_ids"]
            for said in (f"<|user|>{text['prompt']}<|end|><|assistant|>", text["response"])
        )
        if text["end"]:
            response = [*response, tokenizer.convert_tokens_to_ids("<|end|>")]
        with torch.no_grad():
            steps = hf(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(float(steps.gather(1, torch.tensor(response)[:, None]).sum()))
    return np.array(found)


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_what_is_foretold_comes(options: dict[str, Any], inputs: tuple[Path, ...], tmp_path: Path) -> None:
    """With a small learning rate, where curvature is small and what it adds is known from the look."""
    data, model, held, texts = inputs
    options = {"batch_size": 3, "track_every": 0, **options}
    after = trained(data, model, tmp_path / "run", **options) / "model"
    settings = ForecastSettings(train=train_settings(**options), sketch=16_381, held_out=str(held), texts=str(texts))
    summary = forecast_to_folder(data, str(model), tmp_path / "out", settings)
    for source, name in ((data, "forecast"), (held, "held-out-forecast")):
        fact = pq.read_table(compared(source, model, after, tmp_path / f"moved {name}") / "pairs.parquet")
        foretold = pq.read_table(tmp_path / "out" / f"{name}.parquet")
        assert foretold["pair_id"].to_pylist() == fact["pair_id"].to_pylist()
        for side, slope in (("chosen", (0.85, 1.15)), ("rejected", (0.5, 1.4))):
            moved, said = fact[f"dlogp_{side}"].to_numpy(), foretold[f"forecast_{side}"].to_numpy()
            agree(moved, said, 0.97 if side == "chosen" else 0.93, slope)
    table = pq.read_table(tmp_path / "out" / "texts-forecast.parquet")
    start, moved = text_logps(model), text_logps(after) - text_logps(model)
    np.testing.assert_allclose(table["logp"].to_numpy(), start, rtol=1e-5)
    assert np.abs(moved).mean() > 0.02
    # The first matrix of a fresh adapter has no gradient: it moves in the run, and in no forecast.
    agree(moved, table["forecast"].to_numpy(), 0.97, (0.85, 1.3 if options.get("lora_r") else 1.15))
    for group in ("yes", "no"):
        mine = np.array([text["group"] == group for text in TEXTS])
        assert summary["texts"][group] == pytest.approx(table["forecast"].to_numpy()[mine].mean())
    realised = json.loads((tmp_path / "run" / "train.json").read_text())
    assert summary["end"]["loss"] == pytest.approx(realised["loss"], rel=0.05)

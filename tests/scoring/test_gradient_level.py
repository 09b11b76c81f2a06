"""Level ``gradient``: the columns against autograd through whole models, and the command from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import undertow as ut
from command import run
from tiny import FAMILIES, random_pairs, tiny_folder, tiny_model
from undertow.models.gradients import Response, WholeGradients, response_gradients, trained_parameters
from undertow.runs.progress import Silent
from undertow.scoring.columns import columns_of
from undertow.scoring.gradient import layer_of
from undertow.scoring.scorer import Scorer, score_rows

PAIRS = random_pairs(5, longest=12)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
def test_columns_are_those_of_two_backward_passes(family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    loss = ut.losses.SimPO(beta=2.0, gamma=1.0)
    rows = list(score_rows(PAIRS, Scorer("gradient", model, loss), Silent()))
    parameters = trained_parameters(model.hf)
    assert len(parameters) == len(list(model.hf.parameters()))
    for pair, row in zip(PAIRS, rows, strict=True):
        whole = WholeGradients(parameters, 2)
        both = [Response(pair.prompt, tokens) for tokens in (pair.chosen, pair.rejected)]
        response_gradients(model, both, parameters, whole, packed=False)
        g_w, g_l = (torch.cat(list(one.values())) for one in whole.found)
        ww, wl, ll = (float((a * b).sum()) for a, b in ((g_w, g_w), (g_w, g_l), (g_l, g_l)))
        found = [row[f"full_gg_{part}"] for part in ("chosen", "cross", "rejected")]
        assert found == pytest.approx([ww, wl, ll], rel=1e-9, abs=1e-9 * (ww * ll) ** 0.5)
        d_w, d_l = row["d_chosen"], row["d_rejected"]
        assert row["full_dlogp_chosen"] == pytest.approx(d_w * ww - d_l * wl, rel=1e-8, abs=1e-9 * ww)
        assert row["full_dlogp_rejected"] == pytest.approx(d_w * wl - d_l * ll, rel=1e-8, abs=1e-9 * ll)
        falls, rises = row["full_dlogp_chosen"] < 0, row["full_dlogp_rejected"] > 0
        assert row["full_case"] == (2 if falls else 3 if rises else 1)
        for part in ("chosen", "cross", "rejected"):
            total = sum(layer[part] for layer in row["full_by_layer"])
            assert total == pytest.approx(row[f"full_gg_{part}"], rel=1e-12, abs=1e-12)
        blocks = {layer["block"] for layer in row["full_by_layer"]}
        assert blocks == {None, 0, 1, 2}
        # The unembedding's own share is what level unembedding says, where it is not the embedding too.
        if family == "llama":
            (head,) = [layer for layer in row["full_by_layer"] if layer["kind"] == "lm_head"]
            assert head["cross"] == pytest.approx(row["gg_cross"], rel=1e-6)


def test_a_calibrated_loss_takes_the_norms_of_the_whole_gradients() -> None:
    model = tiny_model("llama", dtype=torch.float64)
    (row,) = score_rows(PAIRS[:1], Scorer("gradient", model, ut.losses.RewardCalibrated(ut.losses.DPO())), Silent())
    plain = next(iter(score_rows(PAIRS[:1], Scorer("gradient", model), Silent())))
    ratio = np.sqrt(plain["full_gg_rejected"] / plain["full_gg_chosen"])
    found = row["full_dlogp_chosen"] / (ratio * plain["full_gg_chosen"] - plain["full_gg_cross"])
    other = row["full_dlogp_rejected"] / (ratio * plain["full_gg_cross"] - plain["full_gg_rejected"])
    assert found == pytest.approx(other, rel=1e-6)  # both are d_l: the ratio of the weights is that of the norms


def test_the_command_writes_them_and_goes_on_after_a_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_folder(tmp_path / "model", "llama-tied")
    data = tmp_path / "pairs.jsonl"
    data.write_text(
        "".join(
            json.dumps({"prompt": f"Tell me of {n}", "chosen": f"It is {n} and more.", "rejected": f"No {n}."}) + "\n"
            for n in range(12)
        )
    )
    options = ["--level", "gradient", "--part-pairs", "5", "--max-length", "256"]
    code, out, _ = run(capsys, "audit", data, "--model", model, "--out", tmp_path / "a", *options)
    assert code == 0
    assert "all parameters" in out
    table = ut.read_scores(tmp_path / "a")
    assert table.column_names == [column.name for column in columns_of("gradient")]
    summary = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert sum(summary["cases"]["full_case"].values()) == 12
    assert (tmp_path / "a" / "report.html").exists()
    # A part that is gone is scored anew, to the same bytes.
    part = tmp_path / "a" / "scores" / "part-00001.parquet"
    bytes_before = part.read_bytes()
    part.unlink()
    (tmp_path / "a" / "audit.json").unlink()
    assert run(capsys, "audit", data, "--model", model, "--out", tmp_path / "a", *options)[0] == 0
    assert part.read_bytes() == bytes_before
    kept = tmp_path / "kept.jsonl"
    code, _, _ = run(
        capsys, "filter", data, "--scores", tmp_path / "a", "--by", "full_dlogp_chosen", "--drop-lowest", "25%",
        "--out", kept,
    )  # fmt: skip
    assert code == 0
    assert len(kept.read_text().splitlines()) == 9


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_has_a_kind(family: str) -> None:
    kinds = {layer_of(name) for name, _ in tiny_model(family).hf.named_parameters()}
    assert {block for block, _ in kinds} == {None, 0, 1, 2}
    assert all(kind and not kind[0].isdigit() for _, kind in kinds)

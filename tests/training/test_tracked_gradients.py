"""Gradient products and cases while training: an audit's numbers at every look, and training none the wiser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import undertow as ut
from command import run, some_rows, write_jsonl
from tiny import random_pairs, tiny_folder, tiny_model
from undertow.data.tokens.packing import pack
from undertow.models.forward import pair_states
from undertow.models.gradients import Response, WholeGradients, response_gradients, trained_parameters
from undertow.scoring.unembedding import response_logps, unembedding_row
from undertow.training.settings import probed
from undertow.training.tracking.gradients import FullProbe, GradientProbe, gradient_summary
from undertow.training.tracking.look import look

TOKENS = ut.TokenSettings(max_length=400)
BASE = ["--max-length", 400, "--lr", 1e-3, "--max-steps", 4, "--track-every", 2, "--batch-size", 3, "--save-every", 2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "prefs.jsonl", some_rows(12))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model: Path, prefs: Path) -> dict[str, Path]:
    """The same training, tracked with gradients and without."""
    from undertow.runs.settings import LossSettings
    from undertow.training.run import train_to_folder
    from undertow.training.settings import TrainSettings

    found = {}
    for name, gradients in (("with", True), ("without", False)):
        found[name] = tmp_path_factory.mktemp("runs") / name
        settings = TrainSettings(
            loss=LossSettings("ipo", None, {"tau": 0.3}), tokens=TOKENS, lr=1e-3, max_steps=4, batch_size=3,
            dtype="float32", device="cpu", track_every=2, probe=12, track_gradients=gradients,
        )  # fmt: skip
        train_to_folder(prefs, str(model), found[name], settings)
    return found


FULL = [0, 3, 6, 9]
"""The pairs whose gradients over all parameters are looked at: four, evenly among the twelve."""


def expected_values(table: pa.Table) -> dict[str, float]:
    """The tracked values as an audit's table gives them, column by column."""
    found: dict[str, float] = {}
    kinds_of = {"": ["gg"], "free_": ["gg", "hh"]}
    kinds_of |= {"full_": ["full_gg"]} if "full_gg_chosen" in table.column_names else {}
    for prefix, kinds in kinds_of.items():
        rows = (table.take(FULL) if prefix == "full_" else table).to_pylist()
        for part in ("chosen", "cross", "rejected"):
            values = [sum(row[f"{kind}_{part}"] for kind in kinds) for row in rows]
            found[f"{prefix}gradient/{part}"] = sum(values) / len(rows)
        found[f"{prefix}gradient/condition"] = sum(row[f"{prefix}dlogp_chosen"] > 0 for row in rows) / len(rows)
        for case in range(5):
            found[f"{prefix}case/{case}"] = sum(row[f"{prefix}case"] == case for row in rows) / len(rows)
    return found


def test_every_look_is_an_audit_with_the_runs_loss_and_reference(
    runs: dict[str, Path], model: Path, prefs: Path
) -> None:
    """The first look is the audit of the model, the last that of the trained one with the model as its reference."""
    rows = pq.read_table(runs["with"] / "tracking.parquet").to_pylist()
    assert [row["step"] for row in rows] == [0, 2, 4]
    start, trained = (ut.load_model(str(folder), dtype="float32") for folder in (model, runs["with"] / "model"))
    options: dict[str, Any] = {"level": "gradient", "loss": ut.losses.IPO(0.3), "tokens": TOKENS}
    for row, table in (
        (rows[0], ut.audit(ut.read_pairs(prefs), start, **options)),
        (rows[-1], ut.audit(ut.read_pairs(prefs), trained, reference=start, **options)),
    ):
        expected = expected_values(table)
        assert {name for name in row if "gradient/" in name or "case/" in name} == expected.keys()
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-5), name
        for prefix in ("", "free_", "full_"):
            shares = [row[f"{prefix}case/{case}"] for case in range(5)]
            assert sum(shares) == pytest.approx(1)
            assert all(0 <= share <= 1 for share in shares)
    # The reference matters: some margins are past IPO's target already, and such pairs are pushed the other way.
    alone = expected_values(ut.audit(ut.read_pairs(prefs), trained, **options))
    assert alone["gradient/condition"] != rows[-1]["gradient/condition"]


def test_nothing_else_changes(runs: dict[str, Path]) -> None:
    """The same trained weights to the bit, the same other numbers, the same loss at every step."""
    one, two = (load_file(runs[name] / "model" / "model.safetensors") for name in ("with", "without"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    tables = [pq.read_table(runs[name] / "tracking.parquet") for name in ("with", "without")]
    assert tables[0].select(tables[1].column_names).equals(tables[1])
    assert tables[0].column_names[: len(tables[1].column_names) - 2] == tables[1].column_names[:-2]


@pytest.mark.parametrize(
    "loss",
    [
        ut.losses.DPO(0.1),
        ut.losses.IPO(0.1),
        ut.losses.SimPO(2.0, 0.5),
        ut.losses.SLiC(1.0),
        ut.losses.RewardCalibrated(ut.losses.DPO(0.1)),
    ],
    ids=repr,
)
def test_a_look_equals_the_scoring_of_each_pair_in_float64(loss: ut.losses.PairLoss) -> None:
    model, pairs = tiny_model(dtype=torch.float64), random_pairs(9)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        states = [found for batch in pack(pairs, 200) for found in pair_states(model, batch)]
        logps = torch.tensor([response_logps(found, model.head) for found in states], dtype=torch.float64)
        reference = logps + torch.randn(logps.shape, generator=generator, dtype=torch.float64)
        rows = [
            unembedding_row(found, model.head, loss, (ref[0], ref[1]))
            for found, ref in zip(states, reference.tolist(), strict=True)
        ]
    got = look(model, pairs, 200, gradients=GradientProbe(loss, reference)).gradients
    expected = expected_values(pa.Table.from_pylist(rows))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-8), name


@pytest.mark.parametrize("attention", ["tree", "sequence"])
def test_products_over_all_parameters_are_autograds(attention: str) -> None:
    """Of some of the pairs, by the loss's weights against a reference; also one sequence at a time."""
    model, pairs = tiny_model(dtype=torch.float64, packed=attention == "tree"), random_pairs(7)
    assert model.attention == attention
    model.hf.requires_grad_(True)
    parameters = trained_parameters(model.hf)
    some, reference = [1, 4], torch.full((7, 2), -30.0, dtype=torch.float64)
    found = look(model, pairs, gradients=GradientProbe(ut.losses.IPO(0.1), reference, FullProbe(some))).gradients
    products, rises = [], []
    for number in some:
        logps, flat = [], []
        for tokens in (pairs[number].chosen, pairs[number].rejected):
            sink = WholeGradients(parameters, 1)
            response = Response(pairs[number].prompt, tokens)
            logps.append(response_gradients(model, [response], parameters, sink, packed=False))
            flat.append(torch.cat(list(sink.found[0].values())))
        gram = torch.stack(flat) @ torch.stack(flat).T
        products.append(gram)
        ratio = (logps[0] + 30) - (logps[1] + 30)  # d_w = d_l = 2 (1/2τ − Δ)
        rises.append(bool((2 * (5 - ratio) * (gram[0, 0] - gram[0, 1])) > 0))
    mean = torch.stack(products).mean(0)
    assert found["full_gradient/chosen"] == pytest.approx(mean[0, 0].item(), rel=1e-9)
    assert found["full_gradient/cross"] == pytest.approx(mean[0, 1].item(), rel=1e-9)
    assert found["full_gradient/rejected"] == pytest.approx(mean[1, 1].item(), rel=1e-9)
    assert found["full_gradient/condition"] == sum(rises) / 2
    assert all(parameter.requires_grad and parameter.grad is None for parameter in parameters.values())


def test_looking_stays_below_a_tenth_of_the_time() -> None:
    """In steps on a pair, which cost three looks at it and about one look with its gradients."""
    for trained in (100, 200, 800, 5000):
        looks, full = probed(trained, True)
        assert looks / 3 + 1.2 * full < 0.1 * trained, trained
        assert probed(trained, False)[0] / 3 < 0.1 * trained
    assert probed(4, True) == (8, 4)  # not too few to say anything, whatever the time


def test_values_by_hand() -> None:
    """Two pairs of known products; a third that has no numbers is in the means and in no share."""
    one = {"gg_chosen": 2.0, "gg_cross": 1.0, "gg_rejected": 4.0, "hh_chosen": 1.0, "hh_cross": 0.5, "hh_rejected": 2.0}
    two = {"gg_chosen": 4.0, "gg_cross": 5.0, "gg_rejected": 8.0, "hh_chosen": 3.0, "hh_cross": 1.5, "hh_rejected": 0.0}
    one |= {"dlogp_chosen": 0.5, "case": 1, "free_dlogp_chosen": 1.0, "free_case": 1}
    two |= {"dlogp_chosen": -0.5, "case": 2, "free_dlogp_chosen": 0.25, "free_case": 3}
    found = gradient_summary([one, two])
    assert (found["gradient/chosen"], found["gradient/cross"], found["gradient/rejected"]) == (3, 3, 6)
    assert (found["free_gradient/chosen"], found["free_gradient/cross"], found["free_gradient/rejected"]) == (5, 4, 7)
    assert (found["gradient/condition"], found["free_gradient/condition"]) == (0.5, 1.0)
    assert [found[f"case/{n}"] for n in range(5)] == [0, 0.5, 0.5, 0, 0]
    assert [found[f"free_case/{n}"] for n in range(5)] == [0, 0.5, 0, 0.5, 0]
    three = dict.fromkeys(one, math.nan) | {"case": -1, "free_case": -1}
    with_unknown = gradient_summary([one, two, three])
    assert math.isnan(with_unknown["gradient/chosen"])
    assert [with_unknown[f"case/{n}"] for n in range(5)] == [0, 0.5, 0.5, 0, 0]
    assert math.isnan(gradient_summary([three])["case/1"])


def test_a_guard_can_watch_them(capsys, model: Path, prefs: Path, tmp_path: Path) -> None:
    base = ["train", prefs, "--model", model, *BASE, "--dtype", "float32", "--device", "cpu"]
    out = tmp_path / "run"
    guard = ["--guard", "gradient/condition>=0 and case/1<=1 -> stop"]
    code, stdout, err = run(capsys, *base, "--track-gradients", *guard, "--out", out)
    assert code == 0, err
    assert "gradient/condition" in stdout
    assert pq.read_table(out / "tracking.parquet")["step"].to_pylist() == [0, 2]
    code, _, err = run(capsys, *base, *guard, "--out", tmp_path / "other")
    assert (code, "gradient/condition" in err) == (2, True), err
    code, _, err = run(capsys, *base, "--track-gradients", "--track-every", 0, "--out", tmp_path / "other")
    assert (code, "--track-gradients" in err) == (2, True), err

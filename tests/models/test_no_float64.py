"""On a device without float64 (Apple's GPUs) everything runs, and sums are taken in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import undertow as ut
from no_float64 import device_without_float64, move
from tiny import random_pairs, tiny_hf, tiny_model
from undertow.maths import displacement, similarity
from undertow.maths.losses import DPO, RewardCalibrated
from undertow.models.checks import check_finite, check_head, tree_attention_problem
from undertow.models.families import find_backbone, find_head
from undertow.models.model import Model
from undertow.runs.progress import Silent
from undertow.scoring.scorer import Scorer, score_rows
from undertow.training.dataset import collate
from undertow.training.forward import train_on_pairs
from undertow.training.tracking.look import look
from undertow.training.trainer import PreferenceTrainer, SupervisedTrainer

PAIRS = random_pairs(4)


@pytest.fixture
def device() -> Iterator[torch.device]:
    with device_without_float64() as found:
        yield found


def model_on(device: torch.device, family: str = "llama") -> Model:
    """A model as ``load_model`` makes it, with its checks."""
    hf = move(tiny_hf(family))
    check_finite(hf, family)
    model = Model(family, hf, None, find_backbone(hf), find_head(hf), device, torch.float32)
    check_head(model)
    model.attention_note = tree_attention_problem(model)
    return model


def test_the_device_refuses_float64(device: torch.device) -> None:
    """Else the tests below would prove nothing."""
    values = torch.ones(3).to(device)
    assert values.device.type == "mps"
    for wrong in (
        lambda: values.double(),
        lambda: values.sum(dtype=torch.float64),
        lambda: torch.zeros(2, device=device, dtype=torch.float64),
        lambda: torch.tensor([1.0], device=device, dtype=torch.float64),
        lambda: torch.ones(3, dtype=torch.float64).to(device),
    ):
        with pytest.raises(TypeError, match="doesn't support float64"):
            wrong()
    with pytest.raises(RuntimeError, match="same device"):
        values + torch.ones(3)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_model_is_checked_and_scored(family: str, device: torch.device) -> None:
    expected = list(score_rows(PAIRS, Scorer("unembedding", tiny_model(family)), Silent()))
    model = model_on(device, family)
    assert model.attention == "tree", model.attention_note
    scorer = Scorer("unembedding", model, pull=True)
    update = scorer.no_update()
    with torch.no_grad():  # inference mode, which score_rows sets, is beyond what the made-up device can do
        found = list(score_rows.__wrapped__(PAIRS, scorer, Silent(), update))
    assert update.abs().max().item() > 0
    for one, two in zip(found, expected, strict=True):
        assert one.keys() == two.keys()
        for name, value in two.items():
            assert one[name] == (pytest.approx(value, rel=1e-4, abs=1e-4) if isinstance(value, float) else value), name


def test_a_look_during_training(device: torch.device) -> None:
    expected, found = (look(model, PAIRS) for model in (tiny_model("llama"), model_on(device)))
    torch.testing.assert_close(found.logps, expected.logps, rtol=1e-4, atol=1e-4)
    assert found.logps.dtype == torch.float64


@pytest.mark.parametrize("trainer", ["preferences", "calibrated", "supervised"])
def test_the_objectives_of_training(trainer: str, device: torch.device) -> None:
    def gradient_and_loss(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
        model.hf.requires_grad_(True)
        train_on_pairs(model)
        if trainer == "supervised":
            made = SupervisedTrainer.__new__(SupervisedTrainer)
        else:
            made = PreferenceTrainer.__new__(PreferenceTrainer)
            made.loss = RewardCalibrated(DPO()) if trainer == "calibrated" else DPO()
            made.guard, made._sums, made.state = None, {}, type("State", (), {"global_step": 0})
        batch = collate([(pair, -20.0, -30.0) for pair in PAIRS])
        on_it = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        loss = made.compute_loss(model.hf, on_it)
        assert loss.device == model.device
        loss.backward()
        return model.hf.get_output_embeddings().weight.grad.cpu(), loss.detach().cpu()

    expected, found = gradient_and_loss(tiny_model("llama")), gradient_and_loss(model_on(device))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), two.double(), rtol=1e-4, atol=1e-5)


def test_the_public_formulas(device: torch.device) -> None:
    states = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    here = states.to(device)
    sums, sums_here = (similarity.hidden_sum(s) for s in (states, here))
    assert torch.equal(sums, sums_here)
    first, second = here[0].cpu().to(device), here[1].cpu().to(device)
    for found, expected in (
        (similarity.ches(first, second), similarity.ches(states[0], states[1])),
        (similarity.ln_ches(first[0], second[0], 3, 4), similarity.ln_ches(states[0, 0], states[1, 0], 3, 4)),
        (similarity.ches_matrix(first), similarity.ches_matrix(states[0])),
        (similarity.last_hidden_ip(first, second), similarity.last_hidden_ip(states[0], states[1])),
    ):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected)
    logps = torch.tensor([-2.0, -1.0]).to(device)
    after = torch.tensor([-3.0, -0.5]).to(device)
    assert displacement.displacement(logps, after, torch.tensor([0.69]).to(device), 0.5).mean_change == -0.25
    loss = DPO()(ut.Logps(logps, after, ref_chosen=logps, ref_rejected=after))
    assert loss.cpu().tolist() == pytest.approx([0.6931472] * 2)

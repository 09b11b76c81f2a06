"""Exact inner products over all parameters: against autograd's flattened gradients, family by family, in float64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from tiny import FAMILIES, VOCABULARY, tiny_model
from undertow.models.gradients import Response, WholeGradients, response_gradients, trained_parameters
from undertow.models.gram import Group, check_products, gradient_gram
from undertow.models.model import Model

DRAW = random.Random(3)


def tokens(count: int) -> tuple[int, ...]:
    return tuple(DRAW.randrange(3, VOCABULARY) for _ in range(count))


def draw(count: int) -> list[int]:
    return list(tokens(count))


def groups() -> list[Group]:
    """Two pairs: one that shares its beginning and repeats tokens of its prompt, one of a single token a side."""
    prompt, shared = tokens(7), tokens(3)
    first = Group((Response(prompt, shared + tokens(6) + prompt[:2]), Response(prompt, shared + tokens(11))))
    other = tokens(4)
    return [first, Group((Response(other, tokens(1)), Response(other, tokens(1))))]


def expected(model: Model, some: list[Group], scales: dict[str, Tensor] | None = None) -> list[Tensor]:
    parameters = trained_parameters(model.hf)
    found = []
    for group in some:
        whole = WholeGradients(parameters, len(group.responses))
        response_gradients(model, group.responses, parameters, whole, packed=False)
        by_name = []
        for name in parameters:
            one = torch.stack([gradients[name] for gradients in whole.found])
            by_name.append((one if scales is None else one * scales[name].flatten()) @ one.T)
        found.append(torch.stack(by_name))
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("geometry", ["plain", "scaled"])
def test_products_are_those_of_flattened_gradients(family: str, geometry: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    model.hf.requires_grad_(True)
    parameters = trained_parameters(model.hf)
    assert check_products(model, parameters, draw) is None
    torch.manual_seed(0)
    scales = {name: torch.rand_like(p).detach() for name, p in parameters.items()} if geometry == "scaled" else None
    some = groups()
    found, logps = gradient_gram(model, some, parameters, scales=scales)
    for one, exact in zip(found, expected(model, some, scales), strict=True):
        norms = exact.sum(0).diagonal().sqrt()
        # 1e-9 of the two norms, for every parameter by itself; the transformers' norms compute in float32 inside.
        assert ((one - exact).abs() <= 1e-9 * norms[:, None] * norms).all()
        assert (one.sum(0).diagonal() > 0).all()
    assert logps.shape == (4,)


def test_where_a_matrix_has_two_places_autograd_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    layers = model.hf.model.layers
    layers[1].mlp.up_proj.weight = layers[1].mlp.gate_proj.weight
    model.hf.requires_grad_(True)
    parameters = trained_parameters(model.hf)
    problem = check_products(model, parameters, draw)
    assert problem is not None and problem.endswith("gate_proj.weight is used in more than one place")
    some = groups()
    found, _ = gradient_gram(model, some, parameters, packed=False)
    for one, exact in zip(found, expected(model, some), strict=True):
        torch.testing.assert_close(one, exact, rtol=1e-12, atol=1e-12)


def test_adapters_have_products_of_their_own() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("qwen3", dtype=torch.float64)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model.hf, config)
    parameters = trained_parameters(model.hf)
    assert parameters and all("lora" in name for name in parameters)
    assert check_products(model, parameters, draw) is None
    some = groups()
    found, _ = gradient_gram(model, some, parameters)
    for one, exact in zip(found, expected(model, some), strict=True):
        norms = exact.sum(0).diagonal().sqrt()
        assert ((one - exact).abs() <= 1e-9 * norms[:, None] * norms).all()


def test_a_loss_of_long_responses_forms_matrices_instead_of_positions() -> None:
    """More positions than the matrices have entries to spare: the other way of multiplying."""
    model = tiny_model("llama-tied", dtype=torch.float64)
    model.hf.requires_grad_(True)
    parameters = trained_parameters(model.hf)
    prompt = tokens(30)
    some = [Group((Response(prompt, tokens(80)), Response(prompt, tokens(90))))]
    found, _ = gradient_gram(model, some, parameters)
    exact = expected(model, some)[0]
    norms = exact.sum(0).diagonal().sqrt()
    assert ((found[0] - exact).abs() <= 1e-9 * norms[:, None] * norms).all()

"""Gradients of single responses by layers: against autograd's, family by family, in float64."""

from __future__ import annotations

import random

import pytest
import torch

from tiny import FAMILIES, VOCABULARY, tiny_model
from undertow.models.gradients import Response, WholeGradients, check_pieces, response_gradients, trained_parameters


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "sequences"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_give_the_gradients_that_autograd_gives(family: str, packed: bool) -> None:
    model = tiny_model(family, dtype=torch.float64, packed=packed)
    model.hf.requires_grad_(True)
    parameters = trained_parameters(model.hf)
    draw = random.Random(0)
    sizes = ((7, 9), (3, 1), (15, 20))
    responses = [Response(*(tuple(draw.randrange(3, VOCABULARY) for _ in range(n)) for n in two)) for two in sizes]
    by_layers, by_autograd = WholeGradients(parameters, 3), WholeGradients(parameters, 3)
    logps = response_gradients(model, responses, parameters, by_layers)
    expected = response_gradients(model, responses, parameters, by_autograd, packed=False)
    torch.testing.assert_close(logps, expected, rtol=1e-12, atol=1e-12)
    for one, two in zip(by_layers.found, by_autograd.found, strict=True):
        norm = sum(value.square().sum() for value in two.values()).sqrt()
        assert norm > 0
        assert sum((one[name] - two[name]).square().sum() for name in two).sqrt() < 1e-12 * norm
    assert all(parameter.requires_grad for parameter in parameters.values())
    assert check_pieces(model, parameters, lambda n: [draw.randrange(3, VOCABULARY) for _ in range(n)]) is None

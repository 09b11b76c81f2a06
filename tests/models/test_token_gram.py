"""Token by token over all parameters: against one backward pass a token, family by family, in float64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from tiny import FAMILIES, VOCABULARY, tiny_model
from undertow.data.tokens.encoder import TokenPair
from undertow.models.gradients import Response, WholeGradients, response_gradients, trained_parameters
from undertow.models.gram import Group, gradient_gram
from undertow.models.model import Model
from undertow.models.token_gram import token_gram


def a_pair(chosen: int = 6, rejected: int = 4, *, shared: int = 2) -> TokenPair:
    draw = random.Random(7)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(count))

    begin = tokens(shared)
    return TokenPair(0, "0" * 16, tokens(12), begin + tokens(chosen - shared), begin + tokens(rejected - shared), False)


def one_backward_a_token(model: Model, pair: TokenPair, scales: dict[str, Tensor] | None = None) -> Tensor:
    parameters = trained_parameters(model.hf)
    single = [
        Response(pair.prompt + tokens[:k], tokens[k : k + 1])
        for tokens in (pair.chosen, pair.rejected)
        for k in range(len(tokens))
    ]
    whole = WholeGradients(parameters, len(single))
    response_gradients(model, single, parameters, whole, packed=False)
    flat = torch.stack([torch.cat([one[name] for name in parameters]) for one in whole.found])
    weights = 1.0 if scales is None else torch.cat([scales[name].flatten() for name in parameters])
    return (flat * weights) @ flat.T


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [4096, 0], ids=["packed", "by directions"])
def test_products_of_tokens_are_those_of_one_backward_pass_each(family: str, rows: int) -> None:
    model = tiny_model(family, dtype=torch.float64)
    model.hf.requires_grad_(True)
    pair, parameters = a_pair(), trained_parameters(model.hf)
    found = token_gram(model, pair, parameters, packed_rows=rows)
    exact = one_backward_a_token(model, pair)
    norms = exact.diagonal().sqrt()
    # 1e-6 of the norms: transformers' norms and positions compute in float32 inside, and one text's rows are rounded
    # apart there by where they stand in a pack.
    bound = 1e-6
    assert ((found.values - exact).abs() <= bound * norms[:, None] * norms).all()
    assert (norms > 0).all()
    # Each block sums to the responses' own product.
    (products,), logps = gradient_gram(
        model, [Group((Response(pair.prompt, pair.chosen), Response(pair.prompt, pair.rejected)))], parameters
    )
    n = pair.chosen_tokens
    blocks = torch.stack([found.values[:n, :n].sum(), found.cross.sum(), found.values[n:, n:].sum()])
    expected = products.sum(0).flatten()[[0, 1, 3]]
    assert ((blocks - expected).abs() <= bound * norms.sum() ** 2).all()
    torch.testing.assert_close(found.logps[:n].sum(), logps[0].double(), rtol=1e-9, atol=1e-9)
    cosines = found.cosines()
    torch.testing.assert_close(cosines.diagonal(), torch.ones_like(norms), rtol=1e-6, atol=1e-6)
    assert (cosines.abs() <= 1 + 1e-6).all()


@pytest.mark.parametrize("rows", [4096, 0], ids=["packed", "by directions"])
def test_in_the_optimisers_geometry(rows: int) -> None:
    model = tiny_model("llama-tied", dtype=torch.float64)
    model.hf.requires_grad_(True)
    pair, parameters = a_pair(), trained_parameters(model.hf)
    torch.manual_seed(0)
    scales = {name: torch.rand_like(p).detach() for name, p in parameters.items()}
    found = token_gram(model, pair, parameters, scales=scales, packed_rows=rows)
    exact = one_backward_a_token(model, pair, scales)
    norms = exact.diagonal().sqrt()
    assert ((found.values - exact).abs() <= 1e-6 * norms[:, None] * norms).all()


def test_adapters_and_models_without_packed_rows() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("qwen3", dtype=torch.float64, packed=False)
    assert model.attention == "sequence"
    torch.manual_seed(0)
    get_peft_model(model.hf, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    pair, parameters = a_pair(), trained_parameters(model.hf)
    told: list[int] = []
    found = token_gram(model, pair, parameters, packed=False, advance=told.append)
    exact = one_backward_a_token(model, pair)
    norms = exact.diagonal().sqrt()
    assert ((found.values - exact).abs() <= 1e-6 * norms[:, None] * norms).all()
    assert sum(told) == pair.chosen_tokens + pair.rejected_tokens


def test_long_responses_go_by_directions_to_the_same_products() -> None:
    model = tiny_model("llama", dtype=torch.float64)
    model.hf.requires_grad_(True)
    pair, parameters = a_pair(40, 30), trained_parameters(model.hf)
    some = token_gram(model, pair, parameters).values
    other = token_gram(model, pair, parameters, packed_rows=100).values
    norms = some.diagonal().sqrt()
    assert ((some - other).abs() <= 1e-6 * norms[:, None] * norms).all()

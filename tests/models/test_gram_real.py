"""Exact products over all parameters of the real models, against autograd, in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import undertow as ut
from undertow.data.tokens.encoder import PairEncoder, TokenPair
from undertow.models.device import keep_large_blocks
from undertow.models.gradients import Response, response_gradients, trained_parameters
from undertow.models.gram import Group, check_products, gradient_gram
from undertow.models.model import Model
from undertow.models.token_gram import token_gram

PAIRS = Path(ut.__file__).parent / "demo" / "pairs.jsonl"


@pytest.fixture(autouse=True)
def _memory_is_kept() -> None:
    keep_large_blocks()  # as the commands do: whole gradients come and go here


def a_pair(model: Model) -> TokenPair:
    (one,) = ut.read_pairs(PAIRS, limit=1)
    pair = PairEncoder(model.tokenizer, ut.TokenSettings(max_length=128)).encode(one)
    assert isinstance(pair, TokenPair)
    # Short: autograd's way takes a second a token.
    return replace(pair, chosen=pair.chosen[:6], rejected=pair.rejected[:5])


class _Flat:
    """A sink of autograd's whole gradients of one response."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def dense(self, name: str, response: int, values: torch.Tensor) -> None:
        self.found[name] = values


@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_products_equal_autograds_flattened_gradients(name: str, request) -> None:
    """1e-3 of the norms, with dots in float64: in float32 those alone are 1% off."""
    model = ut.load_model(str(request.getfixturevalue(f"{name}_folder")), dtype="float32")
    model.hf.requires_grad_(True)
    parameters = trained_parameters(model.hf)
    assert check_products(model, parameters, lambda count: list(range(5, 5 + count))) is None
    pair = a_pair(model)
    both = (Response(pair.prompt, pair.chosen), Response(pair.prompt, pair.rejected))
    (found,), _ = gradient_gram(model, [Group(both)], parameters)
    flat = []
    for response in both:
        sink = _Flat()
        response_gradients(model, [response], parameters, sink, packed=False)
        flat.append(sink.found)
    exact = torch.tensor(
        [[sum(float(a[key].double() @ b[key].double()) for key in parameters) for b in flat] for a in flat],
        dtype=torch.float64,
    )
    norms = exact.diagonal().sqrt()
    assert ((found.sum(0) - exact).abs() <= 1e-3 * norms[:, None] * norms).all()


@pytest.mark.model
def test_tokens_sum_to_the_responses_either_way(smollm2_folder: Path) -> None:
    model = ut.load_model(str(smollm2_folder), dtype="float32")
    model.hf.requires_grad_(True)
    parameters = trained_parameters(model.hf)
    pair = a_pair(model)
    both = Group((Response(pair.prompt, pair.chosen), Response(pair.prompt, pair.rejected)))
    (products,), _ = gradient_gram(model, [both], parameters)
    packed = token_gram(model, pair, parameters)
    assert packed.cross.sum().item() == pytest.approx(products.sum(0)[0, 1].item(), rel=1e-3)
    directions = token_gram(model, pair, parameters, packed_rows=0)
    norms = packed.values.diagonal().sqrt()
    assert ((packed.values - directions.values).abs() <= 1e-3 * norms[:, None] * norms).all()

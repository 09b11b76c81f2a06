"""A tiny model ready to be differentiated, and the gradients of its responses by autograd: what features stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from tiny import random_pairs, tiny_model
from undertow.data.tokens.encoder import TokenPair
from undertow.forecasting.measure import Engine
from undertow.models.gradients import Response, WholeGradients, response_gradients, trained_parameters

Gradients = list[dict[str, Tensor]]


def engine_of(family: str = "llama", *, dtype: torch.dtype = torch.float32, lora: int = 0) -> Engine:
    """All weights trained, or an adapter that has left its start: both of its matrices have a gradient."""
    model = tiny_model(family, dtype=dtype)
    if lora:
        config = LoraConfig(r=lora, lora_alpha=2 * lora, target_modules="all-linear", task_type="CAUSAL_LM")
        torch.manual_seed(0)
        get_peft_model(model.hf, config)
        with torch.no_grad():
            for name, parameter in model.hf.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.1)
    else:
        model.hf.requires_grad_(True)
    return Engine(model, trained_parameters(model.hf), True, None, 100)


def responses_of(pairs: Iterable[TokenPair]) -> list[Response]:
    """Chosen, rejected, chosen, …: in the order of a forecast's rows."""
    return [Response(pair.prompt, tokens) for pair in pairs for tokens in (pair.chosen, pair.rejected)]


def some_pairs(count: int = 6, seed: int = 0) -> list[TokenPair]:
    """Short ones."""
    return random_pairs(count, seed=seed, longest=12)


def gradients(engine: Engine, responses: Sequence[Response]) -> Gradients:
    """``∇ ln π(y|x)`` of each, by autograd, in float64."""
    found = WholeGradients(engine.parameters, len(responses))
    response_gradients(engine.model, responses, engine.parameters, found, packed=False)
    return [{name: value.double() for name, value in one.items()} for one in found.found]


def entanglement(some: Gradients, others: Gradients, scales: dict[str, Tensor] | None = None) -> Tensor:
    """``⟨∇_r, P ∇_s⟩``, ``[r, s]``; ``scales`` is ``P^½``, ones where None."""

    def rows(found: Gradients, name: str) -> Tensor:
        values = torch.stack([one[name] for one in found])
        return values if scales is None else values * scales[name].double().flatten()

    return sum((rows(some, name) @ rows(others, name).T for name in some[0]), torch.zeros(()))

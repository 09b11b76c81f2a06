"""The numbers of level ``gradient``: inner products over all trained parameters, by layers, exact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import grouped
from undertow.maths.losses import PairLoss
from undertow.models.gradients import Response, drawn_tokens, trained_parameters
from undertow.models.gram import Group, check_products, gradient_gram
from undertow.models.model import Model
from undertow.scoring.columns import BY_LAYER, PRODUCT_PARTS, Row
from undertow.scoring.unembedding import changes_and_case, loss_weights

__all__ = ["BATCH_TOKENS", "FullProducts", "full_row", "layer_of"]

BATCH_TOKENS = 1536
"""Tokens of one forward and backward pass: what a backward pass keeps is some twenty times as much as a forward's."""


@dataclass(frozen=True, slots=True)
class FullProducts:
    """A model whose gradients are multiplied.

    Attributes:
        model: with the weights to differentiate at.
        parameters: those that count, by name.
        packed: by layers; else one response at a time by autograd, which :attr:`note` says the reason of.
        scales: by parameter, the optimiser's ``P``; None for plain products.
        products: bfloat16 for products in it, over the weights as they are (automatic mixed precision).
    """

    model: Model
    parameters: Mapping[str, nn.Parameter]
    packed: bool
    note: str | None = None
    scales: Mapping[str, Tensor] | None = None
    products: torch.dtype | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        parameters: Mapping[str, nn.Parameter] | None = None,
        scales: Mapping[str, Tensor] | None = None,
        products: torch.dtype | None = None,
    ) -> FullProducts:
        """For these parameters; all of the model's where none are given."""
        with torch.inference_mode(False):
            if parameters is None:
                model.hf.requires_grad_(True)
                parameters = trained_parameters(model.hf)
            problem = check_products(model, parameters, drawn_tokens(model))
        return cls(model, parameters, problem is None, problem, scales, products)

    def pairs(self, pairs: Sequence[TokenPair]) -> Iterator[tuple[Tensor, tuple[float, float]]]:
        """For each pair ``[parameters, 2, 2]``, chosen first, and both log-probabilities at these weights."""
        for some in grouped(map(_group, pairs), BATCH_TOKENS):
            with torch.inference_mode(False):
                found, logps = gradient_gram(
                    self.model,
                    some,
                    self.parameters,
                    scales=self.scales,
                    packed=self.packed,
                    products=self.products,
                )
            for products, (chosen, rejected) in zip(found, logps.view(-1, 2).tolist(), strict=True):
                yield products.cpu(), (chosen, rejected)


def _group(pair: TokenPair) -> Group:
    return Group((Response(pair.prompt, pair.chosen), Response(pair.prompt, pair.rejected)))


def full_row(
    products: Tensor,
    names: Sequence[str],
    logps: tuple[float, float],
    tokens: tuple[int, int],
    loss: PairLoss,
    reference: tuple[float, float] | None,
) -> Row:
    """The columns that level ``gradient`` adds; NaN, and case −1, where a gradient is not finite.

    Args:
        products: ``[parameters, 2, 2]``, chosen first.
        names: of the parameters.
        logps: of both responses.
        tokens: of both responses.
        loss: whose weights decide the changes.
        reference: log-probabilities of the two responses under the reference; the model's own where None.
    """
    total = products.sum(0)
    found = {
        "logp_chosen": logps[0],
        "logp_rejected": logps[1],
        "gg_chosen": total[0, 0].item(),
        "gg_cross": total[0, 1].item(),
        "gg_rejected": total[1, 1].item(),
    }
    weights = loss_weights(found, *tokens, loss, reference)
    changes = changes_and_case({f"full_{name}": found[name] for name in found}, weights, ("full_gg",), "full_")
    layers: dict[tuple[int | None, str], list[float]] = {}
    for name, (ww, wl, _, ll) in zip(names, products.flatten(1).tolist(), strict=True):
        sums = layers.setdefault(layer_of(name), [0.0, 0.0, 0.0])
        for place, value in enumerate((ww, wl, ll)):
            sums[place] += value
    by_layer = [
        {"block": block, "kind": kind, **dict(zip(PRODUCT_PARTS, sums, strict=True))}
        for (block, kind), sums in layers.items()
    ]
    return {
        **{f"full_gg_{part}": found[f"gg_{part}"] for part in PRODUCT_PARTS},
        **changes,
        BY_LAYER: by_layer,
    }


def layer_of(name: str) -> tuple[int | None, str]:
    """A parameter's block, None outside of the blocks, and kind of weight.

    >>> layer_of("model.layers.3.self_attn.q_proj.weight")
    (3, 'self_attn.q_proj')
    >>> layer_of("model.embed_tokens.weight"), layer_of("transformer.h.0.attn.c_attn.bias")
    ((None, 'embed_tokens'), (0, 'attn.c_attn.bias'))
    """
    name = name.removesuffix(".weight")
    found = re.search(r"(?:^|\.)(\d+)\.(.+)$", name)
    return (int(found[1]), found[2]) if found else (None, name.rpartition(".")[2])

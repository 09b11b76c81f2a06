"""The training forward pass: packed pairs in, two log-probabilities a pair out, with gradients, without full logits.

It takes the place of the model's own ``forward``, so that whatever wraps the model for training (data parallelism,
automatic mixed precision, adapters) wraps this: they all act on the call of the module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from undertow.data.tokens.packing import PackedBatch, Tree
from undertow.maths.logps import token_logps
from undertow.maths.residuals import shared_contexts
from undertow.maths.unembedding import products_of, sum_products
from undertow.models.families import Head, find_backbone
from undertow.models.model import Model
from undertow.scoring.unembedding import head_residuals

T = TypeVar("T")


def train_on_pairs(model: Model) -> None:
    """Give the model its training forward pass, in place, and make it deterministic: no dropout anywhere.

    Dropout would make the log-probabilities of policy and reference differ by noise; preference training switches it
    off everywhere.
    """
    turn_off_dropout(model.hf)
    model.hf.forward = functools.partial(_forward, model)


def _forward(model: Model, *, inside: Callable[[Model], T] | None = None, **inputs: Any) -> T | dict[str, Tensor]:
    # The head is read at the call: sharded weights are whole in here, and only in here.
    whole = replace(model, head=replace(model.head, weight=model.hf.get_output_embeddings().weight))
    return inside(whole) if inside is not None else pair_logps(whole, **inputs)


@torch.no_grad()
def with_whole_weights(model: Model, function: Callable[[Model], T]) -> T:
    """What a function finds in a model that is being trained, its weights whole even where they are sharded.

    Of several processes all must call it, since they gather the weights together.
    """
    forward = model.hf.forward
    if isinstance(forward, functools.partial) and forward.func is _forward:
        found: T = model.hf(inside=function)
        return found
    return function(model)


def turn_off_dropout(module: nn.Module) -> None:
    """Sets every dropout of a model to 0: modules, and rates that attention layers keep as numbers."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def pair_logps(
    model: Model,
    input_ids: Tensor,
    position_ids: Tensor,
    trees: Sequence[Tree],
    *,
    weights: Tensor | None = None,
    grad_norms: bool = False,
    **_ignored: Any,
) -> dict[str, Tensor]:
    """``{"chosen": a, "rejected": b}``, each ``[pairs]``: log-probabilities summed over tokens, in nats.

    Args:
        model: the model, its weights whole.
        input_ids: ``[1, T]``, a packed row.
        position_ids: ``[1, T]``.
        trees: where the pairs stand in the row.
        weights: what each response token counts, ``[tokens]``, in the order of the trees; 1 where None.
        grad_norms: also the norms of both log-probabilities' gradients with respect to the unembedding matrix,
            ``chosen_grad_norms`` and ``rejected_grad_norms``, which are constants of the step.
    """
    head = model.head
    if model.attention == "tree":
        hidden = find_backbone(model.hf)(
            input_ids=input_ids, position_ids=position_ids, trees=trees, use_cache=False
        ).last_hidden_state[0]
        predicting, targets, owners = _response_positions(trees, input_ids.device)
        states, tokens = hidden[predicting], input_ids[0, targets]
    else:
        states, tokens = _sequences(model, input_ids, trees)
        owners = _response_positions(trees, input_ids.device)[2]
    logps = response_token_logps(states, head, tokens)
    if weights is not None:
        logps = logps * weights.to(logps)
    sums = logps.new_zeros(2 * len(trees)).index_add(0, owners, logps)
    found = {"chosen": sums[0::2], "rejected": sums[1::2]}
    return found | _gradient_norms(states, head, tokens, trees) if grad_norms else found


def batch_logps(model: Model, batch: PackedBatch) -> dict[str, Tensor]:
    """:func:`pair_logps` of a batch, by the weights of its pairs' tokens."""
    ids, positions = batch.input_ids.to(model.device), batch.position_ids.to(model.device)
    return pair_logps(model, ids, positions, batch.trees, weights=batch.weights)


def response_token_logps(states: Tensor, head: Head, tokens: Tensor) -> Tensor:
    """``ln p_k(y_k)`` of tokens from their states, outside of any automatic mixed precision; ``[N]``."""
    # Mixed precision would round the products that the sums of log-probabilities hang on, wherever it is slow or fast.
    with torch.autocast(device_type=states.device.type, enabled=False):
        return token_logps(states, head.weight, tokens, **head.options(states))


@torch.no_grad()
def _gradient_norms(states: Tensor, head: Head, tokens: Tensor, trees: Sequence[Tree]) -> dict[str, Tensor]:
    """``√gg_chosen`` and ``√gg_rejected`` of every pair, as an audit of the model as it is now would have them."""
    found: list[tuple[Tensor, Tensor]] = []
    at = 0
    with torch.autocast(device_type=states.device.type, enabled=False):
        for tree in trees:
            chosen, rejected = (end - begin for begin, end in tree.responses)
            part = slice(at, at + chosen + rejected)
            rows = head_residuals(states[part].detach(), head, tokens[part])
            shared = shared_contexts(rows.tokens[:chosen], rows.tokens[chosen:])
            products = sum_products(products_of(rows, chosen, shared))
            found.append((products.gg_chosen.sqrt(), products.gg_rejected.sqrt()))
            at = part.stop
    chosen_norms, rejected_norms = zip(*found, strict=True)
    return {"chosen_grad_norms": torch.stack(chosen_norms), "rejected_grad_norms": torch.stack(rejected_norms)}


def _response_positions(trees: Sequence[Tree], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of every response token: the position that predicts it, its own position, and which response it is of."""
    predicting: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for index, tree in enumerate(trees):
        for side, (begin, end) in enumerate(tree.responses):
            positions = range(begin, end)  # none, where the phase before has no rejected responses
            predicting += [tree.prompt[1] - 1 if position == begin else position - 1 for position in positions]
            targets += positions
            owners += [2 * index + side] * (end - begin)
    found = (torch.tensor(values, device=device) for values in (predicting, targets, owners))
    return next(found), next(found), next(found)


def _sequences(model: Model, input_ids: Tensor, trees: Sequence[Tree]) -> tuple[Tensor, Tensor]:
    """The states that predict the responses' tokens, and these tokens, by one sequence at a time, for families that
    cannot take packed rows."""
    states: list[Tensor] = []
    tokens: list[Tensor] = []
    for tree in trees:
        prompt = input_ids[:, slice(*tree.prompt)]
        for begin, end in tree.responses:
            ids = torch.cat([prompt, input_ids[:, begin:end]], dim=1)
            hidden = find_backbone(model.hf)(input_ids=ids, use_cache=False).last_hidden_state[0]
            states.append(hidden[prompt.shape[1] - 1 : -1])
            tokens.append(input_ids[0, begin:end])
    return torch.cat(states), torch.cat(tokens)

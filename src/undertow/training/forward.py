"""The training forward pass: packed pairs in, two log-probabilities a pair out, with gradients, without full logits.

It takes the place of the model's own ``forward``, so that whatever wraps the model for training (data parallelism,
automatic mixed precision, adapters) wraps this: they all act on the call of the module.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from undertow.data.packing import Tree
from undertow.maths.logps import token_logps
from undertow.models.device import multiplies_bfloat16
from undertow.models.families import Head, find_backbone
from undertow.models.model import Model


def train_on_pairs(model: Model) -> None:
    """Give the model its training forward pass, in place, and make it deterministic: no dropout anywhere.

    Dropout would make the log-probabilities of policy and reference differ by noise; preference training switches it
    off everywhere.
    """
    turn_off_dropout(model.hf)
    model.hf.forward = functools.partial(pair_logps, model)


def turn_off_dropout(module: nn.Module) -> None:
    """Sets every dropout of a model to 0: modules, and rates that attention layers keep as numbers."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def pair_logps(
    model: Model, input_ids: Tensor, position_ids: Tensor, trees: Sequence[Tree], **_ignored: Any
) -> dict[str, Tensor]:
    """``{"chosen": a, "rejected": b}``, each ``[pairs]``: log-probabilities summed over tokens, in nats.

    Args:
        model: whose forward this is; the head is read at the call, since training wrappers may replace its tensors.
        input_ids: ``[1, T]``, a packed row.
        position_ids: ``[1, T]``.
        trees: where the pairs stand in the row.
    """
    if model.attention == "tree":
        hidden = find_backbone(model.hf)(
            input_ids=input_ids, position_ids=position_ids, trees=trees, use_cache=False
        ).last_hidden_state[0]
        predicting, targets, owners = _response_positions(trees, input_ids.device)
        logps = response_token_logps(hidden[predicting], model.head, model.hf, input_ids[0, targets])
    else:
        parts = [_sequences(model, input_ids, tree) for tree in trees]
        logps = torch.cat([part for part, _ in parts])
        counts = torch.tensor([count for _, pair in parts for count in pair], device=logps.device)
        owners = torch.repeat_interleave(torch.arange(len(counts), device=logps.device), counts)
    sums = logps.new_zeros(2 * len(trees)).index_add(0, owners, logps)
    return {"chosen": sums[0::2], "rejected": sums[1::2]}


def response_token_logps(states: Tensor, head: Head, hf: nn.Module, tokens: Tensor) -> Tensor:
    """``ln p_k(y_k)`` of tokens from their states, outside of any automatic mixed precision; ``[N]``."""
    weight, bias = hf.get_output_embeddings().weight, head.bias  # type: ignore[operator]
    fast = states.dtype == torch.bfloat16 and multiplies_bfloat16(states.device)
    # Mixed precision would round the products that the sums of log-probabilities hang on, wherever it is slow or fast.
    with torch.autocast(device_type=states.device.type, enabled=False):
        return token_logps(
            states,
            weight,
            tokens,
            bias=None if bias is None else bias.detach(),
            scale=head.scale,
            softcap=head.softcap,
            products=torch.bfloat16 if fast else None,
        )


def _response_positions(trees: Sequence[Tree], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of every response token: the position that predicts it, its own position, and which response it is of."""
    predicting: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for index, tree in enumerate(trees):
        for side, (begin, end) in enumerate(tree.responses):
            predicting += [tree.prompt[1] - 1, *range(begin, end - 1)]
            targets += range(begin, end)
            owners += [2 * index + side] * (end - begin)
    found = (torch.tensor(values, device=device) for values in (predicting, targets, owners))
    return next(found), next(found), next(found)


def _sequences(model: Model, input_ids: Tensor, tree: Tree) -> tuple[Tensor, list[int]]:
    """One pair, one sequence at a time, for families that cannot take packed rows."""
    prompt = input_ids[:, slice(*tree.prompt)]
    found: list[Tensor] = []
    for begin, end in tree.responses:
        ids = torch.cat([prompt, input_ids[:, begin:end]], dim=1)
        hidden = find_backbone(model.hf)(input_ids=ids, use_cache=False).last_hidden_state[0]
        states = hidden[prompt.shape[1] - 1 : -1]
        found.append(response_token_logps(states, model.head, model.hf, input_ids[0, begin:end]))
    return torch.cat(found), [len(part) for part in found]

"""Tree-shaped attention over packed rows, for every model that takes its attention from transformers' interface.

All tokens of several pairs lie in one row ``[1, T]``; ``trees`` says where each pair's prompt and responses are. A
prompt attends to itself causally; a response to its prompt and, causally, to itself. Pairs never see each other, so
nothing is padded and the prompt is computed once for both responses.

Why not a dense mask with scaled_dot_product_attention: on a CPU it computes the masked half as well and gains nothing
from bfloat16. Here the query rows go in blocks, keys after a block's end are never touched, and grouped key and value
heads are not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from undertow.data.tokens.packing import Tree

TREE_ATTENTION = "undertow_tree"
BLOCK = 128  # query rows a block: large enough for fast products, small enough to skip most of the causal half


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    offset: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Causal attention of queries that stand ``offset`` tokens behind the first key, in blocks of query rows.

    Args:
        q: ``[Hk, G, n, D]``, query heads grouped by the key head they share; query row i stands at position offset + i.
        k: ``[Hk, L, D]`` with ``L = offset + n``; key j stands at position j.
        v: ``[Hk, L, Dv]``.
        offset: how many keys come before the first query.
        scale: what the products are multiplied by.
        window: a key is seen only from fewer than this many positions behind it; None for no limit.
        softcap: ``C·tanh(s/C)`` is applied to the scaled products (Gemma 2); None for none.

    Returns:
        ``[Hk, G, n, Dv]``. Softmax in float32 or better, products in the inputs' type.
    """
    heads, group, n, dim = q.shape
    blocks = []
    q = q * scale
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        last = offset + end
        first = 0 if window is None else max(0, offset + begin - window + 1)
        scores = torch.bmm(q[:, :, begin:end].reshape(heads, -1, dim), k[:, first:last].transpose(1, 2))
        if scores.dtype in (torch.bfloat16, torch.float16):
            scores = scores.float()
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.view(heads, group, end - begin, last - first)
        scores = _hide(scores, offset + begin, first, window)
        weights = scores.softmax(-1).to(v.dtype).view(heads, -1, last - first)
        blocks.append(torch.bmm(weights, v[:, first:last]).view(heads, group, end - begin, -1))
    return torch.cat(blocks, dim=2)


def _hide(scores: Tensor, row0: int, col0: int, window: int | None) -> Tensor:
    """Mask the future, and what lies behind the window, in place; row 0 stands at ``row0`` and column 0 at ``col0``."""
    size = scores.shape[-2]
    future = torch.ones(size, size, dtype=torch.bool, device=scores.device).triu(1)
    scores[..., -size:].masked_fill_(future, float("-inf"))  # only the last square holds future keys
    if window is not None and row0 + size - col0 > window:
        rows = torch.arange(row0, row0 + size, device=scores.device)[:, None]
        columns = torch.arange(col0, col0 + scores.shape[-1], device=scores.device)[None]
        scores.masked_fill_(columns <= rows - window, float("-inf"))
    return scores


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    trees: Sequence[Tree] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls: query ``[1, H, T, D]``, key and value ``[1, Hk, T, D]`` → ``[1, T, H, D]``."""
    if trees is None:
        raise ValueError("tree attention was called without trees: this architecture does not pass them on")
    if dropout:
        raise ValueError("tree attention knows no dropout: put the model in evaluation mode")
    _, heads, tokens, dim = query.shape
    key_heads = key.shape[1]
    q, k, v = query[0].view(key_heads, heads // key_heads, tokens, dim), key[0], value[0]
    how: dict[str, Any] = {
        "scale": dim**-0.5 if scaling is None else scaling,
        "window": sliding_window,
        "softcap": softcap,
    }
    parts = []
    for tree in trees:
        p0, p1 = tree.prompt
        parts.append(causal_attention(q[:, :, p0:p1], k[:, p0:p1], v[:, p0:p1], offset=0, **how))
        for r0, r1 in (response for response in tree.responses if response[1] > response[0]):
            keys = torch.cat([k[:, p0:p1], k[:, r0:r1]], 1)
            values = torch.cat([v[:, p0:p1], v[:, r0:r1]], 1)
            parts.append(causal_attention(q[:, :, r0:r1], keys, values, offset=p1 - p0, **how))
    out = torch.cat(parts, dim=2)  # the trees cover the row, in order
    return out.reshape(heads, tokens, -1).transpose(0, 1)[None], None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Tree attention needs no mask: what may be seen follows from the trees."""


AttentionInterface.register(TREE_ATTENTION, tree_attention)
AttentionMaskInterface.register(TREE_ATTENTION, _no_mask)

"""The slow reference loops: they are the specification of the fast paths.

One sequence at a time, full logits, all hidden states kept, formulas written out as in the papers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def edit_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Levenshtein's textbook double loop, over the longer length."""
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1] / max(len(a), len(b))


@torch.no_grad()
def hidden_states(model, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """All last-layer states of ``prompt ++ response`` in the model's type, ``[q + n, d]``."""
    ids = torch.tensor([[*prompt, *response]], device=model.device)
    return model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-1][0]


def hidden_scores(model, prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> dict[str, float]:
    """CHES, ln CHES and the last-hidden product by Definitions 2 and 3, sums over indices q−1 … q+n−2."""
    q = len(prompt)
    sums, lasts = [], []
    for response in (chosen, rejected):
        states = hidden_states(model, prompt, response).double()
        total = sum(states[index] for index in range(q - 1, q + len(response) - 1))
        sums.append(total)
        lasts.append(states[q + len(response) - 1])
    (S_w, S_l), (n_w, n_l) = sums, (len(chosen), len(rejected))
    return {
        "ches": float(S_w @ S_l - S_w @ S_w),
        "ln_ches": float(S_w @ S_l) / (n_w * n_l) - float(S_w @ S_w) / n_w**2,
        "last_hidden_ip": float(lasts[0] @ lasts[1]),
    }

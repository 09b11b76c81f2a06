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


def plain_logps(hf, pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a pair's two responses, by transformers' own forward pass, all logits of one sequence at a time."""
    found = []
    for response in (pair.chosen, pair.rejected):
        logits = hf(input_ids=torch.tensor([[*pair.prompt, *response]]), use_cache=False).logits[0]
        rows = logits[len(pair.prompt) - 1 : -1].log_softmax(-1)
        found.append(rows[range(len(response)), list(response)].sum())
    return found[0], found[1]


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


def response_gradients(
    model, prompt: Sequence[int], response: Sequence[int]
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """``ln π(response)`` and its gradients in the unembedding matrix (output role only) and in the states that predict
    the response, ``[n, d]``: by autograd through the model's own head, soft cap and scale included."""
    head = model.get_output_embeddings()
    tied = head.weight
    head.weight = torch.nn.Parameter(tied.detach().clone())  # without this the input embedding would be in it
    states: list[torch.Tensor] = []

    def cut(_module, arguments):
        states.append(arguments[0].detach().clone().requires_grad_())
        return (states[-1], *arguments[1:])

    hook = head.register_forward_pre_hook(cut)
    try:
        with torch.enable_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *response]], device=model.device), use_cache=False).logits
            rows = logits[0, len(prompt) - 1 : -1]
            rows = rows if rows.dtype == torch.float64 else rows.float()
            logp = rows.log_softmax(-1)[range(len(response)), list(response)].sum()
            in_weight, in_states = torch.autograd.grad(logp, (head.weight, states[-1]))
    finally:
        hook.remove()
        head.weight = tied
    return logp.item(), in_weight, in_states[0, len(prompt) - 1 : -1]


def unembedding_scores(
    model, prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]
) -> dict[str, float]:
    """Inner products of gradients, flattened and multiplied; free features share a vector where contexts are equal."""
    (logp_w, W_w, U_w), (logp_l, W_l, U_l) = (response_gradients(model, prompt, y) for y in (chosen, rejected))
    same = 1
    while same < min(len(chosen), len(rejected)) and chosen[:same] == rejected[:same]:
        same += 1
    return {
        "logp_chosen": logp_w,
        "logp_rejected": logp_l,
        "gg_chosen": _inner(W_w, W_w),
        "gg_cross": _inner(W_w, W_l),
        "gg_rejected": _inner(W_l, W_l),
        "hh_chosen": _inner(U_w, U_w),
        "hh_cross": _inner(U_w[:same], U_l[:same]),
        "hh_rejected": _inner(U_l, U_l),
    }


def _inner(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))

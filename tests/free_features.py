"""The free-features model as its definition reads: the specification that the rates are compared with.

Parameters are ``W`` and one vector for every distinct context (prompt and leading response tokens). Rates of a gradient
flow come from automatic differentiation: ``d/dt ln π(z) = −⟨∇L, ∇ln π(z)⟩``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from undertow.maths.flow import Response

Ids = tuple[int, ...]


class FreeFeatures:
    def __init__(self, seed: int, *, V: int = 7, d: int = 3) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.V, self.d = V, d
        self.W = torch.randn(V, d, generator=self.generator, dtype=torch.float64).requires_grad_()
        self.contexts: dict[Ids, Tensor] = {}

    def state(self, context: Ids) -> Tensor:
        if context not in self.contexts:
            h = torch.randn(self.d, generator=self.generator, dtype=torch.float64)
            self.contexts[context] = h.requires_grad_()
        return self.contexts[context]

    def put(self, context: Ids, h: Sequence[float]) -> None:
        self.contexts[context] = torch.tensor(h, dtype=torch.float64, requires_grad=True)

    def logp(self, prompt: Ids, response: Ids) -> Tensor:
        tokens = enumerate(response)
        return sum((self.W @ self.state(prompt + response[:k])).log_softmax(-1)[y] for k, y in tokens)

    def response(self, prompt: Ids, response: Ids, *, with_prompt: bool = False) -> Response:
        states = torch.stack([self.state(prompt + response[:k]).detach() for k in range(len(response))])
        return Response(torch.tensor(response), states, torch.tensor(prompt) if with_prompt else None)

    def gradient(self, value: Tensor) -> Tensor:
        parameters = [self.W, *self.contexts.values()]
        grads = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in grads])

    def rate(self, loss: Tensor, value: Tensor) -> float:
        return -(self.gradient(loss) @ self.gradient(value)).item()

    def ids(self, low: int, high: int) -> Ids:
        n = int(torch.randint(low, high + 1, (), generator=self.generator))
        return tuple(torch.randint(0, self.V, (n,), generator=self.generator).tolist())

    def pair(self, *, longest: int = 4) -> tuple[Ids, Ids]:
        """Two different responses, sharing a random number of leading tokens; one may be a prefix of the other."""
        while True:
            chosen, rejected = self.ids(1, longest), self.ids(1, longest)
            same = int(torch.randint(0, min(len(chosen), len(rejected)) + 1, (), generator=self.generator))
            rejected = chosen[:same] + rejected[same:]
            if chosen != rejected:
                return chosen, rejected


def logistic(beta: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """``ℓ(M) = softplus(−βM)`` and ``−ℓ'(M)``."""
    return lambda M: torch.nn.functional.softplus(-beta * M), lambda M: beta * torch.sigmoid(-beta * M)

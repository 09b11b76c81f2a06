"""How log-probabilities change along a direction in the weights: forward mode, exact, one pass, no step size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import PackedBatch
from undertow.maths.precision import full_precision, in_float64
from undertow.maths.residuals import Residuals, residuals
from undertow.maths.unembedding import pull
from undertow.models.forward import pair_states
from undertow.models.model import Model

__all__ = ["Reading", "TokenTangents", "response_tokens"]


class TokenTangents:
    """The tokens of a batch's responses, and how their log-probabilities change along directions in the weights.

    Tokens come pair by pair, each pair's chosen ones first.
    """

    def __init__(self, model: Model, parameters: Mapping[str, nn.Parameter], batch: PackedBatch) -> None:
        self.reading = Reading(model)
        self._model, self._parameters, self._batch = model, parameters, batch
        self._head = model.hf.get_output_embeddings().weight
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._inside = {here: names.get(id(parameter)) for here, parameter in self.reading.named_parameters()}
        self.head_name = names.get(id(self._head))
        self._rows: Residuals | None = None
        self._pushes: Tensor | None = None

    @torch.no_grad()
    def read(self, states: Tensor | None = None) -> tuple[Residuals, Tensor]:
        """The tokens' residual rows and their pushes at these weights.

        Args:
            states: what the model makes of the batch, where that is known.
        """
        if self._rows is None or self._pushes is None:
            found = self.reading(self._batch) if states is None else states.detach()
            ids = response_tokens(self._batch.pairs).to(found.device)
            self._rows = residuals(found, self._head, ids, **self._model.head.options(found))
            with full_precision():
                self._pushes = self._rows.pushes()
        return self._rows, self._pushes

    @property
    def logps(self) -> Tensor:
        """``[N]``, float64, in nats."""
        return in_float64(self.read()[0].logps)

    @torch.no_grad()
    def along(self, direction: Mapping[str, Tensor]) -> Tensor:
        """``d/dε ln p(y_k)`` at ``θ + ε · direction``, ``ε = 0``: ``[N]``, float64.

        Args:
            direction: by parameter, in its shape; parameters that are not in it stay.
        """
        # Of the attentions for plain sequences only this one knows tangents.
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            duals = {
                here: forward_ad.make_dual(self._parameters[name].detach(), direction[name])  # type: ignore[no-untyped-call]
                for here, name in self._inside.items()
                if name is not None and name in direction
            }
            states, moved = forward_ad.unpack_dual(functional_call(self.reading, duals, (self._batch,)))  # type: ignore[no-untyped-call]
        rows, pushes = self.read(states)
        change = in_float64(rows.logps.new_zeros(len(states)))
        if moved is not None:
            change = change + (in_float64(pushes) * in_float64(moved)).sum(1)
        if self.head_name is not None and self.head_name in direction:
            change = change + pull(direction[self.head_name], rows)
        return change


class Reading(nn.Module):
    """The states that predict the tokens of a batch's responses, as a module whose weights can be others for a call."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.backbone = model.backbone
        self._model = model

    def forward(self, batch: PackedBatch) -> Tensor:
        """``[N, d]``: pair by pair, chosen first."""
        found = [side[:-1] for states in pair_states(self._model, batch) for side in (states.chosen, states.rejected)]
        return torch.cat(found)


def response_tokens(pairs: Iterable[TokenPair]) -> Tensor:
    """The ids of all responses' tokens, in that order."""
    return torch.tensor([token for pair in pairs for token in (*pair.chosen, *pair.rejected)])

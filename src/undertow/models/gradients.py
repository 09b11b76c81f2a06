"""Gradients of single responses, many at once: layer by layer from activations and output gradients.

The gradient of ``ln π(y|x)`` in the weight of a linear layer is ``Gᵀ X`` over the response's own rows of a pack, ``X``
what entered the layer and ``G`` the gradient of what left it. So one forward and one backward pass over a pack give the
gradients of all its responses, a layer at a time, while none is ever held whole: each piece is handed on and forgotten.

Every response has a tree of its own (its prompt again before it), so that no row belongs to two responses. Where a
family cannot take packed rows, each response is a pack of its own. Where its pieces do not add up to what autograd
finds (:func:`check_pieces`, once per model), autograd's gradient is the piece.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import PackedBatch, pack
from undertow.maths.logps import token_logps
from undertow.maths.precision import full_precision, product
from undertow.maths.residuals import residuals
from undertow.models.families import find_backbone
from undertow.models.model import Model

__all__ = [
    "Response",
    "Sink",
    "WholeGradients",
    "as_pairs",
    "check_pieces",
    "drawn_tokens",
    "response_gradients",
    "trained_parameters",
]

TOLERANCE = 1e-3  # of the pieces' sum against autograd's gradient, relative to its norm; float32 leaves some 1e-5


@dataclass(frozen=True, slots=True)
class Response:
    """One response to a prompt, as token ids; ``weights``: what each of its tokens counts, 1 where there are none."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    weights: tuple[float, ...] = ()

    @property
    def total(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.tokens)


class Sink(Protocol):
    """Takes the pieces of gradients as they come; those of one parameter and response add up."""

    def outer(self, name: str, response: int, first_row: int, left: Tensor, right: Tensor) -> None:
        """Neighbouring rows of a matrix's gradient, from ``first_row`` on, as ``leftᵀ right``: ``[n, rows]``, ``[n,
        width]``, n tokens. What is not needed as a matrix need not be formed."""

    def dense(self, name: str, response: int, values: Tensor) -> None:
        """A parameter's whole gradient in row-major order: ``[entries]``."""

    def rows(self, name: str, response: int, rows: Tensor, values: Tensor) -> None:
        """Rows of a parameter's gradient: their numbers ``[k]``, which may repeat, and ``[k, width]``."""


def as_pairs(responses: Iterable[Response]) -> Iterator[TokenPair]:
    """Responses in the shape of pairs that have no rejected one: each gets a tree of its own in a pack."""
    for number, response in enumerate(responses):
        yield TokenPair(number, "", response.prompt, response.tokens, (), False, weights=response.weights)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that require gradients, each once, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def response_gradients(
    model: Model,
    responses: Sequence[Response],
    parameters: Mapping[str, nn.Parameter],
    sink: Sink,
    *,
    packed: bool = True,
    products: torch.dtype | None = None,
) -> Tensor:
    """Hands every response's gradient of ``ln π(y|x)`` in the parameters to the sink; the log-probabilities come back,
    both by the weights of their tokens.

    Args:
        model: with the weights to differentiate at.
        responses: those of one pack; the sink gets their positions here.
        parameters: by name, as :func:`trained_parameters` finds them.
        sink: what takes the pieces.
        packed: by layers; else one response at a time by autograd.
        products: bfloat16 for products in it, over the weights as they are (automatic mixed precision).

    Returns:
        ``[responses]``, in nats, summed over tokens, float32 or better.
    """
    if not packed:
        return _one_by_one(model, responses, parameters, sink, products)
    packs = [responses] if model.attention == "tree" else [[one] for one in responses]
    logps: list[Tensor] = []
    for some in packs:
        logps.append(_by_layers(model, some, parameters, sink, products, first=sum(map(len, logps))))
    return torch.cat(logps)


def _by_layers(
    model: Model,
    responses: Sequence[Response],
    parameters: Mapping[str, nn.Parameter],
    sink: Sink,
    products: torch.dtype | None,
    *,
    first: int,
) -> Tensor:
    """Those of one pack; to the sink the first of them is number ``first``."""
    (batch,) = pack(as_pairs(responses), sum(response.total for response in responses))
    segments = [slice(tree.prompt[0], tree.responses[0][1]) for tree in batch.trees]
    pieces = _Pieces(parameters, segments, sink, products, first)
    with pieces.listening(model.hf), torch.enable_grad(), _mixed(model, products):
        hidden = _hidden(model, batch)
        with torch.no_grad():
            logps, into_hidden = _head(model, hidden[0], batch, pieces)
        torch.autograd.backward(hidden, into_hidden.unsqueeze(0).to(hidden.dtype))
    return logps


def _hidden(model: Model, batch: PackedBatch) -> Tensor:
    """``[1, T, d]``; of a family that takes no packed rows the batch has one response."""
    packed: dict[str, Any] = {}
    if model.attention == "tree":
        packed = {"trees": batch.trees, "position_ids": batch.position_ids.to(model.device)}
    found: Tensor = find_backbone(model.hf)(
        input_ids=batch.input_ids.to(model.device), use_cache=False, **packed
    ).last_hidden_state
    return found


def _mixed(model: Model, products: torch.dtype | None) -> Any:
    return torch.autocast(model.device.type, products) if products is not None else contextlib.nullcontext()


def _head(model: Model, hidden: Tensor, batch: PackedBatch, pieces: _Pieces) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and their gradient in the hidden embeddings ``[T, d]``; also the unembedding's pieces."""
    weight = model.hf.get_output_embeddings().weight
    name = pieces.name_of(weight)
    predicting: list[int] = []
    targets: list[int] = []
    bounds = [0]
    for tree in batch.trees:
        begin, end = tree.responses[0]
        predicting += [tree.prompt[1] - 1, *range(begin, end - 1)]
        targets += range(begin, end)
        bounds.append(len(targets))
    states = hidden[predicting]
    with torch.autocast(hidden.device.type, enabled=False), full_precision():
        tokens = batch.input_ids[0, targets].to(hidden.device)
        rows = residuals(states, weight, tokens, **model.head.options(states))
        products = rows.products
        pushes, weights = torch.zeros_like(rows.states), batch.weights
        counted = rows.logps if weights is None else rows.logps * weights.to(rows.logps)
        for columns, R, W in rows.chunks():
            if weights is not None:
                R = R * weights.to(R).unsqueeze(1)
            pushes += product(R, W, rows.products)
            if name is not None:
                left, right = (R.to(products), rows.states.to(products)) if products else (R, rows.states)
                for number, (begin, end) in enumerate(pairwise(bounds), pieces.first):
                    pieces.sink.outer(name, number, columns.start, left[begin:end], right[begin:end])
    into_hidden = torch.zeros(hidden.shape, dtype=pushes.dtype, device=hidden.device)
    into_hidden.index_add_(0, torch.tensor(predicting, device=hidden.device), pushes)
    sums = [counted[begin:end].sum() for begin, end in pairwise(bounds)]
    return torch.stack(sums), into_hidden


class _Pieces:
    """Listens to a model's modules, and makes pieces of what enters them and what comes back."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        segments: Sequence[slice],
        sink: Sink,
        products: torch.dtype | None,
        first: int,
    ) -> None:
        self.first = first
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._segments, self.sink, self._products = segments, sink, products
        self._total = segments[-1].stop
        self._again = False

    def name_of(self, parameter: Tensor | None) -> str | None:
        """The parameter's name where it is one that counts."""
        return self._names.get(id(parameter)) if parameter is not None else None

    @contextlib.contextmanager
    def listening(self, model: nn.Module) -> Iterator[None]:
        """With no parameter asking for a gradient: what is differentiated are the embeddings that enter."""
        asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
        head = getattr(model, "get_output_embeddings", lambda: None)()
        hooks = []
        try:
            for parameter in asking:
                parameter.requires_grad_(False)
            for module in model.modules():
                own = {name for name, value in module.named_parameters(recurse=False) if self.name_of(value)}
                if module is not head and (own or isinstance(module, nn.Embedding)):
                    hooks.append(module.register_forward_hook(self._hear, with_kwargs=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in asking:
                parameter.requires_grad_(True)

    def _hear(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        if self._again:  # our own doing, see _any
            return None
        if isinstance(module, nn.Embedding):
            output = output.detach().requires_grad_(True)
        first = output[0] if isinstance(output, tuple) else output
        if not first.requires_grad:
            return None
        name = self.name_of(getattr(module, "weight", None))
        if isinstance(module, nn.Embedding):
            if name is not None:
                ids = arguments[0].reshape(-1)
                factor = torch.as_tensor(getattr(module, "embed_scale", 1.0)).to(first)  # Gemma scales in the module
                first.register_hook(lambda grad: self._embedding(name, ids, grad * factor, module.padding_idx))
        elif isinstance(module, nn.Linear | Conv1D):
            entered = arguments[0].detach()
            first.register_hook(lambda grad: self._linear(module, entered, grad))
        else:
            given = tuple(value.detach() if isinstance(value, Tensor) else value for value in arguments)
            kept = {key: value.detach() if isinstance(value, Tensor) else value for key, value in named.items()}
            first.register_hook(lambda grad: self._any(module, given, kept, grad))
        return output

    def _embedding(self, name: str, ids: Tensor, grad: Tensor, padding: int | None) -> None:
        flat = grad.reshape(-1, grad.shape[-1])
        if padding is not None:  # its row gets no gradient
            flat = flat * (ids != padding).unsqueeze(1)
        for number, segment in enumerate(self._segments, self.first):
            self.sink.rows(name, number, ids[segment], flat[segment])

    def _linear(self, module: nn.Linear | Conv1D, entered: Tensor, grad: Tensor) -> None:
        weight, bias = self.name_of(module.weight), self.name_of(module.bias)
        X, G = entered.reshape(-1, entered.shape[-1]), grad.reshape(-1, grad.shape[-1])
        kind = self._products
        X = X.to(kind or G.dtype)
        G_factor = G.to(kind) if kind is not None else G
        for number, segment in enumerate(self._segments, self.first):
            if weight is not None:
                one, two = (G_factor, X) if isinstance(module, nn.Linear) else (X, G_factor)
                self.sink.outer(weight, number, 0, one[segment], two[segment])
            if bias is not None:
                self.sink.dense(bias, number, G[segment].sum(0, dtype=torch.promote_types(G.dtype, torch.float32)))

    def _any(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], grad: Tensor) -> None:
        """A module that treats tokens one by one (norms): run again on each response's rows."""
        own = {key: value for key, value in module.named_parameters(recurse=False) if self.name_of(value)}
        self._again = True
        for number, segment in enumerate(self._segments, self.first):
            fresh = {key: value.detach().requires_grad_(True) for key, value in own.items()}
            with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
                arguments = tuple(self._part(value, segment) for value in given)
                output = functional_call(
                    module, fresh, arguments, {key: self._part(value, segment) for key, value in named.items()}
                )
                first = output[0] if isinstance(output, tuple) else output
                found = torch.autograd.grad(first, list(fresh.values()), self._part(grad, segment), allow_unused=True)
            for key, value in zip(fresh, found, strict=True):
                if value is not None:
                    self.sink.dense(self._names[id(own[key])], number, value.flatten())
        self._again = False

    def _part(self, value: Any, segment: slice) -> Any:
        """A response's rows, along whichever axis the tokens are."""
        if not isinstance(value, Tensor):
            return value
        for axis in (1, 0, 2):
            if value.ndim > axis and value.shape[axis] == self._total:
                return value[(slice(None),) * axis + (segment,)]
        return value


def _one_by_one(
    model: Model,
    responses: Sequence[Response],
    parameters: Mapping[str, nn.Parameter],
    sink: Sink,
    products: torch.dtype | None,
) -> Tensor:
    logps = []
    for number, response in enumerate(responses):
        with torch.enable_grad():
            logp = _logp(model, response, products)
            found = torch.autograd.grad(logp, list(parameters.values()), allow_unused=True)
        for name, value in zip(parameters, found, strict=True):
            if value is not None:
                sink.dense(name, number, value.flatten())
        logps.append(logp.detach())
    return torch.stack(logps)


def _logp(model: Model, response: Response, products: torch.dtype | None) -> Tensor:
    """``ln π(y|x)`` with its graph, by a sequence of its own."""
    total = response.total
    (batch,) = pack(as_pairs([response]), total)
    ids = batch.input_ids.to(model.device)
    with _mixed(model, products):
        hidden = _hidden(model, batch)[0]
    states = hidden[len(response.prompt) - 1 : total - 1]
    with torch.autocast(model.device.type, enabled=False):
        weight = model.hf.get_output_embeddings().weight
        logps = token_logps(states, weight, ids[0, len(response.prompt) :], **model.head.options(states))
        return logps.sum() if batch.weights is None else (logps * batch.weights.to(logps)).sum()


class WholeGradients:
    """A sink that puts the pieces together again: ``found[response][name]``, flat."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], responses: int) -> None:
        self.found = [
            {name: torch.zeros_like(value).flatten() for name, value in parameters.items()} for _ in range(responses)
        ]

    def outer(self, name: str, response: int, first_row: int, left: Tensor, right: Tensor) -> None:
        """Formed and put into its place."""
        whole = self.found[response][name].view(-1, right.shape[1])
        whole[first_row : first_row + left.shape[1]] += (left.T @ right).to(whole)

    def dense(self, name: str, response: int, values: Tensor) -> None:
        """Added as it is."""
        self.found[response][name] += values.to(self.found[response][name])

    def rows(self, name: str, response: int, rows: Tensor, values: Tensor) -> None:
        """Each added to its own row."""
        whole = self.found[response][name].view(-1, values.shape[1])
        whole.index_add_(0, rows, values.to(whole))


def drawn_tokens(model: Model) -> Callable[[int], list[int]]:
    """What such checks are tried on: tokens of the model, the same each time."""
    draw = np.random.default_rng(0)
    return lambda count: draw.integers(0, model.vocabulary, count).tolist()


class _Apart:
    """A sink for one response of those that come: what one way of having its gradient finds, less what another finds.

    So that no more than one gradient is held beside the one that autograd makes.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], response: int) -> None:
        self._response, self._whole = response, WholeGradients(parameters, 1)
        self.norm, self.taking_away = 0.0, False

    @property
    def difference(self) -> float:
        """The norm of what is left."""
        return _norm(self._whole.found[0].values())

    def outer(self, name: str, response: int, first_row: int, left: Tensor, right: Tensor) -> None:
        if response == self._response:
            self._whole.outer(name, 0, first_row, -left if self.taking_away else left, right)

    def dense(self, name: str, response: int, values: Tensor) -> None:
        if response == self._response:
            self._whole.dense(name, 0, -values if self.taking_away else values)

    def rows(self, name: str, response: int, rows: Tensor, values: Tensor) -> None:
        if response == self._response:
            self._whole.rows(name, 0, rows, -values if self.taking_away else values)

    def measure(self) -> None:
        """Take the norm of what has come so far; what comes from here on is taken away."""
        self.norm, self.taking_away = self.difference, True


def _norm(values: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))


def check_pieces(
    model: Model, parameters: Mapping[str, nn.Parameter], draw: Callable[[int], Sequence[int]]
) -> str | None:
    """Why this model's gradients cannot be had by layers, or None: tried on two short responses of drawn tokens."""
    responses = [Response(tuple(draw(4)), tuple(draw(5))), Response(tuple(draw(3)), tuple(draw(2)))]
    try:
        for number in range(len(responses)):
            found = _Apart(parameters, number)
            response_gradients(model, responses, parameters, found, packed=False)
            found.measure()
            response_gradients(model, responses, parameters, found)
            if not found.difference <= TOLERANCE * found.norm:
                share = found.difference / max(found.norm, 1e-30)
                return f"its layers' gradients differ from autograd's by {share:.2g} of the norm"
    except Exception as error:  # any architecture may fail in its own way; autograd's way is always there
        return f"{type(error).__name__}: {error}"
    return None

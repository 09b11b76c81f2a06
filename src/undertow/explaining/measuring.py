"""One pair and a model: its tokens, its layers, its cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.data.tokens.pieces import pieces, text_of
from undertow.explaining.explanation import Gaining, HeatMap, LossCase, Parting
from undertow.explaining.settings import HEAT_TOKENS, HeatLevel
from undertow.forecasting.look import step_along
from undertow.forecasting.measure import Engine
from undertow.maths.entanglement import case_distance, cases_by_loss
from undertow.maths.flow import most_gaining_tokens
from undertow.maths.losses import PairLoss
from undertow.maths.precision import in_float64
from undertow.maths.unembedding import products_of
from undertow.models.model import Model
from undertow.models.tangents import TokenTangents
from undertow.models.token_gram import TokenGram, token_gram
from undertow.runs.progress import Silent, Watcher
from undertow.scoring.unembedding import loss_weights, pair_of_one

__all__ = ["OwnStep", "heat_map", "loss_cases", "own_step", "parting_of", "responses_directions", "weights_of"]

_GAINING = 8
"""Tokens that gain where the responses part, by each of two orders."""


@dataclass(frozen=True, slots=True, eq=False)
class OwnStep:
    """What gradients of the pair's own two responses do to its tokens.

    Attributes:
        by_chosen: ``[N]``, float64: change of each token along the chosen response's (scaled) gradient.
        by_rejected: the same along the rejected one's.
        logps: ``[N]``, at the start.
        chosen_tokens: n⁺.
    """

    by_chosen: Tensor
    by_rejected: Tensor
    logps: Tensor
    chosen_tokens: int

    def moved(self, w_chosen: float, w_rejected: float) -> Tensor:
        """By a move of so much along each, ``[N]``."""
        # 0 times a gradient that is not finite is 0 here: a weight of 0 is a step that is not taken.
        parts = ((w_chosen, self.by_chosen), (w_rejected, self.by_rejected))
        return sum((w * part for w, part in parts if w != 0), torch.zeros_like(self.by_chosen))

    @property
    def products(self) -> dict[str, float]:
        """Inner products and log-probabilities of the two responses, as an audit names them."""
        n = self.chosen_tokens
        return {
            "logp_chosen": float(self.logps[:n].sum()),
            "logp_rejected": float(self.logps[n:].sum()),
            "gg_chosen": float(self.by_chosen[:n].sum()),
            "gg_cross": float(self.by_chosen[n:].sum()),
            "gg_rejected": float(self.by_rejected[n:].sum()),
        }


def responses_directions(
    engine: Engine, pair: TokenPair, scales: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``P ∇ ln π`` of the chosen and of the rejected response, by parameter; ``P = 1`` where there are no scales."""
    engine = replace(engine, products=None)  # a step of one pair is read to all its digits
    one, other = (
        step_along(engine, [pair], torch.tensor([w], dtype=torch.float64), scales, Silent())
        for w in ([1.0, 0.0], [0.0, 1.0])
    )
    return one, other


def own_step(engine: Engine, pair: TokenPair, directions: Sequence[Mapping[str, Tensor]]) -> OwnStep:
    """The pair's two gradients, read by its own tokens.

    Args:
        engine: the model.
        pair: its tokens.
        directions: see :func:`responses_directions`.
    """
    (batch,) = pack([pair], pair.total)
    tangents = TokenTangents(engine.model, engine.parameters, batch)
    along = [tangents.along(direction).cpu() for direction in directions]
    return OwnStep(along[0], along[1], tangents.logps.cpu(), pair.chosen_tokens)


def loss_cases(
    numbers: Mapping[str, float], pair: TokenPair, reference: tuple[float, float] | None
) -> tuple[list[LossCase], dict[str, str]]:
    """The pair under every loss, and the losses that cannot be asked.

    Args:
        numbers: log-probabilities and inner products, ``gg_chosen`` and so on.
        pair: its tokens.
        reference: log-probabilities under the reference; the model's own where None.
    """
    one = pair_of_one(numbers, pair.chosen_tokens, pair.rejected_tokens, reference)
    gg = [torch.tensor([numbers[f"gg_{part}"]], dtype=torch.float64) for part in ("chosen", "cross", "rejected")]
    found = cases_by_loss(one, gg[0], gg[1], gg[2])
    listed = []
    for name, case in found.cases.items():
        d_w, d_l = found.weights[name]
        far = case_distance(gg[0], gg[1], gg[2], d_w, d_l)
        listed.append(
            LossCase(name, d_w.item(), d_l.item(), int(case.item()), far.log_ratio.item(), int(far.next_case.item()))
        )
    return listed, dict(found.left_out)


@torch.no_grad()
def parting_of(model: Model, pair: TokenPair, weight: float) -> Parting | None:
    """Which tokens gain where the two responses part (Theorem 5 on the model's own head), or None where they do not.

    Args:
        model: with its tokenizer.
        pair: its tokens.
        weight: ``−ℓ'`` of the loss there.
    """
    at = pair.shared_prefix_tokens
    if at >= min(pair.chosen_tokens, pair.rejected_tokens):
        return None
    (batch,) = pack([pair], pair.total)
    rows, _ = TokenTangents(model, {}, batch).read()
    chosen, rejected = pair.chosen[at], pair.rejected[at]
    state, options = rows.states[at], {"bias": rows.bias, "scale": rows.scale, "softcap": rows.softcap}

    def gaining(by: str) -> list[Gaining]:
        found = most_gaining_tokens(
            model.head.weight.float() if model.head.weight.dtype != torch.float64 else model.head.weight,
            state,
            chosen,
            rejected,
            weight=weight,
            top=_GAINING,
            by=by,  # type: ignore[arg-type]
            decode=lambda token: text_of(model.tokenizer, [token]),
            **options,  # type: ignore[arg-type]
        )
        return [Gaining(one.text or "", one.rate, one.probability_rate) for one in found]

    logps = in_float64(rows.logps)
    other = logps[pair.chosen_tokens + at]
    return Parting(
        position=at,
        chosen=_piece(model, pair.chosen, at),
        rejected=_piece(model, pair.rejected, at),
        probabilities=(float(logps[at].exp()), float(other.exp())),
        by_logp=gaining("rate"),
        by_probability=gaining("probability_rate"),
    )


def _piece(model: Model, tokens: Sequence[int], at: int) -> str:
    return pieces(model.tokenizer, tokens[: at + 1])[at]


def heat_map(
    engine: Engine, pair: TokenPair, level: HeatLevel, packed: bool, watch: Watcher
) -> tuple[HeatMap | None, str | None]:
    """The products of all tokens' gradients, and what a reader should know of the choice.

    Args:
        engine: the model.
        pair: its tokens.
        level: over which parameters.
        packed: whether products can be had by layers.
        watch: told of the progress.
    """
    count, note = pair.chosen_tokens + pair.rejected_tokens, None
    if level == "auto":
        level = "gradient" if count <= HEAT_TOKENS else "unembedding"
        if level == "unembedding":
            note = (
                f"The two responses have {count} tokens: their heat map is over the unembedding matrix alone. "
                "--heat-map gradient takes all parameters, one backward pass a token."
            )
    if level == "none":
        return None, None
    if level == "gradient":
        watch.phase("token by token", pairs=1, tokens=count)
        found = token_gram(
            engine.model,
            pair,
            engine.parameters,
            packed=packed,
            advance=lambda done: watch.advance(tokens=done),
        )
        return HeatMap(level, TokenGram(found.values.cpu(), found.logps.cpu(), found.chosen_tokens)), note
    (batch,) = pack([pair], pair.total)
    rows, _ = TokenTangents(engine.model, {}, batch).read()
    products = products_of(rows, pair.chosen_tokens, 1)
    values = (in_float64(products.alpha) * in_float64(products.gram)).cpu()
    return HeatMap(level, TokenGram(values, in_float64(rows.logps).cpu(), pair.chosen_tokens)), note


def weights_of(
    numbers: Mapping[str, float], pair: TokenPair, loss: PairLoss, reference: tuple[float, float] | None
) -> tuple[float, float]:
    """``d_w`` and ``d_l`` of the loss at the start."""
    d_w, d_l = loss_weights(numbers, pair.chosen_tokens, pair.rejected_tokens, loss, reference)
    return d_w.item(), d_l.item()

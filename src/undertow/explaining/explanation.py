"""What is told of one pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undertow.models.token_gram import TokenGram

__all__ = ["Explanation", "Foretold", "Gaining", "HeatMap", "Influence", "LossCase", "Parting", "Side"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One response, token by token.

    Attributes:
        pieces: what each token adds to the text.
        logps: of each at the start, in nats.
        own: what a step on the pair alone does to each, in nats per unit of a plain gradient step's learning rate.
        trained: what the pair's own steps do to each over the simulated run, in nats, on the linear model; None where
            there is no forecast.
        looked: where the model stands at the end of the simulated run, less the start, in nats; None where the
            forecast took no look.
    """

    pieces: Sequence[str]
    logps: Numbers
    own: Numbers
    trained: Numbers | None = None
    looked: Numbers | None = None

    @property
    def text(self) -> str:
        """The response."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class LossCase:
    """What a loss makes of the pair: its weights, the case, and how far the next case is (``maths.entanglement``)."""

    loss: str
    d_chosen: float
    d_rejected: float
    case: int
    log_ratio: float
    next_case: int


@dataclass(frozen=True, slots=True)
class Gaining:
    """A token that gains where the responses part: Theorem 5's two rates, per unit learning rate."""

    text: str
    rate: float
    probability_rate: float


@dataclass(frozen=True, slots=True)
class Parting:
    """Where the two responses part.

    Attributes:
        position: how many tokens they share before it.
        chosen: the chosen response's next token, as text.
        rejected: the rejected one's.
        probabilities: of the two there.
        by_logp: tokens that gain most log-probability.
        by_probability: tokens that gain most probability.
    """

    position: int
    chosen: str
    rejected: str
    probabilities: tuple[float, float]
    by_logp: Sequence[Gaining]
    by_probability: Sequence[Gaining]


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """Inner products of the gradients of all tokens of the pair.

    Attributes:
        level: ``gradient``, over all trained parameters, or ``unembedding``, over that matrix.
        products: chosen tokens first.
    """

    level: str
    products: TokenGram


@dataclass(frozen=True, slots=True)
class Influence:
    """What training on one pair adds to the chosen response that is explained.

    Attributes:
        row: of the pair.
        pair_id: of the pair.
        nats: over the whole simulated run; below zero it pulls the response down.
        steps: at which the pair is trained, from 1; none where the order is not known.
        prompt: as the model reads it.
        chosen: likewise.
        rejected: likewise.
    """

    row: int
    pair_id: str
    nats: float
    steps: Sequence[int]
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, eq=False)
class Foretold:
    """What a forecast's simulated run does to the pair.

    Attributes:
        folder: of the forecast.
        steps: of the run.
        trained_at: the steps at which the pair itself is trained.
        own: nats that the pair's own steps add to the chosen response, on the linear model.
        others: nats that all other pairs add.
        stood_in: nats of ``others`` that pairs outside the sample add, through those that stand in for them.
        down: the pairs that pull it down most, strongest first.
        up: the pairs that hold it up most, strongest first.
        acting: how many pairs have been asked.
        size: how far on the way to the run's end the model was looked at; None without a look.
        told: whether the model is near enough to linear there for the look to count.
        forecast: the pair's line of the forecast, where it is one of its pairs.
    """

    folder: str
    steps: int
    trained_at: Sequence[int]
    own: float
    others: float
    stood_in: float
    down: Sequence[Influence]
    up: Sequence[Influence]
    acting: int
    size: float | None
    told: bool
    forecast: Mapping[str, Any]

    @property
    def linear(self) -> float:
        """What the linear model says of the chosen response, in nats: own part and others'."""
        return self.own + self.others


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Why one pair goes where it goes.

    Attributes:
        row: of the data; None for a pair that was given by itself.
        pair_id: a hash of its texts.
        data: the data argument; empty for a pair that was given by itself.
        model: its name.
        loss: whose weights decide, as text.
        prompt: as the model reads it.
        chosen: token by token.
        rejected: token by token.
        numbers: columns of level ``gradient``, and ``d_chosen``, ``d_rejected``, ``logp_chosen``, ``logp_rejected``.
        layers: the three inner products by block and kind of weight.
        cases: under every loss.
        left_out: losses that could not be asked, each with the reason.
        parting: None where one response is the beginning of the other.
        heat: None where it was not asked for.
        foretold: None without a forecast.
        notes: what a reader should know.
    """

    row: int | None
    pair_id: str
    data: str
    model: str
    loss: str
    prompt: str
    chosen: Side
    rejected: Side
    numbers: Mapping[str, float]
    layers: Sequence[Mapping[str, Any]]
    cases: Sequence[LossCase]
    left_out: Mapping[str, str]
    parting: Parting | None
    heat: HeatMap | None
    foretold: Foretold | None
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """How files and headings call the pair."""
        return "pair" if self.row is None else f"row {self.row}"

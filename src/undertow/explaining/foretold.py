"""What a forecast's simulated run does to one pair, and which other pairs do it: exact rows of the entanglement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.data.tokens.pieces import text_of
from undertow.errors import OptionError
from undertow.explaining.explanation import Foretold, Influence
from undertow.explaining.measuring import OwnStep
from undertow.forecasting.folder import LOOK, read_tensors
from undertow.forecasting.forecast import reopened, typical
from undertow.forecasting.look import moved, step_along
from undertow.forecasting.measure import Engine
from undertow.forecasting.simulation import Simulation
from undertow.forecasting.stored import Stored, read_stored
from undertow.maths.linearised import contributions
from undertow.models.model import Model
from undertow.models.tangents import TokenTangents
from undertow.runs.progress import Watcher
from undertow.training.order import training_steps

__all__ = ["Course", "course"]


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """A forecast's simulated run with its model at hand.

    Attributes:
        folder: of the forecast.
        run: the forecast, opened again.
        stored: what it kept.
        found: the simulated run, as the forecast tells it.
        engine: the model with the weights that the run trains.
        scales: the optimiser's ``P^½`` by parameter; None for SGD.
        pairs: all of the data.
        steps: by the number of a pair: when it is trained; empty where the order is not known.
        watch: told of the progress.
    """

    folder: Path
    run: Any
    stored: Stored
    found: Simulation
    engine: Engine
    scales: Mapping[str, Tensor] | None
    pairs: Sequence[TokenPair]
    steps: Mapping[int, Sequence[int]]
    watch: Watcher

    def number_of(self, pair: TokenPair) -> int | None:
        """Which of the data's pairs it is; None where it is none of them."""
        return next((number for number, one in enumerate(self.pairs) if one is pair), None)

    def looked(self, some: Sequence[TokenPair]) -> list[NDArray[np.float64] | None]:
        """What the forecast's look does to the tokens of pairs, in nats; None where it took none.

        The model is moved to where the forecast looked at it, along the same weighted gradients.
        """
        kept = self._look()
        if kept is None:
            return [None] * len(some)
        study = self.stored.study.with_curvature(None)  # as it was before the look
        movers, w = self.run.movers(study, self.run.simulate(study, self.stored.kept), self.pairs, self.stored.kept)
        self.watch.phase("where training goes", pairs=len(movers), tokens=sum(pair.total for pair in movers))
        step = step_along(self.engine, movers, w, self.scales, self.watch)
        before = [_token_logps(self.engine.model, pair) for pair in some]
        with moved(self.engine.parameters, step, kept["size"]):
            after = [_token_logps(self.engine.model, pair) for pair in some]
        return [end - start for start, end in zip(before, after, strict=True)]

    def foretold(
        self, pair: TokenPair, own: OwnStep, direction: Mapping[str, Tensor], top: int
    ) -> tuple[Foretold, NDArray[np.float64]]:
        """What the run does to a pair's chosen response and who does it; and what its own steps do to its tokens.

        Args:
            pair: of the data, or another one.
            own: its two gradients, scaled, read by its tokens.
            direction: ``P ∇ ln π`` of its chosen response, by parameter.
            top: how many pairs to name each way.
        """
        number, study, kept = self.number_of(pair), self.stored.study, self.stored.kept
        w = self._own_coefficients(number)
        tokens = own.moved(*w).numpy()
        nats = self._row(direction)
        at = None if number is None else _position(study.sample, number)
        acted, stood_in = (contributions(nats, c)[0].numpy() for c in (self.found.coefficients, self.found.stand_ins))
        others = np.ones(len(study.sample), dtype=bool)
        if at is not None:
            others[at] = False
        trained = np.isin(study.sample, kept) & others
        order = np.argsort(np.where(trained, acted, 0.0), kind="stable")
        kept_look = self._look()
        foretold = Foretold(
            folder=str(self.folder),
            steps=self.found.steps,
            trained_at=() if number is None else self.steps.get(number, ()),
            own=float(tokens[: own.chosen_tokens].sum()),
            others=float(acted[others].sum() + stood_in[others].sum()),
            stood_in=float(stood_in[others].sum()),
            down=[self._influence(i, acted[i]) for i in order[:top] if trained[i] and acted[i] < 0],
            up=[self._influence(i, acted[i]) for i in order[::-1][:top] if trained[i] and acted[i] > 0],
            acting=int(trained.sum()),
            size=None if kept_look is None else kept_look["size"],
            told=kept_look is not None and bool(kept_look["told"]),
            forecast={} if number is None else self._line(number),
        )
        return foretold, tokens

    def _row(self, direction: Mapping[str, Tensor]) -> Tensor:
        """The response's row of the entanglement, ``[1, 2n]``: how each response of the sample would move it."""
        some = [self.pairs[int(number)] for number in self.stored.study.sample]
        self.watch.phase("who pulls it", pairs=len(some), tokens=sum(pair.total for pair in some))
        found = []
        for batch in pack(some, self.engine.batch_tokens):
            values = TokenTangents(self.engine.model, self.engine.parameters, batch).along(direction).cpu()
            lengths = [n for pair in batch.pairs for n in (pair.chosen_tokens, pair.rejected_tokens)]
            found += [part.sum() for part in torch.split(values, lengths)]
            self.watch.advance(pairs=len(batch.pairs), tokens=sum(pair.total for pair in batch.pairs))
        return torch.stack(found)[None]

    def _own_coefficients(self, number: int | None) -> tuple[float, float]:
        """What the pair's own steps weigh in all; outside of the sample, what is expected of such a pair."""
        study = self.stored.study
        if number is None or number not in self.stored.kept:
            return 0.0, 0.0
        at = _position(study.sample, number)
        if at is not None:
            chosen, rejected = self.found.coefficients[2 * at : 2 * at + 2].tolist()
        else:
            chosen, rejected = typical(self.found, study, np.array([number]))[0].tolist()
        return chosen, rejected

    def _influence(self, at: np.intp, nats: float) -> Influence:
        number = int(self.stored.study.sample[at])
        pair, tokenizer = self.pairs[number], self.engine.model.tokenizer
        return Influence(
            row=pair.row,
            pair_id=pair.pair_id,
            nats=float(nats),
            steps=self.steps.get(number, ()),
            prompt=text_of(tokenizer, pair.prompt),
            chosen=text_of(tokenizer, pair.chosen),
            rejected=text_of(tokenizer, pair.rejected),
        )

    def _look(self) -> dict[str, float] | None:
        found = read_tensors(self.run.folder.folder / f"{LOOK}.safetensors") if self.run.settings.look else None
        return None if found is None else found[1]

    def _line(self, number: int) -> dict[str, Any]:
        """What the forecast says of one of its pairs."""
        line = self.stored.table.slice(number, 1).to_pylist()[0]
        names = ("forecast_chosen", "forecast_rejected", "forecast_displaced", "push")
        return {name: line.get(name) for name in names}


@contextlib.contextmanager
def course(folder: Path, watch: Watcher) -> Iterator[Course]:
    """The simulated run of a finished forecast.

    Raises:
        InputError: no finished forecast stands there, or its data or model are no longer what they were.
    """
    stored = read_stored(folder)
    if stored.study.weighted is not None:
        raise OptionError(
            f"undertow explain: the run that {folder} foretells weights tokens (--token-weights), which explain does "
            "not know yet. Give it the data and --model: then it explains what the pair's own step does."
        )
    with reopened(folder, watch=watch) as run, run.engine() as engine:
        plain = run.settings.train.optimiser == "sgd"
        yield Course(
            folder=folder,
            run=run,
            stored=stored,
            found=run.simulate(stored.study, stored.kept),
            engine=engine,
            scales=None if plain else run.kept_scales(engine),
            pairs=run.pairs(),
            steps=_steps(run, stored),
            watch=watch,
        )


def _steps(run: Any, stored: Stored) -> dict[int, list[int]]:
    """When each pair of the data is trained, from 1."""
    settings = run.settings
    found: dict[int, list[int]] = {}
    if settings.order == "unknown":
        return found
    steps = training_steps(len(stored.kept), settings.train, world_size=settings.world_size, order=settings.order)
    for number, step in enumerate(steps, 1):
        for position in dict.fromkeys(step.pairs.tolist()):
            found.setdefault(int(stored.kept[position]), []).append(number)
    return found


def _position(sample: NDArray[np.int64], number: int) -> int | None:
    at = int(np.searchsorted(sample, number))
    return at if at < len(sample) and sample[at] == number else None


def _token_logps(model: Model, pair: TokenPair) -> NDArray[np.float64]:
    (batch,) = pack([pair], pair.total)
    found: NDArray[np.float64] = TokenTangents(model, {}, batch).logps.cpu().numpy()
    return found

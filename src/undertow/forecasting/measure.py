"""Model and data to a study: second moments, features in parts that outlive a kill, and their inner products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from undertow.data.tokens.encoder import TokenPair
from undertow.forecasting.features import Factor, factors_of, features_of
from undertow.forecasting.folder import SCALING, ForecastFolder, compact, read_tensors, spread_out
from undertow.forecasting.moments import Minibatch, lend_to_unseen, scaling_of, second_moments
from undertow.maths.linearised import CountSketch, Features, Kernel, Products
from undertow.maths.losses import Logps, PairLoss
from undertow.models.gradients import Response
from undertow.models.model import Model
from undertow.runs.progress import Watcher
from undertow.training.order import Step

__all__ = [
    "LARGEST_KERNEL",
    "Engine",
    "changes_along",
    "covering",
    "feature_factors",
    "measured_features",
    "minibatches",
    "scaling",
]

FEWEST_GRADIENTS = 32
"""That second moments are the mean of, at least: of fewer minibatches each is looked at in parts."""

LARGEST_KERNEL = 8192
"""Rows up to which inner products are a matrix (256 MB in float32); beyond, simulations run on the features."""


@dataclass(slots=True)
class Engine:
    """A model ready to be differentiated: which weights are trained, and how."""

    model: Model
    parameters: Mapping[str, nn.Parameter]
    packed: bool
    products: torch.dtype | None
    batch_tokens: int


def covering(steps: Sequence[Step], kept: NDArray[np.int64], wanted: NDArray[np.int64], *, seed: int) -> list[Step]:
    """Steps to measure second moments on, that have every pair whose gradient will be scaled: what the others'
    minibatches say of a pair's own large entries is so little that these would drown all else (measured: with 48 of 128
    pairs covered a forecast's rank correlation with fact fell from .985 to .19; a move along 32 pairs that were not was
    seven times as long as it should be).

    The run's own steps as long as they bring new pairs, where all of its pairs are wanted; else, and for pairs that the
    run does not reach, steps of the same size.

    Args:
        steps: of the run, positions in the training set.
        kept: the numbers of the pairs in the training set.
        wanted: the numbers of those to cover; others than these are not looked at, but to fill a step.
        seed: of the draw.
    """
    rest = np.flatnonzero(np.isin(kept, wanted))
    found: list[Step] = []
    if len(rest) == len(kept):
        seen = np.zeros(len(kept), dtype=bool)
        for step in steps:
            if not seen[step.pairs].all():
                found.append(step)
                seen[step.pairs] = True
        rest = np.flatnonzero(~seen)
    rest = np.random.default_rng(seed).permutation(rest)
    size = len(steps[0].pairs)
    whole = np.resize(rest, (math.ceil(len(rest) / size), size))  # the last one filled with the first pairs again
    return found + [Step(pairs, steps[0].shares, steps[0].lr) for pairs in whole]


def minibatches(
    steps: Sequence[Step],
    pairs_at: Sequence[TokenPair],
    loss: PairLoss,
    logps: Tensor,
    reference: Tensor,
    grad_norms: Tensor | None,
) -> Iterator[Minibatch]:
    """The gradients of steps as they are at the start.

    Args:
        steps: positions in ``pairs_at``.
        pairs_at: the training set.
        loss: what is minimised.
        logps: ``[pairs, 2]`` at the start.
        reference: ``[pairs, 2]``.
        grad_norms: ``[pairs, 2]``, where the loss needs them.
    """
    for step in steps:
        at = torch.from_numpy(step.pairs)
        pairs = [pairs_at[int(position)] for position in step.pairs]
        norms = (
            {}
            if grad_norms is None
            else {
                "chosen_grad_norms": grad_norms[at, 0],
                "rejected_grad_norms": grad_norms[at, 1],
            }
        )
        found = Logps(
            chosen=logps[at, 0],
            rejected=logps[at, 1],
            ref_chosen=reference[at, 0],
            ref_rejected=reference[at, 1],
            chosen_tokens=torch.tensor([pair.counted_tokens[0] for pair in pairs], dtype=torch.float64),
            rejected_tokens=torch.tensor([pair.counted_tokens[1] for pair in pairs], dtype=torch.float64),
            **norms,
        )
        d_w, d_l = loss.at_step(0).weights(found)
        shares = torch.from_numpy(step.shares)
        yield Minibatch(pairs, torch.stack([shares * d_w, -shares * d_l], dim=1))


def scaling(
    engine: Engine,
    folder: ForecastFolder,
    gradients: Iterator[Minibatch],
    optimiser: str,
    clip: float,
    watch: Watcher,
    *,
    steps: int,
    totals: tuple[int, int],
    responses: Sequence[Response] = (),
) -> tuple[dict[str, Tensor], float]:
    """``P^½`` by parameter and the trace of ``V``, measured or as an earlier run kept them; for SGD ones.

    Args:
        engine: the model.
        folder: where they are kept.
        gradients: minibatches at the start.
        optimiser: its name.
        clip: the longest gradient.
        watch: told of the progress.
        steps: how many minibatches.
        totals: pairs and tokens of them.
        responses: whose gradients will be scaled: their tokens may be ones that no minibatch had.
    """
    if optimiser == "sgd":
        return {name: torch.ones_like(parameter) for name, parameter in engine.parameters.items()}, 1.0
    path = folder.folder / SCALING
    found = read_tensors(path)
    if found is None:
        watch.phase("second moments", pairs=totals[0], tokens=totals[1])
        tables = {name: _TokenTable(of, engine.model.vocabulary) for name, of in _token_tables(engine).items()}
        moments = second_moments(
            engine.model,
            engine.parameters,
            _noted(gradients, tables.values()),
            clip=clip,
            parts=math.ceil(FEWEST_GRADIENTS / steps),
            batch_tokens=engine.batch_tokens,
            products=engine.products,
            watch=watch,
        )
        for name, table in tables.items():
            lend_to_unseen(moments.by_name[name], table.minibatches, _tokens_of(responses, table.of))
        # In bfloat16, and read back: a run that goes on from here has the very same numbers. Its error, 0.4%, is one of
        # the scaling alone, which is itself an estimate.
        halves = {name: scaling_of(value).sqrt().to(torch.bfloat16).cpu() for name, value in moments.by_name.items()}
        folder.keep(path, halves, {"mean_square": moments.mean_square})
        found = read_tensors(path)
        assert found is not None
    tensors, numbers = found
    device = engine.model.device
    return {name: tensors[name].to(device, torch.float32) for name in engine.parameters}, numbers["mean_square"]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Features of all rows: as inner products, or themselves where these would be too many."""

    products: Products
    norms: Products
    logps: Tensor


def measured_features(
    engine: Engine,
    folder: ForecastFolder,
    responses: Sequence[Response],
    scales: Mapping[str, Tensor],
    size: int,
    part_rows: int,
    watch: Watcher,
) -> Measured:
    """The features of responses, in parts; those that stand are read, and none is computed twice."""
    sketch = CountSketch(size)
    parts = [responses[begin : begin + part_rows] for begin in range(0, len(responses), part_rows)]
    waiting = [index for index in range(len(parts)) if _part(folder, index, len(parts[index]), size) is None]
    done = sum(len(part) for index, part in enumerate(parts) if index not in set(waiting))
    watch.phase("gradient features", pairs=len(responses), tokens=sum(one.total for one in responses), done=done)
    if waiting:
        factors = feature_factors(engine, responses, scales, sketch)
        for index in waiting:
            _measure(engine, folder, index, parts[index], factors, sketch, watch)
    found = kept_features(folder, len(responses), part_rows, size)
    assert found is not None
    return found


def kept_features(folder: ForecastFolder, rows: int, part_rows: int, size: int) -> Measured | None:
    """Features as they were kept; None where a part is missing.

    Args:
        folder: where.
        rows: how many.
        part_rows: of each part but the last.
        size: of the sketch.
    """
    begins = range(0, rows, part_rows)
    read = [_part(folder, index, min(part_rows, rows - begin), size) for index, begin in enumerate(begins)]
    whole = [found for found in read if found is not None]
    if len(whole) < len(read):
        return None
    scaled = torch.cat([spread_out(found["scaled"], found["largest"]) for found in whole])
    plain = torch.cat([found["plain"] for found in whole])
    logps = torch.cat([found["logps"] for found in whole])
    if rows <= LARGEST_KERNEL:
        # In float32, as they are stored: simulations without a model then give the same numbers, to the last digit.
        products, norms = (Kernel(Kernel.of(features).matrix.float()) for features in (scaled, plain))
        return Measured(products, norms, logps)
    return Measured(Features(scaled), Features(plain), logps)


def changes_along(folder: ForecastFolder, direction: Tensor, rows: int, part_rows: int) -> Tensor:
    """``S`` times the sketch of a move: what it changes in every response on the linear model, ``[R]``, float64.

    Args:
        folder: of the features.
        direction: ``[D]``, the sketch of ``P^½ g``.
        rows: ``R``.
        part_rows: of each part but the last.
    """
    found = []
    for index, begin in enumerate(range(0, rows, part_rows)):
        part = _part(folder, index, min(part_rows, rows - begin), len(direction))
        assert part is not None
        found.append(spread_out(part["scaled"], part["largest"]).double() @ direction.double())
    return torch.cat(found)


def _measure(
    engine: Engine,
    folder: ForecastFolder,
    index: int,
    part: Sequence[Response],
    factors: Mapping[str, Factor],
    sketch: CountSketch,
    watch: Watcher,
) -> None:
    rows = []
    for found in features_of(
        engine.model,
        engine.parameters,
        part,
        factors,
        sketch,
        batch_tokens=engine.batch_tokens,
        packed=engine.packed,
        products=engine.products,
    ):
        rows.append(found)
        begin = sum(len(some.logps) for some in rows[:-1])
        some = part[begin : begin + len(found.logps)]
        watch.advance(pairs=len(some), tokens=sum(one.total for one in some))
    scaled, largest = compact(torch.cat([found.scaled for found in rows]).cpu())
    plain = torch.cat([found.plain for found in rows]).cpu()
    logps = torch.cat([found.logps for found in rows]).cpu()
    folder.keep(folder.part(index), {"scaled": scaled, "largest": largest, "plain": plain, "logps": logps})


def feature_factors(
    engine: Engine, responses: Sequence[Response], scales: Mapping[str, Tensor], sketch: CountSketch
) -> dict[str, Factor]:
    """What gradients are multiplied by before they are folded, for features of these responses."""
    return factors_of(scales, sketch, _standing_out(engine, responses))


def _standing_out(engine: Engine, responses: Sequence[Response]) -> dict[str, Tensor]:
    """Rows that all responses have much of their gradient in, ascending, by the name of a trained embedding: of tokens
    those that occur; of anything else, as GPT-2's positions, all, since only the first few have a gradient at all."""
    embeddings = [module.weight for module in engine.model.hf.modules() if isinstance(module, nn.Embedding)]
    tokens = _tokens_of(responses, _read)
    tables = _token_tables(engine)
    found = {}
    for name, parameter in engine.parameters.items():
        if name in tables:
            found[name] = tokens
        elif any(parameter is one for one in embeddings):
            found[name] = torch.arange(len(parameter))
    return found


Tokens = Callable[[Sequence[int], Sequence[int]], Sequence[int]]
"""Of a prompt and a response: the tokens in whose rows of an embedding the gradient is large."""


def _read(prompt: Sequence[int], response: Sequence[int]) -> Sequence[int]:
    return [*prompt, *response]


def _written(prompt: Sequence[int], response: Sequence[int]) -> Sequence[int]:
    return response


def _token_tables(engine: Engine) -> dict[str, Tokens]:
    """The trained embeddings of tokens and the unembedding, by name, and which tokens a response has in them."""
    hf = engine.model.hf
    found: dict[str, Tokens] = {}
    for name, parameter in engine.parameters.items():
        if parameter is hf.get_input_embeddings().weight:  # first: where both are one, its tokens are the more
            found[name] = _read
        elif parameter is hf.get_output_embeddings().weight:
            found[name] = _written
    return found


def _tokens_of(responses: Sequence[Response], of: Tokens) -> Tensor:
    """Those that occur, ascending."""
    return torch.tensor(sorted({token for one in responses for token in of(one.prompt, one.tokens)}), dtype=torch.long)


class _TokenTable:
    """In how many minibatches each token came."""

    def __init__(self, of: Tokens, vocabulary: int) -> None:
        self.of, self.minibatches = of, torch.zeros(vocabulary, dtype=torch.long)

    def note(self, minibatch: Minibatch) -> None:
        sides = [(pair.prompt, tokens) for pair in minibatch.pairs for tokens in (pair.chosen, pair.rejected)]
        self.minibatches[sorted({token for prompt, tokens in sides for token in self.of(prompt, tokens)})] += 1


def _noted(gradients: Iterable[Minibatch], tables: Iterable[_TokenTable]) -> Iterator[Minibatch]:
    for minibatch in gradients:
        for table in tables:
            table.note(minibatch)
        yield minibatch


def _part(folder: ForecastFolder, index: int, rows: int, size: int) -> dict[str, Tensor] | None:
    found = read_tensors(folder.part(index))
    if found is None or found[0]["scaled"].shape != (rows, size):
        return None
    return found[0]


def bytes_needed(parameters: Mapping[str, nn.Parameter]) -> int:
    """Besides the weights: a gradient, the scaling, and a sum or copy of as many numbers, in float32."""
    return 3 * 4 * sum(math.prod(parameter.shape) for parameter in parameters.values())

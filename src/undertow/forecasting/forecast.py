"""The whole of ``undertow forecast``: data, a model and a training run's options in, what that run will do out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.trainer_utils import set_seed

from undertow.auditing.audit import Audited, auditing
from undertow.auditing.summary import case_counts
from undertow.data.pairs import BadRow
from undertow.data.reading import Pairs
from undertow.data.texts import Text, encode_texts, read_texts
from undertow.data.tokens.encoder import PairEncoder, TokenPair
from undertow.errors import SHOWN_BAD_ROWS, BadRowsError, DataError, ModelError, OptionError
from undertow.filtering.rules import Rule, left_out
from undertow.forecasting.folder import ENTANGLEMENT, FEATURES, LOOK, SCALING, ForecastFolder, digest, read_tensors
from undertow.forecasting.look import moved, paired_logps, response_logps, step_along
from undertow.forecasting.measure import (
    Engine,
    bytes_needed,
    changes_along,
    covering,
    feature_factors,
    measured_features,
    minibatches,
    scaling,
)
from undertow.forecasting.outcome import (
    Outcome,
    curve_record,
    end_record,
    group_means,
    held_out_record,
    held_out_table,
    outcome_of,
    pair_table,
    text_table,
)
from undertow.forecasting.settings import ForecastSettings, not_simulated
from undertow.forecasting.simulation import Simulation, Study, simulated
from undertow.maths.linearised import CountSketch, Curvature, Features
from undertow.models.device import choose_dtype
from undertow.models.gradients import Response, check_pieces, drawn_tokens, trained_parameters
from undertow.models.loading import quiet_transformers
from undertow.models.model import Model
from undertow.runs.folder import read_summary
from undertow.runs.names import FORECAST, HELD_OUT_FORECAST, PAIR_FORECAST, SUMMARIES, TEXTS_FORECAST
from undertow.runs.preparation import prepare
from undertow.runs.progress import Silent, Watcher
from undertow.runs.settings import Shard
from undertow.runs.targets import Target, check_targets, data_input, file_input
from undertow.runs.versions import made_with
from undertow.scoring.columns import COLUMNS, Row, numbers_of, table_of
from undertow.scoring.gradient import FullProducts, full_row
from undertow.scoring.token_weights import token_weights, write_weights
from undertow.training.forward import turn_off_dropout
from undertow.training.order import Step, training_steps
from undertow.training.phases import trainable
from undertow.training.reference import reference_key, reference_logps
from undertow.training.run import load_for_training, weights_identity
from undertow.training.settings import TrainSettings

__all__ = ["forecast", "forecast_to_folder"]

_VERSION = 2
"""Of what is kept on the way: parts of another version do not go together with these."""
_LOOK_SIZES = (1.0, 0.5, 0.25, 0.125)
"""Parts of the simulated run's move at which the model is looked at, until it is nearly linear there."""
_BEARS = (
    *("loss", "ref", "tokens", "reading", "epochs", "max_steps", "batch_size", "accumulate", "lr", "optimiser"),
    *("schedule", "warmup_steps", "max_grad_norm", "lora_r", "lora_alpha", "filter", "packed", "seed"),
)
"""Options of training that the forecast depends on."""


def forecast(
    data: str | Path,
    model: str,
    out: str | Path,
    *,
    overwrite: bool = False,
    watch: Watcher | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Forecast a training run into a folder; returns what ``forecast.json`` then holds.

    Args:
        data: file, folder or Hub id of the pairs.
        model: Hub id, folder, .gguf file, or demo.
        out: the folder.
        overwrite: start over where it holds another run.
        watch: told of the progress.
        **options: those of ``undertow forecast``, by their names with underscores: ``loss="dpo"``, ``lr=1e-6``.

    Raises:
        InputError: the data, the model, an option or the output folder cannot be used.
    """
    _, settings = ForecastSettings.from_options({**options, "model": model})
    return forecast_to_folder(data, model, out, settings, overwrite=overwrite, watch=watch)


def forecast_to_folder(
    data: str | Path,
    model_name: str,
    out: str | Path,
    settings: ForecastSettings | None = None,
    *,
    overwrite: bool = False,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Forecast a training run into a folder, as ``undertow forecast`` does; returns what ``forecast.json`` then holds.

    The folder becomes that of an audit first, or is one already; a run that was stopped goes on where it stopped.

    Raises:
        InputError: the data, the model, the options or the output folder cannot be used.
    """
    settings, watch = settings or ForecastSettings(), watch or Silent()
    with opened(data, model_name, out, settings, overwrite=overwrite, watch=watch) as run:
        if run.folder.finished:
            watch.note(f"{out} is finished already: nothing was forecast again.")
            return run.folder.summary()
        identity, arguments = run.identity(), run.arguments(model_name)
        return run.folder.commit({**made_with(), "arguments": arguments, "fingerprints": identity, **run.forecast()})


@contextlib.contextmanager
def opened(
    data: str | Path,
    model_name: str,
    out: str | Path,
    settings: ForecastSettings,
    *,
    overwrite: bool = False,
    watch: Watcher,
) -> Iterator[_Run]:
    """A forecast's folder with data and model at hand: a new one, or one that goes on, or is finished.

    Raises:
        InputError: the data, the model, the options or the output folder cannot be used.
    """
    for option, path in (("--held-out", settings.held_out), ("--texts", settings.texts)):
        if path:
            check_targets([Target("--out", Path(out), "run")], file_input(option, Path(path)))
    check_targets(
        [Target("--out", Path(out), "run")], data_input(data, settings.train.data.split, settings.train.data.name)
    )
    texts = read_texts(settings.texts) if settings.texts else []
    if settings.held_out:
        _open_held_out(settings)  # what cannot be read is refused before a model is loaded
    with (
        contextlib.ExitStack() as stack,
        auditing(data, model_name, out, settings.audit_settings(), overwrite=overwrite, watch=watch) as audited,
    ):
        held = _held_out(settings, audited.encoder, watch, stack)
        tokens = _text_tokens(texts, audited.encoder)
        folder = ForecastFolder(Path(out))
        folder.check_writable()
        with contextlib.closing(folder):
            model = audited.model or load_for_training(model_name, audited.encoder, settings.train)
            run = _Run(data, audited, settings, folder, watch, model, held, texts, tokens)
            folder.begin(run.identity(), run.arguments(model_name), overwrite=overwrite)
            yield run


Look = Callable[[Study, Simulation, NDArray[np.int64]], "tuple[Study, float] | None"]
"""``(study, simulated run, numbers of the pairs it trains on) → (the study with the curvature of that run, how far on
the way to its end the model was looked at)``; None where the model is far from linear all the way."""


@contextlib.contextmanager
def looking(folder: str | Path, *, watch: Watcher | None = None) -> Iterator[Look]:
    """What looks at other runs that were simulated on a finished forecast; its model and data are opened for that.

    Raises:
        InputError: the forecast is none or not finished, its data or its model are no longer what they were, or what
            it kept of the optimiser's scaling is gone.
    """
    with reopened(folder, watch=watch) as run:
        pairs = run.pairs()
        with run.engine() as engine:
            scales = run.kept_scales(engine)

            def look(study: Study, found: Simulation, kept: NDArray[np.int64]) -> tuple[Study, float] | None:
                told, looked, size = run.curved(study, run.looked(engine, study, found, pairs, kept, scales))
                return None if looked is None else (told, size)

            yield look


@contextlib.contextmanager
def reopened(folder: str | Path, *, watch: Watcher | None = None) -> Iterator[_Run]:
    """A finished forecast with its data and its model at hand.

    Raises:
        InputError: the forecast is none or not finished, its data or its model are no longer what they were, or what
            it kept of the optimiser's scaling is gone.
    """
    folder, watch = Path(folder), watch or Silent()
    summary = read_summary(folder, FORECAST, SUMMARIES[FORECAST])
    arguments = summary["arguments"]
    settings = ForecastSettings.recorded(arguments, str(folder / SUMMARIES[FORECAST]))
    with opened(arguments["data"], arguments["model"], folder, settings, watch=watch) as run:
        if not run.folder.finished or not (run.kept_scaling() or settings.train.optimiser == "sgd"):
            raise DataError(f"{run.folder.folder / SCALING} is missing: forecast anew with --overwrite, then go on.")
        yield run


def _held_out(
    settings: ForecastSettings, encoder: PairEncoder, watch: Watcher, stack: contextlib.ExitStack
) -> list[TokenPair]:
    """The pairs that are only looked at, as tokens."""
    if not settings.held_out:
        return []
    pairs, on_bad_row = _open_held_out(settings), settings.train.data.on_bad_row
    ready = stack.enter_context(prepare(pairs.entries(), encoder, Shard(), on_bad_row, watch))
    return list(ready.spool.read(0, ready.spool.pairs))


def _open_held_out(settings: ForecastSettings) -> Pairs:
    assert settings.held_out is not None
    return settings.train.data.of_another_file().open(settings.held_out)


def _text_tokens(texts: Sequence[Text], encoder: PairEncoder) -> list[TokenPair]:
    if not texts:
        return []
    open_end = PairEncoder(encoder.tokenizer, replace(encoder.settings, eot=False), vocabulary=encoder.vocabulary)
    found: list[TokenPair] = []
    bad: list[BadRow] = []
    for one in encode_texts(list(texts), encoder, open_end):
        if isinstance(one, BadRow):
            bad.append(one)
        else:
            found.append(one)
    if bad:
        raise BadRowsError(bad[:SHOWN_BAD_ROWS], len(bad))
    return found


@dataclass(slots=True)
class _Run:
    """What the stages of a forecast share."""

    data: str | Path
    audited: Audited
    settings: ForecastSettings
    folder: ForecastFolder
    watch: Watcher
    model: Model
    held: Sequence[TokenPair]
    texts: Sequence[Text]
    text_tokens: Sequence[TokenPair]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def train(self) -> TrainSettings:
        return self.settings.train

    def arguments(self, model_name: str) -> Mapping[str, Any]:
        """What was asked for."""
        return {"data": str(self.data), "model": model_name, **self.settings.record()}

    def identity(self) -> dict[str, Any]:
        """Everything that the forecast depends on."""
        record, model, reference = self.train.record(), self.model, self.audited.reference
        own = {
            name: value
            for name, value in self.settings.record().items()
            if name not in ("training", "by", "level", "pull", "geometry")
        }
        return {
            "version of the forecast": _VERSION,
            "data": self.audited.ready.fingerprint,
            "tokenizer and template": self.audited.encoder.fingerprint,
            "model weights": model.weights_fingerprint(),
            "reference weights": reference.weights_fingerprint() if reference else None,
            "products": str(self._products()),
            "device": model.device.type,
            "attention": model.attention,
            "held-out pairs": digest(*((pair.row, pair.pair_id) for pair in self.held)),
            "texts": digest(*((text.row, text.group, text.end) for text in self.texts), *self.text_tokens),
            **{f"option {name}": own[name] for name in own if name not in ("held_out", "texts")},
            **{f"option {name}": record[name] for name in _BEARS},
            **({"products over all parameters": self.settings.geometry} if self.settings.own_products else {}),
            **weights_identity(self.train),
        }

    def forecast(self) -> dict[str, Any]:
        """All stages; what they came to."""
        self.watch.note(not_simulated(self.train))
        pairs = self.pairs()
        table = self.audited.store.read_parts()
        kept = self._kept(table)
        sample = self._sample(len(pairs))
        steps = training_steps(
            len(kept),
            self.train,
            world_size=self.settings.world_size,
            order=self.settings.order,
        )
        with self.engine() as engine:
            logps, reference, norms = self._starts(pairs, table)
            acting = self._acting_starts(logps, reference)
            study, scales = self._study(engine, pairs, kept, sample, steps, (logps, reference), acting, norms)
            found = self.simulate(study, kept)
            looked, size = None, 1.0
            if self.settings.look:
                study, looked, size = self._look(engine, study, found, pairs, kept, scales)
                found = self.simulate(study, kept)
            groups = [text.group for text in self.texts]
            outcome = outcome_of(study, found, protect=self.settings.protect, groups=groups)
            full = self._full(engine, pairs, scales, reference) if self.settings.own_products else None
            outside = self._outside(engine, study, found, outcome, pairs, kept, scales, acting[0])
        rows = np.array([pair.row for pair in pairs], dtype=np.int64)
        self._keep(study, kept)
        forecasts = pair_table(rows, [p.pair_id for p in pairs], study, found, outcome, outside_push=outside)
        if full is not None:
            for field_ in full.schema:
                forecasts = forecasts.append_column(field_, full[field_.name])
        self.folder.write_table(PAIR_FORECAST, forecasts)
        if self.held:
            self.folder.write_table(
                HELD_OUT_FORECAST,
                held_out_table([p.row for p in self.held], [p.pair_id for p in self.held], study, found),
            )
        if self.texts:
            listed: dict[str, Sequence[Any]] = {
                "row": [text.row for text in self.texts],
                "group": groups,
                "prompt": [text.beside("").prompt_text for text in self.texts],
                "response": [text.response for text in self.texts],
            }
            self.folder.write_table(TEXTS_FORECAST, text_table(listed, study, found))
        summary = self._summary(study, found, outcome, looked, size, kept, steps, pairs, groups)
        if full is not None:
            summary["gradients"] = {"geometry": self.settings.geometry, "cases": case_counts(full["full_case"])}
        return summary

    def pairs(self) -> list[TokenPair]:
        """All pairs of the data."""
        return list(self.audited.ready.spool.read(0, self.audited.ready.spool.pairs))

    def acting(self) -> list[TokenPair]:
        """The same as the loss pulls on them: with the weights of their tokens, where it has some."""
        spool, by = self.audited.ready.spool, self.train.loss.token_weights
        if by and spool.weights is None:
            spool.weights = token_weights(spool, by, self.model, self.watch)
            write_weights(self.folder.out, spool, spool.weights)
        return list(spool.read(0, spool.pairs, weighted=True))

    def _acting_starts(self, logps: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Their log-probabilities at the start and under the reference, ``[N, 2]``."""
        if not self.train.loss.token_weights:
            return logps, reference
        acting = self.acting()
        self.watch.phase("weighted log-probabilities", pairs=len(acting), tokens=sum(pair.total for pair in acting))
        found = paired_logps(self.model, acting, batch_tokens=self.settings.batch_tokens, watch=self.watch)
        return found, self._reference_logps(weighted=True) if self.train.ref else found

    def _products(self) -> torch.dtype | None:
        kind = choose_dtype(self.train.dtype, self.model.device)
        return torch.bfloat16 if kind == torch.bfloat16 else None

    def kept_scaling(self) -> bool:
        """Whether the optimiser's scaling is kept."""
        return (self.folder.folder / SCALING).exists()

    def kept_scales(self, engine: Engine) -> dict[str, Tensor]:
        """That scaling, ``P^½`` by parameter; ones for SGD."""
        return scaling(engine, self.folder, iter(()), self.train.optimiser, 0.0, self.watch, steps=0, totals=(0, 0))[0]

    @contextlib.contextmanager
    def engine(self) -> Iterator[Engine]:
        """The model with the weights that training would train, dropout off."""
        model = self.model
        set_seed(self.train.seed)  # as training does before a low-rank adapter draws its first weights
        with quiet_transformers():
            trainable(model, self.train)
        turn_off_dropout(model.hf)
        parameters = trained_parameters(model.hf)
        self._check_memory(parameters)
        problem = check_pieces(model, parameters, drawn_tokens(model))
        if problem:
            self.watch.note(f"Gradients are computed one response at a time: {problem}.")
        yield Engine(model, parameters, problem is None, self._products(), self.settings.batch_tokens)

    def _check_memory(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        needed = bytes_needed(parameters)
        device = self.model.device
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
        if needed > free:
            raise ModelError(
                f"The forecast needs {needed / 2**30:.1f} GiB besides the weights (a gradient, the optimiser's scaling "
                f"and a copy, in float32), and {free / 2**30:.1f} GiB are free. Forecast an adapter (--lora-r 16), or "
                "take a machine with more memory."
            )

    def _full(
        self, engine: Engine, pairs: Sequence[TokenPair], scales: Mapping[str, Tensor], reference: Tensor
    ) -> pa.Table:
        """The columns of level ``gradient`` in the run's own parameters and geometry, parts of them kept on the way."""
        # The scaling is kept as its root, and between two gradients it stands whole.
        squared = {name: scale.square() for name, scale in scales.items()} if self.settings.geometry != "sgd" else None
        full = FullProducts.of(self.model, engine.parameters, squared)
        columns = [column for column in COLUMNS if column.level == "gradient"]
        rows: list[Row] = []
        tokens = sum(pair.total for pair in pairs)
        self.watch.phase("products over all parameters", pairs=len(pairs), tokens=tokens)
        for index, begin in enumerate(range(0, len(pairs), self.settings.part_pairs)):
            part = pairs[begin : begin + self.settings.part_pairs]
            path = self.folder.folder / FEATURES / f"products-{index:05d}.safetensors"
            kept = read_tensors(path)
            if kept is None:
                found = list(full.pairs(part))
                logps = torch.tensor([two for _, two in found], dtype=torch.float64)
                self.folder.keep(path, {"products": torch.stack([one for one, _ in found]), "logps": logps})
                kept = read_tensors(path)
                assert kept is not None
            self.watch.advance(pairs=len(part), tokens=sum(pair.total for pair in part))
            for number, pair in enumerate(part):
                chosen, rejected = kept[0]["logps"][number].tolist()
                ref_chosen, ref_rejected = reference[begin + number].tolist()
                rows.append(
                    full_row(
                        kept[0]["products"][number],
                        list(engine.parameters),
                        (chosen, rejected),
                        (pair.chosen_tokens, pair.rejected_tokens),
                        self.train.loss.make(),
                        (ref_chosen, ref_rejected) if self.train.ref else None,
                    )
                )
        return table_of(rows, pa.schema([(column.name, column.type) for column in columns]))

    def _kept(self, table: pa.Table) -> NDArray[np.int64]:
        """The numbers of the pairs to train on."""
        rules = [Rule.parse(text) for text in self.train.filter]
        return np.setdiff1d(np.arange(len(table)), list(left_out(table, rules)))

    def _sample(self, pairs: int) -> NDArray[np.int64]:
        count = self.settings.sample_of(pairs)
        if count == pairs:
            return np.arange(pairs)
        self.watch.note(f"{count} of {pairs:,} pairs get gradient features; the others are stood in for by them.")
        return np.sort(np.random.default_rng(self.train.seed).permutation(pairs)[:count])

    def _starts(self, pairs: Sequence[TokenPair], table: pa.Table) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities of all pairs at the start and under the reference, ``[N, 2]``, and gradient norms."""
        names = table.column_names
        if "logp_chosen" in names:
            logps = torch.from_numpy(
                np.stack([numbers_of(table, f"logp_{side}") for side in ("chosen", "rejected")], 1)
            )
            gg = [torch.tensor(numbers_of(table, f"gg_{side}")) for side in ("chosen", "rejected")]
            norms: Tensor | None = torch.stack(gg, 1).clamp_min(0).sqrt()
        else:
            self.watch.phase("log-probabilities", pairs=len(pairs), tokens=sum(pair.total for pair in pairs))
            logps = paired_logps(self.model, pairs, batch_tokens=self.settings.batch_tokens, watch=self.watch)
            norms = None
        if self.train.loss.make().needs_grad_norms and norms is None:
            raise OptionError("--calibrated: it needs gradient norms; give --level unembedding.")
        if not self.train.ref:
            return logps, logps, norms
        return logps, self._reference_logps(), norms

    def _reference_logps(self, *, weighted: bool = False) -> Tensor:
        """Of all pairs under ``--ref``, ``[N, 2]``."""
        reference, spool = self.audited.reference, self.audited.ready.spool
        assert reference is not None
        key = reference_key(
            self.audited.ready.fingerprint,
            self.audited.encoder.fingerprint,
            reference.weights_fingerprint(),
            reference.dtype,
        )
        found = reference_logps(
            spool, reference, self.folder.folder, key, batch_tokens=4096, watch=self.watch, weighted=weighted
        )
        return torch.from_numpy(found)

    def _study(
        self,
        engine: Engine,
        pairs: Sequence[TokenPair],
        kept: NDArray[np.int64],
        sample: NDArray[np.int64],
        steps: Sequence[Step],
        whole: tuple[Tensor, Tensor],
        acting: tuple[Tensor, Tensor],
        norms: Tensor | None,
    ) -> tuple[Study, dict[str, Tensor]]:
        """The features of a run, and the optimiser's scaling.

        ``whole``: log-probabilities of all pairs at the start and under the reference, ``[N, 2]``; ``acting``: the same
        of what the loss pulls on.
        """
        (logps, reference), (acting_logps, acting_reference), moving = whole, acting, self.acting()
        some = covering(steps, kept, np.union1d(sample, self._acting(kept, sample)), seed=self.train.seed)
        at_kept = torch.from_numpy(kept)
        training_set = [moving[int(number)] for number in kept]
        batches = minibatches(
            some,
            training_set,
            self.train.loss.make(),
            acting_logps[at_kept],
            acting_reference[at_kept],
            None if norms is None else norms[at_kept],
        )
        counts = [training_set[int(position)].total for step in some for position in step.pairs]
        rows = [pairs[int(number)] for number in sample] + list(self.held)
        weighted = [moving[int(number)] for number in sample] if self.train.loss.token_weights else []
        responses = self._responses(pairs, sample) + _weighted_responses(weighted)
        # Moves go along pairs without features too: their tokens' rows want a scaling as well.
        scaled = self._responses(pairs, np.arange(len(pairs)))
        started = time.monotonic()
        scales, mean_square = scaling(
            engine,
            self.folder,
            batches,
            self.train.optimiser,
            self.train.max_grad_norm,
            self.watch,
            steps=len(some),
            totals=(len(counts), sum(counts)),
            responses=scaled,
        )
        self.seconds["second_moments"] = time.monotonic() - started
        self.seconds["training_run"] = (
            self.seconds["second_moments"] / max(len(counts), 1) * sum(len(step.pairs) for step in steps)
        )
        started = time.monotonic()
        found = measured_features(
            engine,
            self.folder,
            responses,
            scales,
            self.settings.sketch,
            2 * self.settings.part_pairs,
            self.watch,
        )
        self.seconds["features"] = time.monotonic() - started
        at, more = torch.from_numpy(sample), found.logps[2 * len(sample) :]
        if engine.products is not None and len(more):  # rounded products are good for gradients, not for the start
            more = response_logps(self.model, responses[2 * len(sample) :], batch_tokens=self.settings.batch_tokens)
        held = more[: 2 * len(self.held)].view(-1, 2)
        held_reference = held
        if self.train.ref and self.held:
            assert self.audited.reference is not None
            held_reference = paired_logps(self.audited.reference, self.held, batch_tokens=self.settings.batch_tokens)
        if weighted:
            more[-2 * len(sample) :] = acting_logps[at].flatten()
        lengths = [[float(pair.chosen_tokens), float(pair.rejected_tokens)] for pair in rows]
        counted = torch.tensor([pair.counted_tokens for pair in weighted], dtype=torch.float64)
        return (
            Study(
                pairs=len(pairs),
                sample=sample,
                products=found.products,
                norms=found.norms,
                logps=torch.cat([logps[at].flatten(), more]),
                reference=torch.cat([reference[at], held_reference]),
                tokens=torch.tensor(lengths, dtype=torch.float64),
                grad_norms=None if norms is None else torch.cat([norms[at], torch.full_like(held, torch.nan)]),
                held_out=len(self.held),
                mean_square=mean_square,
                sketch=self.settings.sketch,
                weighted=(acting_reference[at], counted) if weighted else None,
            ),
            scales,
        )

    def _responses(self, pairs: Sequence[TokenPair], sample: NDArray[np.int64]) -> list[Response]:
        """Those that have features: of the sample, of held-out pairs, and the texts."""
        rows = [pairs[int(number)] for number in sample] + list(self.held)
        found = [Response(pair.prompt, tokens) for pair in rows for tokens in (pair.chosen, pair.rejected)]
        return found + [Response(text.prompt, text.chosen) for text in self.text_tokens]

    def simulate(self, study: Study, kept: NDArray[np.int64]) -> Simulation:
        """The run on what the study knows."""
        started = time.monotonic()
        settings = self.settings
        found = simulated(
            study, self.train, kept, order=settings.order, orders=settings.orders, world_size=settings.world_size
        )
        self.seconds["simulation"] = time.monotonic() - started
        return found

    def _look(
        self,
        engine: Engine,
        study: Study,
        found: Simulation,
        pairs: Sequence[TokenPair],
        kept: NDArray[np.int64],
        scales: Mapping[str, Tensor],
    ) -> tuple[Study, Tensor | None, float]:
        """The study with what a look tells of curvature, the real changes there, ``[R]``, and how far on the way to the
        simulated end it was taken; where it tells nothing, the study as it is and None.

        Where the model bends more than it moves there (its log-probabilities fall off a cliff that training, which sees
        it coming, does not step over), the look is taken at half of the way, or half of that.

        Of a sample, pairs that have no features do their own part of the move: the sample's would do it to themselves.
        """
        path = self.folder.folder / f"{LOOK}.safetensors"
        kept_look = read_tensors(path)
        started = time.monotonic()
        if kept_look is None:
            kept_look = self.looked(engine, study, found, pairs, kept, scales)
            self.folder.keep(path, *kept_look)
        self.seconds["look"] = time.monotonic() - started
        return self.curved(study, kept_look)

    def curved(
        self, study: Study, kept_look: tuple[dict[str, Tensor], dict[str, float]]
    ) -> tuple[Study, Tensor | None, float]:
        """The study with the curvature that a look tells, the real changes there, ``[R]``, and how far it went; where
        it tells nothing, the study as it is and None."""
        tensors, numbers = kept_look
        size, looked = numbers["size"], tensors["logps"] - study.logps
        if not numbers["told"]:
            self.watch.note(
                f"Even {size:g} of the way to where the simulated run ends the model is far from linear: nothing can "
                "be counted. A lower learning rate gives a forecast, and probably a better model."
            )
            return study, None, size
        if size < 1:
            self.watch.note(
                f"Where the simulated run ends the model is far from linear: it was looked at {size:g} of the way. "
                "Take the counts with care."
            )
        bend = looked - size * tensors["linear"]
        return study.with_curvature(Curvature(bend, size**2 * numbers["length"])), looked, size

    def _acting(self, kept: NDArray[np.int64], sample: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of pairs outside the sample, as many as are in it, that the look moves along in the name of all
        outside."""
        others = np.setdiff1d(kept, sample)
        count = min(len(sample), len(others)) if self.settings.look else 0
        return np.sort(np.random.default_rng(self.train.seed).permutation(others)[:count])

    def movers(
        self, study: Study, found: Simulation, pairs: Sequence[TokenPair], kept: NDArray[np.int64]
    ) -> tuple[list[TokenPair], Tensor]:
        """The pairs that a look moves along, those of the sample first, and what each of their responses weighs in the
        move, ``[pairs, 2]``."""
        moving = self.acting() if self.train.loss.token_weights else pairs
        some = [moving[int(number)] for number in study.sample]
        w = found.coefficients.view(-1, 2)
        others, acting = np.setdiff1d(kept, study.sample), self._acting(kept, study.sample)
        if len(others):
            w = torch.cat([w, typical(found, study, acting) * (len(others) / len(acting))])
            some += [moving[int(number)] for number in acting]
        return some, w

    def looked(
        self,
        engine: Engine,
        study: Study,
        found: Simulation,
        pairs: Sequence[TokenPair],
        kept: NDArray[np.int64],
        scales: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Log-probabilities there, what the linear model says of the same move, its size and squared length."""
        some, w = self.movers(study, found, pairs, kept)
        self.watch.phase("look: where training goes", pairs=len(some), tokens=sum(pair.total for pair in some))
        if len(some) > len(study.sample):
            sketch = CountSketch(self.settings.sketch)
            factors = feature_factors(engine, self._responses(pairs, study.sample), scales, sketch)
            direction = torch.zeros(sketch.size, device=self.model.device)
            step = step_along(
                engine,
                some,
                w,
                scales,
                self.watch,
                fold=lambda name, grad: sketch.add(direction, name, 0, factors[name].folded(grad)),
            )
            del factors
            linear = changes_along(self.folder, direction.cpu(), len(study.logps), 2 * self.settings.part_pairs)
            length = float(direction.double().square().sum())
            # What orders differ in has averaged out of the move: each order's own is longer, and bends by as much.
            length = found.length if self.settings.order == "unknown" else length
        else:
            step = step_along(engine, some, w, scales, self.watch)
            linear = study.products.read(study.products.move(study.acting + torch.arange(w.numel()), w.flatten()))
            length = found.length
        n = len(study.sample)
        whole = [pairs[int(number)] for number in study.sample]
        for size in _LOOK_SIZES:
            after = self._read_at(engine, whole, some[:n] if study.weighted is not None else [], step, size)
            told = _nearly_linear(after - study.logps, size * linear)
            if told:
                break
        return {"logps": after, "linear": linear}, {"size": size, "length": length, "told": float(told)}

    def _read_at(
        self,
        engine: Engine,
        some: Sequence[TokenPair],
        weighted: Sequence[TokenPair],
        step: Mapping[str, Tensor],
        size: float,
    ) -> Tensor:
        """The real log-probabilities of all rows at a point along a step, ``[R]``: of the pairs of the sample, of the
        held-out ones and of the texts, then of the sample as the loss weights its tokens."""
        watched = [*some, *self.held]
        self.watch.phase("look: what is there", pairs=len(watched), tokens=sum(pair.total for pair in watched))
        with moved(engine.parameters, step, size):
            after = paired_logps(engine.model, watched, batch_tokens=engine.batch_tokens, watch=self.watch).flatten()
            others = [Response(text.prompt, text.chosen) for text in self.text_tokens]
            texts = response_logps(engine.model, others, batch_tokens=engine.batch_tokens)
            acting = paired_logps(engine.model, weighted, batch_tokens=engine.batch_tokens).flatten()
            return torch.cat([after, texts, acting])

    def _outside(
        self,
        engine: Engine,
        study: Study,
        found: Simulation,
        outcome: Outcome,
        pairs: Sequence[TokenPair],
        kept: NDArray[np.int64],
        scales: Mapping[str, Tensor],
        starts: Tensor,
    ) -> NDArray[np.float64] | None:
        """The push of pairs without features: a forward pass at ``θ₀ + ε P m``, ``m`` the protected responses' mean
        gradient, less the log-probabilities at the start (``[N, 2]``, of what the loss pulls on), and the step weights
        of the pairs of the sample that are trained about when they are. A pass at ``θ₀ − ε P m`` would take away what
        curvature adds, which at these changes of a fifth of a nat is far below the error of the step weights."""
        if study.complete:
            return None
        n = len(study.sample)
        numbers = np.setdiff1d(kept, study.sample)
        watched = [pairs[int(number)] for number in study.sample] + list(self.held)
        weights = torch.zeros(2 * len(watched), dtype=torch.float64)
        weights[outcome.protected_rows] = 1 / len(outcome.protected_rows)
        self.watch.phase("push: the protected", pairs=len(watched), tokens=sum(pair.total for pair in watched))
        step = step_along(engine, watched, weights.view(-1, 2), scales, self.watch)
        expected = study.products.read(study.products.move(outcome.protected_rows, weights[outcome.protected_rows]))
        size = 0.2 / max(float(expected[: 2 * n].abs().median()), 1e-30)
        acting = self.acting()
        some = [acting[int(number)] for number in numbers]
        self.watch.phase("push: all other pairs", pairs=len(some), tokens=sum(pair.total for pair in some))
        with moved(engine.parameters, step, size):
            after = paired_logps(engine.model, some, batch_tokens=engine.batch_tokens, watch=self.watch)
        toward = (after - starts[torch.from_numpy(numbers)]) / size
        expected_w = typical(found, study, numbers)
        push = np.full(study.pairs, np.nan)
        push[numbers] = (toward * expected_w).sum(1).numpy()
        return push

    def _keep(self, study: Study, kept: NDArray[np.int64]) -> None:
        """What simulations without a model need."""
        tensors = {
            "sample": torch.from_numpy(study.sample),
            "kept": torch.from_numpy(np.asarray(kept, dtype=np.int64)),
            "logps": study.logps,
            "reference": study.reference,
            "tokens": study.tokens,
        }
        if study.grad_norms is not None:
            tensors["grad_norms"] = study.grad_norms
        if study.weighted is not None:
            tensors["acting_reference"], tensors["acting_tokens"] = study.weighted
        if study.curvature is not None:
            tensors["curvature"] = study.curvature.nats
        if not isinstance(study.products, Features):
            tensors |= {"products": study.products.matrix, "norms": study.norms.matrix}  # type: ignore[attr-defined]
        numbers = {
            "pairs": study.pairs,
            "held_out": study.held_out,
            "mean_square": study.mean_square,
            "length": study.curvature.length if study.curvature else 0.0,
        }
        self.folder.keep(self.folder.folder / ENTANGLEMENT, tensors, numbers)

    def _summary(
        self,
        study: Study,
        found: Simulation,
        outcome: Outcome,
        looked: Tensor | None,
        size: float,
        kept: NDArray[np.int64],
        steps: Sequence[Step],
        pairs: Sequence[TokenPair],
        groups: Sequence[str],
    ) -> dict[str, Any]:
        n = len(study.sample)
        summary: dict[str, Any] = {
            "model": self.model.describe(),
            "data": {
                "pairs": study.pairs,
                "trained": len(kept),
                "sample": n,
                "trained_sample": int(np.isin(study.sample, kept).sum()),
                "held_out": study.held_out,
                "texts": len(groups),
            },
            "counts": study.curvature is not None,
            "end": end_record(study, found, outcome, kept, self.train.seed),
            "curve": curve_record(found.curve, groups),
            "cost": self._cost(),
            "assumed": not_simulated(self.train),
        }
        if self.settings.look:
            summary["look"] = {"step": found.steps, "size": size, "told": looked is not None}
        if looked is not None:
            rows = looked[: 2 * n].view(n, 2)
            summary["look"] |= {
                "displaced": float((rows[:, 0] < 0).double().mean()),
                "chosen": float(rows[:, 0].mean()),
                "rejected": float(rows[:, 1].mean()),
            }
        if self.held:
            summary["held_out"] = held_out_record(study, found, self.train.seed)
        if groups:
            summary["texts"] = group_means(found.changes[study.text_rows], groups)
        return summary

    def _cost(self) -> dict[str, Any]:
        stages = ("second_moments", "features", "look", "simulation")
        seconds = {name: round(self.seconds.get(name, 0.0), 3) for name in stages}
        total, run = sum(seconds.values()), self.seconds.get("training_run", 0.0)
        # Stages that an earlier run of the command did are not in it: then the ratio says nothing.
        whole = all(seconds[name] > 0.5 or name == "simulation" for name in stages[:2])
        return {
            "seconds": seconds,
            "training_run_seconds": round(run, 3),
            "training_runs": round(total / run, 3) if whole and run else None,
        }


def _weighted_responses(pairs: Sequence[TokenPair]) -> list[Response]:
    """Both responses of pairs with the weights of their tokens."""
    found = []
    for pair in pairs:
        n = pair.chosen_tokens
        found.append(Response(pair.prompt, pair.chosen, pair.weights[:n]))
        found.append(Response(pair.prompt, pair.rejected, pair.weights[n:]))
    return found


def _nearly_linear(changes: Tensor, linear: Tensor) -> bool:
    """Whether what curvature adds is on average no more than what the linear model says."""
    return bool((changes - linear).abs().mean() <= linear.abs().mean())


def typical(found: Simulation, study: Study, numbers: NDArray[np.int64]) -> Tensor:
    """Step weights that pairs without features are expected to get, ``[k, 2]``: the mean over the sixteen pairs of the
    sample that are trained nearest in time, or over all where the order is not known."""
    w = found.coefficients.view(-1, 2)
    mine = found.first_step[study.sample]
    trained = mine > 0
    if not trained.any():
        acting = w.abs().sum(1) > 0
        return w[acting].mean(0).expand(len(numbers), 2)
    order = np.argsort(mine[trained], kind="stable")
    sorted_steps, sorted_w = mine[trained][order], w[torch.from_numpy(np.flatnonzero(trained)[order])]
    sums = torch.cat([torch.zeros(1, 2, dtype=w.dtype), sorted_w.cumsum(0)])
    at = np.searchsorted(sorted_steps, found.first_step[numbers])
    low = np.clip(at - 8, 0, max(len(sorted_steps) - 16, 0))
    high = np.minimum(low + 16, len(sorted_steps))
    return (sums[high] - sums[low]) / torch.from_numpy(high - low).unsqueeze(1)

"""The whole of ``undertow train``: data, model and settings in, a trained model with its history out."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from undertow.data.tokens.encoder import PairEncoder, TokenPair
from undertow.filtering.rules import Rule, kept_pairs
from undertow.models.loading import (
    check_companion,
    check_max_length,
    load_config,
    load_model,
    load_tokenizer,
    quiet_transformers,
    shared_vocabulary,
)
from undertow.models.model import Model
from undertow.models.sources import ModelSource, find_model
from undertow.runs.preparation import Prepared, prepare
from undertow.runs.progress import Silent, Watcher
from undertow.runs.settings import Shard
from undertow.runs.skipped import write_skipped
from undertow.runs.targets import Target, check_targets, data_input, model_inputs
from undertow.scoring.token_weights import file_digest, token_weights, write_weights
from undertow.training.dataset import PairDataset
from undertow.training.folder import MODEL, SFT, TrainFolder, trained_model
from undertow.training.guards.language import Guards
from undertow.training.phases import fit_preferences
from undertow.training.processes import from_main_process
from undertow.training.reference import Logps, reference_key, reference_logps
from undertow.training.settings import TrainSettings
from undertow.training.sharding import check_sharding
from undertow.training.supervised import supervise
from undertow.training.tracking.tracker import Foretold
from undertow.version import __version__

Foretelling = Callable[
    [TrainSettings, Mapping[str, Any], int, Sequence[int], Sequence[int], Sequence[TokenPair]], Foretold
]
"""Of a run's settings, fingerprints and number of processes, the numbers of the pairs that it trains on and of the
probe pairs, and the held-out pairs: what a forecast says of them, step by step."""
_NO_MATTER = ("report_to", "log_every", "keep_checkpoints")


def train_to_folder(
    data: str | Path,
    model_name: str,
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    overwrite: bool = False,
    references: str | Path | None = None,
    foretelling: Foretelling | None = None,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Train a model on preference pairs into a folder, as ``undertow train`` does; returns what ``train.json`` holds.

    A run that was stopped goes on from its last complete checkpoint; a finished one is only read; another run's folder
    is refused. ``references`` is where reference log-probabilities are kept, for runs that share them; ``out`` where
    None. ``foretelling`` reads the forecast of ``settings.scores``.

    Raises:
        InputError: the data, the model, the options or the output folder cannot be used.
        DivergedError: the loss is no number any more.
    """
    settings, watch = settings or TrainSettings(), watch or Silent()
    processes = PartialState(cpu=settings.device == "cpu")  # one, or those of `accelerate launch`; each has its device
    if not processes.is_main_process:
        watch = Silent()
    if settings.scores and foretelling is None:
        raise ValueError("settings name a forecast, and nothing is given that reads it")
    folder = TrainFolder(Path(out))
    reading = data_input(data, settings.data.split, settings.data.name)
    check_targets([Target("--out", folder.folder, "run")], reading)
    source, encoder = check_training(model_name, Path(out), settings)
    pairs = settings.data.open(data)
    held_out = _held_out(settings, encoder, watch)
    arguments = {"data": str(data), "model": model_name, **settings.record()}
    with prepare(pairs.entries(), encoder, Shard(), settings.data.on_bad_row, watch) as ready:
        for note in pairs.notes:
            watch.note(note)
        known = _identity(ready, encoder, settings)
        if processes.is_main_process:
            folder.check_run(known, overwrite=overwrite)
        watch.phase("loading the model")
        run = _Run(
            *(ready, encoder, settings, folder.folder, Path(references or out), processes, watch),
            model=load_for_training(source.name, encoder, settings),
            reference=load_for_training(settings.ref, encoder, settings) if settings.ref else None,
            held_out=held_out,
        )
        identity = known | _weights(run.model, run.reference)
        with folder.held(identity, arguments, overwrite=overwrite, processes=processes):
            if folder.finished:
                watch.note(f"{out} is finished already: nothing was trained again.")
                return folder.summary()
            if foretelling is not None and settings.scores:
                run.foretell = functools.partial(foretelling, settings, identity, processes.num_processes)
            if processes.is_main_process:
                write_skipped(folder.folder, ready.bad)
            found = run.train()
            counts = {"pairs": ready.spool.pairs, "trained": found.pop("trained"), "skipped": ready.bad.count}
            summary: dict[str, Any] = {
                "undertow": __version__,
                "arguments": arguments,
                "fingerprints": identity,
                "tokens": ready.tokens,
                "data": {**pairs.describe(), **counts},
                **found,
            }
            if processes.is_main_process:
                folder.commit(summary)
            processes.wait_for_everyone()
            return summary


def check_training(model_name: str, out: Path, settings: TrainSettings) -> tuple[ModelSource, PairEncoder]:
    """Whether a run can be: all that can be told from its settings, without the data and without any weights.

    Returns:
        Where the model is, and what makes its tokens.

    Raises:
        InputError: the models, the options together with them, or the output folder cannot be used.
    """
    weights_identity(settings)  # refuses a file that is not there
    check_sharding(adapter=bool(settings.lora_r), guarded=Guards.parse(settings.guard).names)
    if PartialState(cpu=settings.device == "cpu").is_main_process:
        TrainFolder(out).check_writable()
    source = find_model(model_name)
    reference = find_model(settings.ref, option="--ref") if settings.ref else None
    check_targets([Target("--out", out, "run")], model_inputs(source, reference))
    config = load_config(source, trust_remote_code=settings.trust_remote_code)
    check_max_length(source, config, settings.tokens.max_length)
    encoder = PairEncoder(
        load_tokenizer(source, trust_remote_code=settings.trust_remote_code),
        settings.tokens,
        vocabulary=shared_vocabulary(source, config, reference, trust_remote_code=settings.trust_remote_code),
    )
    if reference:
        _check_reference(reference, encoder, settings)
    return source, encoder


def is_main_process() -> bool:
    """Whether this process speaks for all that train together."""
    return bool(PartialState().is_main_process)


@dataclass(slots=True)
class _Run:
    """What the phases of a run share. It alone holds the models, so that one that is done with leaves the memory."""

    ready: Prepared
    encoder: PairEncoder
    settings: TrainSettings
    out: Path
    references: Path
    processes: PartialState
    watch: Watcher
    model: Model
    reference: Model | None
    held_out: Sequence[TokenPair] = ()
    foretell: Callable[[Sequence[int], Sequence[int], Sequence[TokenPair]], Foretold] | None = None

    def train(self) -> dict[str, Any]:
        """All phases, and the trained model on disk; what they came to."""
        spool = self.ready.spool
        kept = self._kept()
        found: dict[str, Any] = {"trained": len(kept)}
        if self.settings.sft_epochs:
            found["sft"] = self._supervised(kept)
        self._weigh()
        logps = self._reference_logps(self.reference or self.model)
        self.reference = None
        with quiet_transformers():
            dataset = PairDataset(spool, logps, kept)
            fitted = fit_preferences(
                spool,
                dataset,
                self.model,
                self.settings,
                self.out,
                self.watch,
                held_out=self.held_out,
                foretell=self.foretell,
                writes=self.processes.is_main_process,
            )
        self._save(fitted.weights, self.out)
        return found | fitted.found

    def _weigh(self) -> None:
        """Let the tokens count by what the loss says, by the model that training on pairs begins with."""
        by, spool = self.settings.loss.token_weights, self.ready.spool
        if by:
            weights = from_main_process(self.processes, lambda: token_weights(spool, by, self.model, self.watch))
            spool.weights = weights
            if self.processes.is_main_process:
                write_weights(self.out, spool, weights)

    def _kept(self) -> Sequence[int]:
        """The numbers of the pairs to train on."""
        rules = [Rule.parse(text) for text in self.settings.filter]
        spool, loss = self.ready.spool, self.settings.loss.unweighted.make()
        if not rules:
            return range(spool.pairs)
        return from_main_process(
            self.processes,
            lambda: kept_pairs(spool, self.model, loss, rules, self.out, self.watch, reference=self.reference),
        )

    def _supervised(self, kept: Sequence[int]) -> dict[str, Any]:
        """The first phase, after which the model is what it came to: trained now, or as an earlier run left it."""
        folder = self.out / SFT
        done = trained_model(folder)
        found: dict[str, Any] = {"epochs": self.settings.sft_epochs}
        if done is None:
            with quiet_transformers():
                fitted = supervise(self.ready.spool, kept, self.model, self.settings, folder, self.watch)
            self._save(fitted.weights, folder)
            found |= fitted.found
            done = trained_model(folder)
        self.processes.wait_for_everyone()
        # Read back in any case, so that a run that was stopped here goes on with the very same model.
        self.model = load_for_training(str(done), self.encoder, self.settings)
        return found

    def _reference_logps(self, reference: Model) -> Logps:
        key = reference_key(
            self.ready.fingerprint, self.encoder.fingerprint, reference.weights_fingerprint(), reference.dtype
        )
        spool, folder, watch = self.ready.spool, self.references, self.watch
        return from_main_process(
            self.processes,
            lambda: reference_logps(spool, reference, folder, key, batch_tokens=4096, watch=watch, weighted=True),
        )

    def _save(self, weights: dict[str, Tensor] | None, folder: Path) -> None:
        """The model with its tokenizer, whole or not at all, by the main process; ``weights`` where the model's own are
        sharded."""
        if self.processes.is_main_process:
            staging = folder / f".{MODEL}.tmp"
            shutil.rmtree(staging, ignore_errors=True)
            with quiet_transformers():
                self.model.hf.save_pretrained(staging, state_dict=weights)
            self.encoder.tokenizer.save_pretrained(staging)
            shutil.rmtree(folder / MODEL, ignore_errors=True)
            staging.replace(folder / MODEL)
        self.processes.wait_for_everyone()


def _held_out(settings: TrainSettings, encoder: PairEncoder, watch: Watcher) -> list[TokenPair]:
    """The pairs that are only looked at, as tokens."""
    if not settings.held_out:
        return []
    pairs = settings.data.of_another_file().open(settings.held_out)
    with prepare(pairs.entries(), encoder, Shard(), settings.data.on_bad_row, watch) as ready:
        return list(ready.spool.read(0, ready.spool.pairs))


def load_for_training(name: str, encoder: PairEncoder, settings: TrainSettings) -> Model:
    """The model in float32: weights that small steps add up in."""
    return load_model(
        name,
        device=settings.device,
        dtype="float32",
        trust_remote_code=settings.trust_remote_code,
        packed=settings.packed,
        tokenizer=encoder.tokenizer,
    )


def _check_reference(reference: ModelSource, encoder: PairEncoder, settings: TrainSettings) -> None:
    check_companion(
        reference,
        encoder.tokenizer,
        named=f"--ref {reference.name}",
        whose="the trained model's",
        max_length=settings.tokens.max_length,
        trust_remote_code=settings.trust_remote_code,
    )


def _identity(ready: Prepared, encoder: PairEncoder, settings: TrainSettings) -> dict[str, Any]:
    """Everything the trained weights depend on besides the weights that training begins with."""
    options = {name: value for name, value in settings.record().items() if name not in _NO_MATTER}
    return {
        "data": ready.fingerprint,
        "tokenizer and template": encoder.fingerprint,
        **{f"option {name}": value for name, value in options.items()},
        **weights_identity(settings),
    }


def weights_identity(settings: TrainSettings) -> dict[str, Any]:
    """What the weights of tokens depend on besides the option, where they are of a file."""
    digest = file_digest(settings.loss.token_weights) if settings.loss.token_weights else None
    return {"token weights": digest} if digest else {}


def _weights(model: Model, reference: Model | None) -> dict[str, Any]:
    """The weights that training begins with, and those it is held against."""
    return {
        "model weights": model.weights_fingerprint(),
        "reference weights": reference.weights_fingerprint() if reference else None,
    }

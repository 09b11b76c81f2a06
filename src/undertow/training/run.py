"""The whole of ``undertow train``: data, model and settings in, a trained model with its history out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer_utils import set_seed

from undertow.data.tokens import PairEncoder, TokenPair
from undertow.errors import OutputError
from undertow.files import lock, output_errors, write_json
from undertow.models.loading import check_max_length, load_config, load_model, load_tokenizer, quiet_transformers
from undertow.models.model import Model
from undertow.models.sources import find_model
from undertow.scoring.prepare import Prepared, prepare
from undertow.scoring.settings import Shard
from undertow.scoring.shards import differences
from undertow.scoring.spool import TokenSpool
from undertow.scoring.watch import Silent, Watcher
from undertow.training.dataset import PairDataset, collate
from undertow.training.forward import train_on_pairs
from undertow.training.guard import Guards
from undertow.training.guarding import GuardCallback, inside_limits
from undertow.training.progress import ProgressCallback
from undertow.training.pulled import most_pulled
from undertow.training.reference import Logps, reference_key, reference_logps
from undertow.training.selecting import Rule, kept_pairs
from undertow.training.settings import TrainSettings
from undertow.training.tracking import DisplacementCallback, Tracker, words_to_ids
from undertow.training.trainer import PreferenceTrainer, complete_checkpoints
from undertow.version import __version__

SETTINGS, SUMMARY = "settings.json", "train.json"
OPTIMISERS = {"rmsprop": "rmsprop", "adamw": "adamw_torch"}


def train_to_folder(
    data: str | Path,
    model_name: str,
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    overwrite: bool = False,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Train a model on preference pairs into a folder, as ``undertow train`` does; returns what ``train.json`` holds.

    A run that was stopped goes on from its last complete checkpoint; a finished one is only read; another run's folder
    is refused.

    Raises:
        InputError: the data, the model, the options or the output folder cannot be used.
        DivergedError: the loss is no number any more.
    """
    settings, watch, out = settings or TrainSettings(), watch or Silent(), Path(out)
    processes = PartialState(cpu=settings.device == "cpu")  # one, or those of `accelerate launch`; each has its device
    if not processes.is_main_process:
        watch = Silent()
    source = find_model(model_name)
    check_max_length(
        source, load_config(source, trust_remote_code=settings.trust_remote_code), settings.tokens.max_length
    )
    encoder = PairEncoder(load_tokenizer(source, trust_remote_code=settings.trust_remote_code), settings.tokens)
    pairs = settings.data.open(data)
    with prepare(pairs.entries(), encoder, Shard(), settings.data.on_bad_row, watch) as ready:
        watch.phase("loading the model")
        model = _load(source.name, encoder, settings)
        identity = _identity(ready, encoder, model, settings)
        with _folder(out, identity, data, model_name, overwrite, processes):
            if (out / SUMMARY).exists():
                watch.note(f"{out} is finished already: nothing was trained again.")
                return json.loads((out / SUMMARY).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
            with processes.main_process_first():  # the others find what the first has written
                reference = _reference(ready, encoder, model, settings, out, watch)
                kept = _kept(ready.spool, model, settings, out, watch)
            with quiet_transformers():
                history = _train(ready.spool, PairDataset(ready.spool, reference, kept), model, settings, out, watch)
            summary = {
                "undertow": __version__,
                "arguments": {"data": str(data), "model": model_name, **settings.record()},
                "fingerprints": identity,
                "data": {
                    "format": pairs.format,
                    "pairs": ready.spool.pairs,
                    "trained": len(kept),
                    "skipped": ready.bad.count,
                },
                **history,
            }
            if processes.is_main_process:
                with quiet_transformers():
                    model.hf.save_pretrained(out / "model")
                encoder.tokenizer.save_pretrained(out / "model")
                write_json(out / SUMMARY, summary)
            processes.wait_for_everyone()
            return summary


def is_main_process() -> bool:
    """Whether this process speaks for all that train together."""
    return bool(PartialState().is_main_process)


def _kept(spool: TokenSpool, model: Model, settings: TrainSettings, out: Path, watch: Watcher) -> Sequence[int]:
    """The numbers of the pairs to train on."""
    rules = [Rule.parse(text) for text in settings.filter]
    return kept_pairs(spool, model, settings.loss.make(), rules, out, watch) if rules else range(spool.pairs)


def _train(
    spool: TokenSpool, dataset: PairDataset, model: Model, settings: TrainSettings, out: Path, watch: Watcher
) -> dict[str, Any]:
    """The training itself; what it came to."""
    set_seed(settings.seed)
    groups = words_to_ids(settings.watch, model.tokenizer)
    main = is_main_process()
    tracker = Tracker(_probe(spool, settings.probe), model.tokenizer, out, groups, writes=main)
    hf = _trainable(model, settings)
    train_on_pairs(model)
    tracking = DisplacementCallback(model, tracker, every=settings.track_every)
    guard = GuardCallback(
        Guards.parse(settings.guard),
        tracker,
        out,
        pulled=lambda share: most_pulled(spool, model, settings.loss.make(), share, guard.mitigation.dropped),
        tell=watch.note,
        writes=main,
    )
    trainer = PreferenceTrainer(
        loss=settings.loss.make(),
        guard=guard,
        model=hf,
        args=_arguments(settings, out, model),
        train_dataset=dataset,
        data_collator=collate,
        processing_class=model.tokenizer,  # saved with every checkpoint, so that each is a model that can be loaded
        callbacks=[tracking, guard] if settings.track_every else [],
    )
    tracking.trainer = trainer
    trainer.remove_callback(PrinterCallback)  # standard output is for results
    trainer.add_callback(ProgressCallback(watch, spool.tokens / spool.pairs))
    done = complete_checkpoints(out)
    if done:
        watch.note(f"going on from {done[-1].name}.")
        guard.restore(done[-1])
    result = trainer.train(resume_from_checkpoint=str(done[-1]) if done else None)
    found = {"steps": result.global_step, "loss": result.training_loss, "firings": guard.firings}
    if guard.mitigation.rollback:
        found |= _roll_back(trainer, tracker, out, watch)
    if settings.lora_r:
        hf.merge_and_unload()  # the adapter itself stands in the checkpoints
    return {**found, "tracked": tracker.rows[-1] if tracker.rows else {}}


def _roll_back(trainer: PreferenceTrainer, tracker: Tracker, out: Path, watch: Watcher) -> dict[str, Any]:
    """Put the weights of the last checkpoint inside the limits back. Going on from there would lead to the same place,
    since all that decides a run is the same: it ends there."""
    inside = [path for path in complete_checkpoints(out) if inside_limits(path)]
    if not inside:
        watch.note("guard: no checkpoint is inside the limits; the weights stay as they are.")
        return {"rolled_back_to": None}
    trainer._load_from_checkpoint(str(inside[-1]))
    step = int(inside[-1].name.rpartition("-")[2])
    watch.note(f"guard: rolled back to {inside[-1].name}.")
    tracker.rows = [row for row in tracker.rows if row["step"] <= step] or tracker.rows[:1]
    return {"rolled_back_to": step}


def _trainable(model: Model, settings: TrainSettings) -> Any:
    """The model with the weights that shall learn: all, or those of a low-rank adapter."""
    if not settings.lora_r:
        return model.hf.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_r,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model.hf, config)


def _arguments(settings: TrainSettings, out: Path, model: Model) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.lr,
        optim=OPTIMISERS[settings.optimiser],
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=_mixed(settings, model),
        logging_steps=settings.log_every,
        save_steps=settings.save_every,
        save_total_limit=settings.keep_checkpoints,
        report_to=settings.report_to,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=model.device.type == "cpu",
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
    )


def _mixed(settings: TrainSettings, model: Model) -> bool:
    """bfloat16 products over float32 weights, where asked for or, under ``auto``, where the processor is faster so."""
    from undertow.models.device import choose_dtype

    return choose_dtype(settings.dtype, model.device) == torch.bfloat16


def _load(name: str, encoder: PairEncoder, settings: TrainSettings) -> Model:
    """The model in float32: weights that small steps add up in."""
    return load_model(
        name,
        device=settings.device,
        dtype="float32",
        trust_remote_code=settings.trust_remote_code,
        packed=settings.packed,
        tokenizer=encoder.tokenizer,
    )


def _reference(
    ready: Prepared, encoder: PairEncoder, model: Model, settings: TrainSettings, out: Path, watch: Watcher
) -> Logps:
    """Those of ``--ref``, or of the model as it is now; the reference is not needed after that."""
    reference = _load(settings.ref, encoder, settings) if settings.ref else model
    key = reference_key(ready.fingerprint, encoder.fingerprint, reference.weights_fingerprint(), reference.dtype)
    return reference_logps(ready.spool, reference, out, key, batch_tokens=4096, watch=watch)


def _probe(spool: TokenSpool, count: int) -> Sequence[TokenPair]:
    """A fixed sample of the pairs: evenly over the data, whatever the seed."""
    count = min(count, spool.pairs)
    return [pair for n in range(count) for pair in spool.read(n * spool.pairs // count, n * spool.pairs // count + 1)]


def _identity(ready: Prepared, encoder: PairEncoder, model: Model, settings: TrainSettings) -> dict[str, Any]:
    """Everything the trained weights depend on."""
    options = {name: value for name, value in settings.record().items() if name not in _NO_MATTER}
    return {
        "data": ready.fingerprint,
        "tokenizer and template": encoder.fingerprint,
        "model weights": model.weights_fingerprint(),
        "options": hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:16],
        **{f"option {name}": json.loads(json.dumps(value, default=str)) for name, value in options.items()},
    }


_NO_MATTER = ("report_to", "log_every", "keep_checkpoints")


@contextlib.contextmanager
def _folder(
    out: Path,
    identity: dict[str, Any],
    data: str | Path,
    model: str,
    overwrite: bool,
    processes: PartialState,
) -> Iterator[None]:
    """Hold the run's folder: made, or found to be this run's. The main process does; the others wait for it."""
    with contextlib.ExitStack() as held:
        if processes.is_main_process:
            with output_errors(out):
                out.mkdir(parents=True, exist_ok=True)
            held.enter_context(contextlib.closing(lock(out / ".lock")))
            _take_over(out, identity, data, model, overwrite)
        processes.wait_for_everyone()
        yield


def _take_over(out: Path, identity: dict[str, Any], data: str | Path, model: str, overwrite: bool) -> None:
    path = out / SETTINGS
    there = json.loads(path.read_text(encoding="utf-8"))["identity"] if path.exists() and not overwrite else None
    if there is None:
        if not path.exists() and any(not file.name.startswith(".") for file in out.iterdir()):
            raise OutputError(f"{out} is not empty and not a training run's folder. Name a new folder with --out.")
        _clear(out)
        write_json(path, {"undertow": __version__, "identity": identity, "data": str(data), "model": model})
    elif there != identity:
        found = differences(there, identity, "there", "here")
        raise OutputError(
            f"{out} holds another run:\n{found}\nChoose another --out, or start over in this one with --overwrite."
        )


def _clear(out: Path) -> None:
    """Remove an earlier run's own files."""
    (out / SUMMARY).unlink(missing_ok=True)
    for name in ("tracking.parquet", "tracking-start.npz"):
        (out / name).unlink(missing_ok=True)
    for path in [*out.glob("checkpoint-*"), out / "model"]:
        shutil.rmtree(path, ignore_errors=True)

"""One phase of training: a trainer put together from settings, run, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import set_seed

from undertow.data.tokens.encoder import TokenPair
from undertow.models.device import choose_dtype, peak_memory_mb
from undertow.models.model import Model
from undertow.runs.progress import Watcher
from undertow.runs.token_file import TokenFile
from undertow.training.dataset import PairDataset, collate
from undertow.training.forward import train_on_pairs, with_whole_weights
from undertow.training.guards.callback import GuardCallback, inside_limits
from undertow.training.guards.language import Guards
from undertow.training.guards.pull import most_pulled
from undertow.training.progress import ProgressCallback
from undertow.training.settings import TrainSettings
from undertow.training.sharding import sharded
from undertow.training.tracking.callback import DisplacementCallback
from undertow.training.tracking.gradients import FullProbe, GradientProbe
from undertow.training.tracking.tracker import Foretold, Tracker, words_to_ids
from undertow.training.trainer import PairTrainer, PreferenceTrainer, SupervisedTrainer, complete_checkpoints

OPTIMISERS = {"rmsprop": "rmsprop", "adamw": "adamw_torch", "sgd": "sgd"}
# transformers has renamed it within its fifth version, and warns where it is called by the old name.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in fields(TrainingArguments)}
)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a phase came to, for its record, and where the weights are sharded, all of them on the main process."""

    found: dict[str, Any]
    weights: dict[str, Tensor] | None


def fit_preferences(
    spool: TokenFile,
    dataset: PairDataset,
    model: Model,
    settings: TrainSettings,
    out: Path,
    watch: Watcher,
    *,
    held_out: Sequence[TokenPair] = (),
    foretell: Callable[[Sequence[int], Sequence[int], Sequence[TokenPair]], Foretold] | None = None,
    writes: bool,
) -> Fitted:
    """Train on pairs, tracked and guarded; the model then holds the weights that training came to.

    ``held_out``: pairs that are looked at beside. ``foretell``: of the numbers of the pairs that are trained on and of
    those that are looked at, and of the held-out pairs, what a forecast says at each step. ``writes``: whether this
    process writes; of several that train together, one does.

    Raises:
        DivergedError: the loss is no number any more.
    """
    loss = settings.loss.make()
    groups = words_to_ids(settings.watch, model.tokenizer, model.vocabulary)
    probe = spread_evenly(settings.probe_pairs, spool.pairs)
    tracker = Tracker(
        [pair for n in probe for pair in spool.read(n, n + 1)],
        model.tokenizer,
        out,
        groups,
        held_out=held_out,
        foretold=foretell(dataset.kept, probe, held_out) if foretell is not None else None,
        displaced_by=settings.displaced_by,
        writes=writes,
    )
    gradients = None
    if settings.track_gradients:
        full = FullProbe(spread_evenly(settings.gradient_pairs, len(probe)), _products(settings, model))
        gradients = GradientProbe(loss, dataset.reference_logps(probe), None if sharded() else full)
    tracking = DisplacementCallback(model, tracker, every=settings.track_every, gradients=gradients)
    guard = GuardCallback(
        Guards.parse(settings.guard),
        tracker,
        out,
        pulled=lambda share, dropped: with_whole_weights(
            model, lambda whole: most_pulled(spool, dataset.kept, whole, loss, share, dropped)
        ),
        tell=watch.note,
        writes=writes,
    )
    trainer = PreferenceTrainer(
        loss=loss,
        guard=guard,
        callbacks=[tracking, guard] if settings.track_every else [],
        **_common(dataset, model, settings, out),
    )
    tracking.trainer = trainer
    found = _fit(trainer, spool, out, watch, guard) | {"firings": guard.firings}
    if guard.mitigation.rollback:
        found |= _roll_back(trainer, tracking, out, watch)
    return _fitted(trainer, {**found, "tracked": tracker.rows[-1] if tracker.rows else {}})


def fit_supervised(
    spool: TokenFile,
    dataset: PairDataset,
    model: Model,
    settings: TrainSettings,
    out: Path,
    watch: Watcher,
) -> Fitted:
    """The phase before: train on the chosen responses alone; the model then holds the weights that it came to."""
    trainer = SupervisedTrainer(**_common(dataset, model, settings, out))
    found = _fit(trainer, spool, out, watch, None)
    return _fitted(trainer, found)


def _common(dataset: PairDataset, model: Model, settings: TrainSettings, out: Path) -> dict[str, Any]:
    """What both phases' trainers get."""
    set_seed(settings.seed)
    hf = trainable(model, settings)
    train_on_pairs(model)
    return {
        "model": hf,
        "args": _arguments(settings, out, model),
        "train_dataset": dataset,
        "data_collator": collate,
        "processing_class": model.tokenizer,  # saved with every checkpoint, so that each is a model that can be loaded
    }


def _fit(
    trainer: PairTrainer, spool: TokenFile, out: Path, watch: Watcher, guard: GuardCallback | None
) -> dict[str, Any]:
    """From the start, or from the last checkpoint that stands whole."""
    trainer.remove_callback(PrinterCallback)  # standard output is for results
    trainer.add_callback(ProgressCallback(watch, spool.tokens / spool.pairs))
    done = complete_checkpoints(out)
    if done:
        watch.note(f"going on from {done[-1].name}.")
        if guard is not None:
            guard.restore(done[-1])
    started = time.monotonic()
    if done and guard is not None and guard.ended:
        steps, mean = _take_up(trainer, guard.tracker, done[-1]), float("nan")
    else:
        result = trainer.train(resume_from_checkpoint=str(done[-1]) if done else None)
        steps, mean = result.global_step, result.training_loss
    # transformers' own mean is over the steps since the last start only.
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": steps,
        "loss": sum(losses) / len(losses) if losses else mean,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_mb": peak_memory_mb(trainer.args.device),
    }


def _take_up(trainer: PairTrainer, tracker: Tracker, checkpoint: Path) -> int:
    """Be where a guard had ended the run, when the process was killed before the run was put away; the steps taken."""
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    steps = int(trainer.state.global_step)
    tracker.resume(steps)
    return steps


def _roll_back(trainer: PairTrainer, tracking: DisplacementCallback, out: Path, watch: Watcher) -> dict[str, Any]:
    """Put the weights of the last checkpoint inside the limits back. Going on from there would lead to the same place,
    since all that decides a run is the same: it ends there."""
    inside = [path for path in complete_checkpoints(out) if inside_limits(path)]
    if not inside:
        watch.note("guard: no checkpoint is inside the limits; the weights stay as they are.")
        return {"rolled_back_to": None}
    trainer._load_from_checkpoint(str(inside[-1]))
    step = int(inside[-1].name.rpartition("-")[2])
    watch.note(f"guard: rolled back to {inside[-1].name}.")
    tracking.tracker.go_back(step, tracking.found(step))
    return {"rolled_back_to": step}


def spread_evenly(count: int, of: int) -> Sequence[int]:
    """A fixed sample: ``count`` of the numbers below ``of``, at even distances, whatever the seed."""
    count = min(count, of)
    return [n * of // count for n in range(count)]


def trainable(model: Model, settings: TrainSettings) -> Any:
    """Make those of the model's weights learn that shall: all, or those of a low-rank adapter."""
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


def _fitted(trainer: PairTrainer, found: dict[str, Any]) -> Fitted:
    """With an adapter merged into its model (the adapter itself stands in the checkpoints), or the shards gathered."""
    unwrapped = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(unwrapped, "merge_and_unload"):
        unwrapped.merge_and_unload()
    return Fitted(found, trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None)


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
        **{_CHECKPOINTING: settings.gradient_checkpointing},
        bf16=_products(settings, model) is not None,
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


def _products(settings: TrainSettings, model: Model) -> torch.dtype | None:
    """The type of the products in training, over float32 weights, where it is another one."""
    return torch.bfloat16 if choose_dtype(settings.dtype, model.device) == torch.bfloat16 else None

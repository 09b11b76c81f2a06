"""Where the probability goes, for training with TRL's trainers (or any other of transformers).

trainer = DPOTrainer(
    model, args=args, train_dataset=data, callbacks=[DisplacementCallback(ut.read_pairs("prefs.jsonl", limit=64))]
)
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from undertow.data.pairs import BadRow, Pair
from undertow.data.tokens.encoder import PairEncoder, Template, TokenPair, TokenSettings
from undertow.errors import BadRowsError, DataError, ModelError, OptionError, OutputError
from undertow.files import without_nonfinite, write_json
from undertow.maths.losses import DPO, PairLoss
from undertow.models.checks import check_head
from undertow.models.families import find_backbone, find_head
from undertow.models.model import Model
from undertow.training.phases import spread_evenly
from undertow.training.settings import probed
from undertow.training.sharding import refuse_sharded_weights
from undertow.training.tracking import callback as tracking
from undertow.training.tracking.gradients import FullProbe, GradientProbe
from undertow.training.tracking.look import evaluating, look
from undertow.training.tracking.tracker import RECORD, Tracker, words_to_ids
from undertow.version import __version__

__all__ = ["DisplacementCallback"]

_ARGUMENTS = (
    "loss_type",
    "beta",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "seed",
)
"""What is written down of the trainer's own arguments."""
_PLAIN_DPO = {"label_smoothing": 0, "use_weighting": False, "f_divergence_type": "reverse_kl", "ld_alpha": None}


class DisplacementCallback(tracking.DisplacementCallback):
    """Looks at a fixed set of pairs before training, every ``every`` steps, and after the last step.

    Each look is an entry ``displacement/chosen_logp``, ``displacement/displaced``, … of the trainer's log: in
    ``trainer.state.log_history`` and in every logger of ``report_to``. The whole history, with the tokens that gain
    most, is in ``rows``. The model that is trained is looked at as it stands, one sequence at a time and in the type
    of its weights (outside of automatic mixed precision): its attention, its modes, its gradients and the random
    numbers of training are left as they are, so that the trained weights are the same with and without.

    Every process of a data-parallel run looks at all pairs; the first one logs and writes.

    Args:
        probe_pairs: the pairs to look at, as ``undertow.read_pairs`` gives them; a few dozen tell enough.
        every: steps of the optimiser from look to look.
        watch: groups of words, such as ``{"refusal": ["No", "Sorry"]}``: the change of the probability that the next
            token begins one of them, where the two responses part.
        folder: where the history is kept up to date, so that a run that goes on from a checkpoint has no gaps, and
            `undertow view` shows it on a page: ``tracking.parquet``, a row for each look, ``probe.parquet``, a row for
            each pair, and ``tracking.json``, what was asked for. None keeps the history in memory.
        max_length: prompt and response together have at most so many tokens; the end of a longer response is cut.
        displaced_by: a chosen response counts as displaced when it fell by more than so many nats.
        template: ``chat`` is the tokenizer's chat template, ``plain`` is none, ``auto`` is ``chat`` where there is one.
            TRL lays out prompts that are plain text without one: give ``plain`` for these.
        track_gradients: at every look also the exact inner products of the pairs' gradients in the unembedding matrix,
            and the share of pairs of each case, by the run's loss and its reference model; and the same over all
            trained parameters, of as many of the pairs as cost about a twentieth of the time.
        loss: the run's loss, one of ``undertow.losses``, for ``track_gradients``; None where it is TRL's plain DPO,
            whose ``beta`` is then read from the trainer's arguments.

    Raises:
        OptionError: an argument cannot be used, the weights are sharded among processes, or it is not known which loss
            or which reference the gradients are of.
        DataError: when training begins: there is no pair, or one cannot be used.
        OutputError: when training goes on: the folder holds the history of other pairs.
        ModelError: when training begins: the model's log-probabilities cannot be had from its hidden embeddings.
    """

    model: Model
    tracker: Tracker

    def __init__(
        self,
        probe_pairs: Iterable[Pair],
        *,
        every: int = 25,
        watch: Mapping[str, Sequence[str]] | None = None,
        folder: str | Path | None = None,
        max_length: int = 1024,
        displaced_by: float = 0.0,
        template: Template = "auto",
        track_gradients: bool = False,
        loss: PairLoss | None = None,
    ) -> None:
        if every < 1:
            raise OptionError(f"every={every}: expected 1 or more steps.")
        if not 0 <= displaced_by < math.inf:
            raise OptionError(f"displaced_by={displaced_by}: expected a number of nats, 0 or more.")
        self._pairs = list(probe_pairs)
        self._settings = TokenSettings(max_length=max_length, template=template)
        self._watch = dict(watch or {})
        self._displaced_by = displaced_by
        self._folder = None if folder is None else Path(folder)
        self.every = every
        self.gradients = None
        self._track_gradients, self._loss = track_gradients, loss
        self.latest: dict[str, float] = {}
        self.trainer: Any = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history: a row for each look, the oldest first; empty before training."""
        return self.tracker.rows if hasattr(self, "tracker") else []

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Get to know the model and the tokenizer, and look before the first step or where a run goes on."""
        refuse_sharded_weights("DisplacementCallback", fsdp=bool(getattr(args, "fsdp", None)))
        if model is None:
            raise ModelError("DisplacementCallback: the trainer has no model.")
        tokenizer = _tokenizer(processing_class)
        self.trainer = _calling_trainer()
        self.model = _as_it_stands(model, tokenizer)
        if self._track_gradients:
            trained = self.every * args.per_device_train_batch_size * args.gradient_accumulation_steps
            numbers = spread_evenly(probed(trained, True)[1], len(self._pairs))
            self.gradients = GradientProbe(self._loss or _loss_of(args), full=FullProbe(numbers))
        folder = self._folder if state.is_world_process_zero else None
        groups = words_to_ids(self._watch, tokenizer, self.model.vocabulary)
        self.tracker = Tracker(self._encode(tokenizer), tokenizer, folder, groups, displaced_by=self._displaced_by)
        self._write_record(args, finished=False)
        if state.global_step:
            self.tracker.resume(state.global_step)
            self._check_history()
            if not self.tracker.rows:
                self._look(state, control)
        else:  # whatever the folder holds is of another run
            self._look(state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look where something else has ended the run before its last step, and write down that it ended."""
        super().on_train_end(args, state, control)
        self._write_record(args, finished=True)

    def _gradients(self, step: int) -> GradientProbe | None:
        if self.gradients is None:
            return None
        reference = getattr(self.trainer, "ref_model", None)
        if reference is not None:
            if self.gradients.reference is None or getattr(self.trainer.args, "sync_ref_model", False):
                self.gradients = replace(self.gradients, reference=self._logps_of(reference))
        elif self.tracker.first is not None:  # the model as it was before the first step
            self.gradients = replace(self.gradients, reference=self.tracker.first.logps)
        elif step and self.gradients.loss.needs_reference:
            raise OptionError(
                "DisplacementCallback: track_gradients needs the log-probabilities before the first step, and this run "
                "goes on without its history. Give the folder that it has written, or the trainer a ref_model."
            )
        return super()._gradients(step)

    def _logps_of(self, reference: nn.Module) -> Tensor:
        model = _as_it_stands(reference, self.model.tokenizer)
        with evaluating(model.hf):
            return look(model, self.tracker.probe).logps

    def _check_history(self) -> None:
        first, count = self.tracker.first, len(self.tracker.probe)
        if first is not None and len(first.logps) != count:
            raise OutputError(
                f"{self._folder} holds the history of {len(first.logps)} pairs, here are {count}: go on with the same "
                "pairs, or name a new folder."
            )

    def _write_record(self, args: TrainingArguments, *, finished: bool) -> None:
        """What was asked for, for the page that `undertow view` makes of the folder."""
        if self.tracker.folder is None:
            return
        of_trainer = {name: getattr(args, name) for name in _ARGUMENTS if hasattr(args, name)}
        arguments = {
            "model": self.model.name,
            "loss": _loss_name(self._loss, args),
            "trainer": type(self.trainer).__name__ if self.trainer is not None else None,
            **of_trainer,
            "probe_pairs": len(self._pairs),
            "track_every": self.every,
            "displaced_by": self._displaced_by,
            "watch": self._watch,
            "max_length": self._settings.max_length,
            "template": self._settings.template,
            "track_gradients": self._track_gradients,
        }
        record = {"undertow": __version__, "finished": finished, "arguments": arguments}
        write_json(self.tracker.folder / RECORD, json.loads(json.dumps(without_nonfinite(record), default=str)))

    def _encode(self, tokenizer: PreTrainedTokenizerBase) -> list[TokenPair]:
        encoder = PairEncoder(tokenizer, self._settings)
        found = [encoder.encode(pair) for pair in self._pairs]
        bad = [entry for entry in found if isinstance(entry, BadRow)]
        if bad:
            raise BadRowsError(bad, len(bad))
        if not found:
            raise DataError("DisplacementCallback: there is no pair to look at; give at least one.")
        return [entry for entry in found if isinstance(entry, TokenPair)]

    def _tell(self, state: TrainerState, values: dict[str, float]) -> None:
        if self.trainer is not None:
            # Past TRL's own ``log``, which would add its means since the last entry here and then forget them.
            Trainer.log(self.trainer, values)
        else:
            state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})


def _as_it_stands(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Model:
    """The model in training, without its wrappers, checked; its attention is not touched."""
    hf = extract_model_from_parallel(model)
    if any(getattr(config, "is_prompt_learning", False) for config in getattr(hf, "peft_config", {}).values()):
        raise ModelError(
            f"{type(hf).__name__}: an adapter that learns a prompt lives outside of the model, whose log-probabilities "
            "it then does not tell. Adapters inside of it, such as LoRA, can be tracked."
        )
    if hasattr(hf, "get_base_model"):  # PEFT: its layers stand inside of the transformers model
        hf = hf.get_base_model()
    if not isinstance(hf, PreTrainedModel):
        raise ModelError(f"{type(hf).__name__}: expected a causal language model of transformers.")
    found = Model(hf.name_or_path, hf, tokenizer, find_backbone(hf), find_head(hf), hf.device, hf.dtype)
    with evaluating(hf):
        check_head(found)
    return found


def _loss_of(args: TrainingArguments) -> PairLoss:
    """TRL's plain DPO loss, from its arguments.

    Raises:
        OptionError: the trainer's loss is another one.
    """
    kinds, beta = getattr(args, "loss_type", None), getattr(args, "beta", None)
    plain = all(getattr(args, name, usual) == usual for name, usual in _PLAIN_DPO.items())
    if kinds != ["sigmoid"] or beta is None or not plain:
        raise OptionError(
            f"DisplacementCallback: track_gradients needs the run's loss, and the trainer's (loss_type={kinds!r}) is "
            "not TRL's plain DPO. Give it, such as loss=undertow.losses.AveragedIPO(beta=0.1)."
        )
    return DPO(float(beta))


def _loss_name(given: PairLoss | None, args: TrainingArguments) -> str | None:
    """The run's loss, in words: ours where it is known to be one of ours, else the trainer's own names for it."""
    try:
        return repr(given or _loss_of(args))
    except OptionError:
        kinds = getattr(args, "loss_type", None)
        return ", ".join(map(str, kinds)) if isinstance(kinds, list) else kinds


def _tokenizer(processing_class: Any) -> PreTrainedTokenizerBase:
    found = processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
    if not isinstance(found, PreTrainedTokenizerBase):
        raise ModelError(
            f"DisplacementCallback: the trainer has no tokenizer (found {type(found).__name__}); "
            "give it one as processing_class."
        )
    return found


def _calling_trainer() -> Trainer | None:
    """The trainer whose event this is; None in another loop.

    Trainers hand themselves to no callback, and their loggers stand before all others in the list: what a callback
    adds to the log reaches them by the trainer's own ``log`` alone. So the trainer is looked for among the callers.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(caller := frame.f_locals.get("self"), Trainer):
            return caller
        frame = frame.f_back
    return None

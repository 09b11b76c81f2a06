"""What a training run was asked to do: frozen, checked on creation, written beside the output."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from undertow.data.reading import parse_columns
from undertow.data.tokens.encoder import TokenSettings
from undertow.errors import OptionError
from undertow.filtering.rules import Rule
from undertow.maths.losses import names as loss_names
from undertow.models.device import check_device, check_dtype
from undertow.runs.folder import SETTINGS, read_arguments, read_command
from undertow.runs.names import TRAIN
from undertow.runs.option_names import nearest
from undertow.runs.recipes import Arm, Entry, read_recipe
from undertow.runs.settings import DataSettings, LossSettings
from undertow.training.guards.language import Guards
from undertow.training.tracking.names import GRADIENT_NAMES, tracked_names

Optimiser = Literal["rmsprop", "adamw", "sgd"]
FEWEST_PROBED, MOST_PROBED = 8, 64
FEWEST_FULL = 4
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""Those of transformers that need nothing but the number of steps."""
REPORTERS = {
    "none": (),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
"""What can be reported to, and the packages of which one must be installed for it."""
_LARGEST_SEED = 2**32 - 1  # of numpy's generator


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """A training run's options besides data, model and output folder.

    ``batch_size`` counts pairs on each process and step; ``accumulate`` such batches make one step of the optimiser.
    ``ref`` names the reference model; where None, the model as it is before training on pairs: with ``sft_epochs`` the
    model after these, which train on the chosen responses alone at ``sft_lr`` (``lr`` where 0). ``lora_r`` of 0 trains
    all weights. ``max_steps`` of 0 means as many as ``epochs`` takes. ``probe`` of 0 means :attr:`probe_pairs`.
    A chosen response of a probe pair counts as displaced when it fell by more than ``displaced_by`` nats.
    ``held_out`` is a file of pairs that are looked at and not trained on; ``scores`` the folder of a forecast of this
    run, which is tracked beside.
    """

    loss: LossSettings = field(default_factory=LossSettings)
    ref: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    sft_epochs: float = 0.0
    sft_lr: float = 0.0
    epochs: float = 1.0
    max_steps: int = 0
    batch_size: int = 4
    accumulate: int = 1
    lr: float = 1e-6
    optimiser: Optimiser = "rmsprop"
    schedule: str = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_r: int = 0
    lora_alpha: int = 0
    gradient_checkpointing: bool = False
    track_every: int = 25
    probe: int = 0
    track_gradients: bool = False
    displaced_by: float = 0.0
    held_out: str | None = None
    scores: str | None = None
    watch: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    guard: tuple[str, ...] = ()
    filter: tuple[str, ...] = ()
    save_every: int = 100
    keep_checkpoints: int = 2
    log_every: int = 1
    report_to: str = "none"
    device: str = "auto"
    dtype: str = "auto"
    packed: bool = True
    seed: int = 0
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        loss = self.loss.make()
        if loss.needs_scores:
            raise OptionError(f"--loss {self.loss.name}: it needs numbers that training does not have for a pair.")
        self._check_numbers()
        self._check_choices()
        self._check_tracking()
        for text in self.filter:
            Rule.parse(text)

    def _check_numbers(self) -> None:
        for name, least in (
            ("batch_size", 1),
            ("accumulate", 1),
            ("sft_epochs", 0),
            ("sft_lr", 0),
            ("max_steps", 0),
            ("warmup_steps", 0),
            ("weight_decay", 0),
            ("lora_r", 0),
            ("lora_alpha", 0),
            ("track_every", 0),
            ("probe", 0),
            ("displaced_by", 0),
            ("save_every", 1),
            ("keep_checkpoints", 1),
            ("log_every", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise OptionError(f"{_option(name)} {value}: expected {least} or more.")
        for name in ("epochs", "lr", "max_grad_norm"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise OptionError(f"{_option(name)} {value}: expected a number above 0.")
        if self.seed > _LARGEST_SEED:
            raise OptionError(f"--seed {self.seed}: expected {_LARGEST_SEED} or less.")
        if self.lora_alpha and not self.lora_r:
            raise OptionError(f"--lora-alpha {self.lora_alpha}: it belongs to a LoRA adapter; give --lora-r its rank.")

    def _check_choices(self) -> None:
        for name, choices in (
            ("optimiser", get_args(Optimiser)),
            ("schedule", SCHEDULES),
            ("report_to", tuple(REPORTERS)),
        ):
            value = getattr(self, name)
            if value not in choices:
                close = nearest(str(value), choices)
                hint = f" Did you mean {close}?" if close else ""
                raise OptionError(f"{_option(name)} {value}: expected one of {', '.join(choices)}.{hint}")
        packages = REPORTERS[self.report_to]
        if packages and not any(map(_installed, packages)):
            raise OptionError(f"--report-to {self.report_to}: it is not installed; pip install {packages[0]}")
        check_device(self.device)
        check_dtype(self.dtype)

    def _check_tracking(self) -> None:
        if self.guard and not self.track_every:
            raise OptionError("--guard: it watches what is tracked; give --track-every a number of steps.")
        if self.track_gradients and not self.track_every:
            raise OptionError("--track-gradients: it is part of tracking; give --track-every a number of steps.")
        for name, words in self.watch.items():
            _check_words(name, words)
        guards = Guards.parse(self.guard)
        if self.loss.token_weights:
            self._check_weighted(guards)
        for condition in (condition for state in guards.states for condition in state.guard.conditions):
            if condition.name in GRADIENT_NAMES and not self.track_gradients:
                raise OptionError(f"--guard: {condition.name} is tracked with --track-gradients only; give that too.")
            group = condition.name.removeprefix("watch/")
            if group != condition.name and group not in self.watch:
                there = f"the groups are: {', '.join(self.watch)}" if self.watch else "there is none"
                raise OptionError(
                    f"--guard: {condition.name} needs the group of words {group!r}, and {there}; "
                    f"give --watch {group}=WORD,WORD."
                )
        for name in ("held_out", "scores"):
            if getattr(self, name) and not self.track_every:
                raise OptionError(f"{_option(name)}: it is part of tracking; give --track-every a number of steps.")
        if self.scores and self.sft_epochs:
            raise OptionError(
                "--scores: a forecast begins where training on pairs begins, which --sft-epochs trains first. Train "
                "that phase by itself, forecast from OUT/sft/model, and train from there."
            )
        guards.check(
            tracked_names(
                self.watch,
                gradients=self.track_gradients,
                held_out=bool(self.held_out),
                foretold=bool(self.scores),
            )
        )

    def _check_weighted(self, guards: Guards) -> None:
        """Refuse what takes a pair's log-probabilities for those that the loss is of."""
        if self.track_gradients:
            raise OptionError("--track-gradients: it does not know --token-weights; give one of the two.")
        if any(state.guard.action.kind == "drop" for state in guards.states):
            raise OptionError("--guard: drop does not know --token-weights; take stop, rollback or sft=NUMBER.")

    @property
    def probe_pairs(self) -> int:
        """How many pairs a look is at: as asked for, or as :func:`probed` says."""
        return self.probe or probed(self.track_every * self.batch_size * self.accumulate, self.track_gradients)[0]

    @property
    def gradient_pairs(self) -> int:
        """Of how many of them a look with gradients multiplies those over all trained parameters."""
        return min(probed(self.track_every * self.batch_size * self.accumulate, True)[1], self.probe_pairs)

    def record(self) -> dict[str, Any]:
        """The settings as JSON values."""
        values = asdict(self)
        values["loss"] = repr(self.loss.make())
        reading = values.pop("data")
        return {**values, "reading": reading}


def probed(trained: int, gradients: bool) -> tuple[int, int]:
    """How many pairs looks are at, and of how many of them they multiply gradients over all trained parameters, so that
    looking stays below a tenth of the time.

    A step on a pair costs about three times a look at it, and about as much as a look with its gradients. So looking
    costs 8% of the time, or 4% and another 5% for gradients; less where ``MOST_PROBED`` is reached, and more where the
    fewest are.

    Args:
        trained: pairs that are trained on from one look to the next.
        gradients: whether they are looked at.
    """
    fitting = round((0.12 if gradients else 0.24) * trained)
    full = round(0.04 * trained) if gradients else 0
    return min(max(fitting, FEWEST_PROBED), MOST_PROBED), min(max(full, FEWEST_FULL), MOST_PROBED)


def option_defaults() -> dict[str, Any]:
    """Every option that :func:`from_options` reads, and its default: for commands that have only some of them."""
    values: dict[str, Any] = {}
    for part in (DataSettings, TokenSettings, TrainSettings):
        values |= {f.name: None if f.default is MISSING else f.default for f in fields(part)}
    del values["data"], values["tokens"]
    loss = LossSettings()
    own = {"loss": loss.name, "beta": loss.beta, "loss_args": None, "calibrated": False, "token_weights": None}
    return values | {"model": "", **own}


def recorded_options(record: Mapping[str, Any], place: str) -> dict[str, Entry]:
    """The options that a run's settings were made of, from how :meth:`TrainSettings.record` tells of them.

    Args:
        record: as it was read from a file; what it does not name has its default.
        place: of that file, for messages.

    Raises:
        OptionError: it holds what this version does not know.
    """
    known = option_defaults()
    loss = LossSettings.recorded(str(record.get("loss", "DPO()")))
    values: dict[str, Any] = {"loss": loss.name, "calibrated": loss.calibrated, "token_weights": loss.token_weights}
    values |= {"beta": loss.beta} if loss.beta is not None else {}
    values |= {"loss_args": dict(loss.args)} if loss.args else {}
    for part in (record.get("reading"), record.get("tokens"), record):
        values |= {name: value for name, value in (part or {}).items() if name not in ("loss", "reading", "tokens")}
    for name in ("data", "engine"):  # of the command, not of the settings
        values.pop(name, None)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise OptionError(f"{place}: there is no option {unknown[0]!r}; a newer version of Undertow has written it.")
    return {name: Entry(value, place) for name, value in values.items()}


def read_config(path: Path) -> dict[str, Entry]:
    """Options of training from a YAML file, or from the folder of a training run.

    Raises:
        OptionError: it is neither, or holds what this version does not know.
    """
    if not path.is_dir():
        return read_recipe(path)
    if read_command(path) != TRAIN:
        raise OptionError(f"--config {path}: expected a YAML file, or the folder of an `undertow train` run.")
    return recorded_options(read_arguments(path), f"--config {path / SETTINGS}")


def from_options(
    options: Mapping[str, Any],
    typed: Iterable[str] = (),
    recipe: Mapping[str, Entry] | None = None,
    arm: Arm | None = None,
) -> tuple[str, TrainSettings]:
    """The model's name and the settings, from the command line's options, a recipe and an arm of a sweep.

    What was typed wins over the recipe, and the arm over both.

    Args:
        options: every option there is, and its value on the command line.
        typed: the names of those that were given there.
        recipe: what :func:`undertow.runs.recipes.read_recipe` found.
        arm: one of those that :func:`undertow.runs.recipes.read_arms` found.

    Raises:
        OptionError: an option cannot be used (the message says in which file and line it stands, where in one), or
            nothing names a model.
    """
    read, typed = dict(recipe or {}), set(typed)
    for name, entry in (*read.items(), *(arm or {}).items()):
        _check_name(name, entry, options)
    entries = {name: entry for name, entry in read.items() if name not in typed} | (arm or {})
    values = dict(options)
    try:
        for name, entry in entries.items():
            values[name] = _typed(name, entry.value)
        return _settings(values)
    except OptionError as error:
        place = _place(error, entries, values)
        if place is None:
            raise
        raise OptionError(f"{place}: {str(error).removeprefix('--')}") from error


def typed_options(arm: Arm) -> dict[str, Any]:
    """An arm's options by name, numbers as numbers.

    Raises:
        OptionError: there is no such option, or its value is of another kind; the message says where it stands.
    """
    found = {}
    for name, entry in arm.items():
        _check_name(name, entry, option_defaults())
        try:
            found[name] = _texts(name, entry.value) if name == "filter" else _typed(name, entry.value)
        except OptionError as error:
            raise OptionError(f"{entry.place}: {str(error).removeprefix('--')}") from error
    return found


def _settings(values: dict[str, Any]) -> tuple[str, TrainSettings]:
    """From every option's value, taken out one by one."""
    take = values.pop
    model = take("model")
    if not model:
        raise OptionError("--model: say which model to train, here or in the recipe (--config).")
    return str(model), TrainSettings(
        loss=LossSettings(
            take("loss"), take("beta"), _loss_args(take("loss_args")), take("calibrated"), take("token_weights")
        ),
        data=DataSettings(
            format=take("format"),
            columns=_columns(take("columns")),
            split=take("split"),
            name=take("name"),
            limit=take("limit"),
            on_bad_row=take("on_bad_row"),
            empty_prompt=take("empty_prompt"),
        ),
        tokens=TokenSettings(max_length=take("max_length"), eot=take("eot"), template=take("template")),
        watch=_groups(take("watch")),
        held_out=_path(take("held_out")),
        scores=_path(take("scores")),
        guard=_texts("guard", take("guard")),
        filter=_texts("filter", take("filter")),
        **values,
    )


def _check_name(name: str, entry: Entry, known: Iterable[str]) -> None:
    known = sorted(known)
    if name not in known:
        close = nearest(name, known)
        hint = f" (did you mean {close.replace('_', '-')}?)" if close else f"; options: {', '.join(known)}"
        raise OptionError(f"{entry.place}: there is no option {name!r}{hint}.")


def _place(error: OptionError, entries: Mapping[str, Entry], values: Mapping[str, Any]) -> str | None:
    """Where the option that an error is about stands, if in a file."""
    about = [error.option or ""]
    if error.option == "loss" and values.get("loss", "dpo") in loss_names():  # one of its parameters, then
        about = ["loss_args", "beta", "loss"]
    return next((entries[name].place for name in about if name in entries), None)


_KINDS = {f.name: str(f.type) for kind in (TokenSettings, DataSettings, TrainSettings) for f in fields(kind)}
_KINDS |= {"model": "str", "loss": "str", "beta": "float | None", "calibrated": "bool", "token_weights": "str | None"}
_OF_SEVERAL = frozenset({"loss_args", "watch", "guard", "filter", "columns"})


def _typed(name: str, value: Any) -> Any:
    """A value of a file, as what the option is: a number, a truth value or text."""
    if name in _OF_SEVERAL:
        return value
    kind = _KINDS[name]
    if value is None and kind.endswith("| None"):
        return None
    kind = kind.removesuffix(" | None")
    expected = {"float": "a number", "int": "a whole number", "bool": "true or false"}.get(kind, "text")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "float" and number:
        return float(value)
    if kind == "int" and number and (isinstance(value, int) or value.is_integer()):  # 1e3 is a whole number too
        return int(value)
    if isinstance(value, bool if kind == "bool" else str) and kind not in ("float", "int"):
        return value
    hint = "; put it in quotes" if expected == "text" and isinstance(value, int | float) else ""
    raise OptionError(f"{_option(name)} {_shown(value)}: expected {expected}{hint}.")


def _loss_args(given: Any) -> Mapping[str, object]:
    """From ``["alpha=0.2"]`` of the command line, or a mapping or text of a recipe."""
    if isinstance(given, Mapping):
        return {name.replace("-", "_"): value for name, value in given.items()}
    return LossSettings.parse_args(_texts("loss_args", given))


def _columns(given: Any) -> Mapping[str, str] | None:
    """From ``"prompt=…,chosen=…"``, or a mapping of a recipe."""
    if given is None or isinstance(given, str):
        return parse_columns(given) if given else None
    if not isinstance(given, Mapping) or not all(isinstance(column, str) for column in given.values()):
        raise OptionError(f"--columns {_shown(given)}: expected names of columns, such as {{prompt: question, …}}.")
    return given


def _path(given: Any) -> str | None:
    return None if given is None else str(given)


def _texts(name: str, given: Any) -> tuple[str, ...]:
    """One text or a list of texts."""
    listed = [given] if isinstance(given, str) else given or []
    for text in listed if isinstance(listed, list | tuple) else [listed]:
        if not isinstance(text, str):
            raise OptionError(f"{_option(name)} {_shown(text)}: expected text, or a list of texts.")
    return tuple(listed)


def _groups(given: Any) -> dict[str, tuple[str, ...]]:
    """``["refusal=No,Sorry"]`` of the command line, or a mapping of lists of a recipe, as word groups."""
    if isinstance(given, Mapping):
        return {
            name: _words(words) if isinstance(words, str) else tuple(words) if isinstance(words, list) else (words,)
            for name, words in given.items()
        }
    found: dict[str, tuple[str, ...]] = {}
    for text in _texts("watch", given):
        name, equals, words = (piece.strip() for piece in text.partition("="))
        if not (name and equals and _words(words)):
            raise OptionError(f"--watch {text}: expected NAME=WORD,WORD,…, for example yes=Yes,Sure.")
        if name in found:
            raise OptionError(f"--watch {text}: the group {name} is given twice.")
        found[name] = _words(words)
    return found


def _words(text: str) -> tuple[str, ...]:
    """``"No, Sorry"`` as words."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _check_words(name: str, words: object) -> None:
    """Refuse a group that is no list of words, such as the number 1 or the truth value true among them."""
    listed = words if isinstance(words, tuple | list) else [words] if words else []
    for word in listed:
        if not isinstance(word, str) or not word.strip() or isinstance(words, str):
            kind = {bool: " is a truth value", int: " is a number", float: " is a number"}.get(type(word), "")
            raise OptionError(
                f"--watch {name}: {_shown(word)}{kind}; expected a list of words, in quotes where they are not plain "
                'text: ["Yes", "1"].'
            )
    if not listed:
        raise OptionError(f"--watch {name}: the group has no words.")


def _installed(package: str) -> bool:
    """Whether a package can be imported. A folder of that name where we stand, as wandb leaves one, is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def _shown(value: object) -> str:
    """A value as it stands in a file."""
    return (
        {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else repr(value)
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")

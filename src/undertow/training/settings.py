"""What a training run was asked to do: frozen, checked on creation, written beside the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from undertow.data.reading import parse_columns
from undertow.data.tokens.encoder import TokenSettings
from undertow.errors import OptionError
from undertow.filtering.rules import Rule
from undertow.runs.settings import DataSettings, LossSettings
from undertow.training.guards.language import Guards

Optimiser = Literal["rmsprop", "adamw"]
FEWEST_PROBED, MOST_PROBED = 8, 64
REPORTERS = ("none", "tensorboard", "wandb", "trackio")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """A training run's options besides data, model and output folder.

    ``batch_size`` counts pairs on each process and step; ``accumulate`` such batches make one step of the optimiser.
    ``ref`` names the reference model; where None, the model as it is before training on pairs: with ``sft_epochs`` the
    model after these, which train on the chosen responses alone at ``sft_lr`` (``lr`` where 0). ``lora_r`` of 0 trains
    all weights. ``max_steps`` of 0 means as many as ``epochs`` takes. ``probe`` of 0 means :attr:`probe_pairs`.
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
        for name, least in (
            ("batch_size", 1),
            ("accumulate", 1),
            ("sft_epochs", 0),
            ("sft_lr", 0),
            ("max_steps", 0),
            ("warmup_steps", 0),
            ("lora_r", 0),
            ("lora_alpha", 0),
            ("track_every", 0),
            ("probe", 0),
            ("save_every", 1),
            ("keep_checkpoints", 1),
            ("log_every", 1),
        ):
            if getattr(self, name) < least:
                raise OptionError(f"{_option(name)} {getattr(self, name)}: expected {least} or more.")
        for name in ("epochs", "lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{_option(name)} {getattr(self, name)}: expected a number above 0.")
        if self.optimiser not in get_args(Optimiser):
            raise OptionError(f"--optimiser {self.optimiser}: expected one of {', '.join(get_args(Optimiser))}.")
        if self.guard and not self.track_every:
            raise OptionError("--guard: it watches what is tracked; give --track-every a number of steps.")
        if self.track_gradients and not self.track_every:
            raise OptionError("--track-gradients: it is part of tracking; give --track-every a number of steps.")
        Guards.parse(self.guard)
        for text in self.filter:
            Rule.parse(text)
        if self.report_to not in REPORTERS:
            raise OptionError(f"--report-to {self.report_to}: expected one of {', '.join(REPORTERS)}.")

    @property
    def probe_pairs(self) -> int:
        """How many pairs a look is at: as asked for, or as many as keep looking below a tenth of the time.

        A step on a pair costs about three times a look at it, so looking costs ``probe / (3 · track_every · pairs a
        step)`` of the time: 8% by this number, less where ``MOST_PROBED`` is reached.
        """
        fitting = round(0.24 * self.track_every * self.batch_size * self.accumulate)
        return self.probe or min(max(fitting, FEWEST_PROBED), MOST_PROBED)

    def record(self) -> dict[str, Any]:
        """The settings as JSON values."""
        values = asdict(self)
        values["loss"] = repr(self.loss.make())
        reading = values.pop("data")
        return {**values, "reading": reading}


def from_options(
    options: Mapping[str, Any],
    typed: Iterable[str],
    recipe: str | Path | None = None,
    arm: Mapping[str, Any] | None = None,
) -> tuple[str, TrainSettings]:
    """The model's name and the settings, from the command line's options, a recipe and an arm of a sweep.

    What was typed wins over the recipe, and the arm over both.

    Raises:
        OptionError: an option or the recipe cannot be used, or neither names a model.
    """
    values = dict(options)
    if recipe is not None:
        found = read_recipe(recipe, frozenset(values))
        values |= {name: value for name, value in found.items() if name not in set(typed)}
    if arm:
        _check_names(arm, values, "--sweep")
        values |= arm
    model = values.pop("model")
    if not model:
        raise OptionError("--model: say which model to train, here or in the recipe (--config).")
    take = values.pop
    try:
        columns = take("columns")
        settings = TrainSettings(
            loss=LossSettings(take("loss"), take("beta"), _loss_args(take("loss_args")), take("calibrated")),
            data=DataSettings(
                format=take("format"),
                columns=parse_columns(columns) if isinstance(columns, str) else columns,
                split=take("split"),
                name=take("name"),
                limit=take("limit"),
                on_bad_row=take("on_bad_row"),
            ),
            tokens=TokenSettings(max_length=take("max_length"), eot=take("eot"), template=take("template")),
            watch=_groups(take("watch")),
            guard=_texts(take("guard")),
            filter=_texts(take("filter")),
            **{name: _number(name, value) for name, value in values.items()},
        )
    except TypeError as error:  # a recipe's value of the wrong kind
        raise OptionError(f"--config {recipe}: {error}.") from error
    return str(model), settings


def read_recipe(path: str | Path, known: frozenset[str]) -> dict[str, Any]:
    """A YAML file of options, named as on the command line, with dashes or underscores.

    Raises:
        OptionError: it cannot be read, is no mapping, or names an option that does not exist.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--config {path}: it cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise OptionError(f"--config {path}{where}: it is not YAML.") from error
    if not isinstance(values, dict):
        raise OptionError(f"--config {path}: expected options and their values, such as `lr: 1e-6`.")
    named = {str(name).replace("-", "_"): value for name, value in values.items()}
    _check_names(named, known, f"--config {path}")
    return named


def _check_names(named: Iterable[str], known: Iterable[str], where: str) -> None:
    known = sorted(known)
    for name in named:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else f"; options: {', '.join(known)}"
            raise OptionError(f"{where}: there is no option {name!r}{hint}.")


def _loss_args(given: Any) -> Mapping[str, object]:
    """From ``["alpha=0.2"]`` of the command line, or a mapping or text of a recipe."""
    if isinstance(given, Mapping):
        return given
    return LossSettings.parse_args([given] if isinstance(given, str) else given or [])


def _texts(given: Any) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(map(str, given or ()))


def _groups(given: Any) -> dict[str, tuple[str, ...]]:
    """``["refusal=No,Sorry"]`` of the command line, or a mapping of lists of a recipe, as word groups."""
    if isinstance(given, Mapping):
        return {str(name): tuple(map(str, words)) for name, words in given.items()}
    found: dict[str, tuple[str, ...]] = {}
    for text in given or []:
        name, equals, words = (piece.strip() for piece in str(text).partition("="))
        listed = tuple(word.strip() for word in words.split(",") if word.strip())
        if not (name and equals and listed):
            raise OptionError(f"--watch {text}: expected NAME=WORD,WORD,…, for example yes=Yes,Sure.")
        found[name] = listed
    return found


def _number(name: str, value: Any) -> Any:
    """YAML reads ``1e-6`` as text: the fields that are numbers are read again."""
    kind = {f.name: str(f.type) for f in fields(TrainSettings)}.get(name)
    if kind in ("float", "int") and isinstance(value, str):
        try:
            return float(value) if kind == "float" else int(value)
        except ValueError:
            raise OptionError(f"{_option(name)} {value}: expected a number.") from None
    return value


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")

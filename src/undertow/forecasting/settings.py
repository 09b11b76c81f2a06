"""What a forecast was asked to do: the training run to simulate, and how; frozen, checked on creation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from undertow.auditing.settings import DEFAULT_LEVEL, AuditSettings, check_geometry
from undertow.errors import OptionError
from undertow.runs.option_names import nearest
from undertow.runs.recipes import Entry
from undertow.training.order import Order
from undertow.training.settings import TrainSettings, from_options, option_defaults, recorded_options

__all__ = ["FEWEST", "MOST", "ForecastSettings", "Protect", "not_simulated"]

Protect = Literal["displaced", "all", "held-out"]
ALL_UP_TO, FEWEST, MOST = 500, 160, 2000
"""Pairs: all of them up to the first number; of more data a sample, of so many at least and at most."""
_COST_OF_A_PAIR = 6.0
"""Training steps on one pair that a pair of a sample costs: 2 its features, 1 its second moments, 1 and a third its
part of the look, and 2 the pair outside the sample that the look takes besides."""
_SHARE_OF_TRAINING = 1 / 3
_LARGEST_SKETCH = 2**24
_RECORDED = (
    *(
        "level",
        "geometry",
        "pull",
        "by",
        "order",
        "orders",
        "world_size",
        "sample",
        "sketch",
        "look",
        "protect",
        "held_out",
    ),
    *("texts", "batch_tokens", "part_pairs"),
)
"""A forecast's own options, beside those of training."""


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """A forecast's options besides data, model and output folder.

    ``train`` is the run to simulate, with the same options and defaults as that run. ``order``: the batches that
    training will draw (``train``), those of TRL's trainers (``trl``), or ``unknown``: the mean over ``orders`` random
    ones. ``sample`` of 0 takes all pairs; None as many as :meth:`sample_of` says. ``sketch`` is how many numbers stand
    for a gradient. ``protect``: whose mean counts
    for a pair's push. ``geometry``: at level ``gradient``, of plain inner products (``sgd``) or of those that the
    optimiser's scaling at the start makes of them (``rmsprop``).
    """

    train: TrainSettings = field(default_factory=TrainSettings)
    level: str = DEFAULT_LEVEL
    geometry: str = "sgd"
    pull: bool = False
    by: tuple[str, ...] = ()
    order: Order = "train"
    orders: int = 20
    world_size: int = 1
    sample: int | None = None
    sketch: int = 131_071
    look: bool = True
    protect: Protect = "displaced"
    held_out: str | None = None
    texts: str | None = None
    batch_tokens: int = 1536
    part_pairs: int = 32

    def __post_init__(self) -> None:
        self.audit_settings()  # refuses what it must
        check_geometry(self.geometry, self.level)
        if self.geometry == "rmsprop" and self.train.optimiser == "sgd":
            raise OptionError("--geometry rmsprop: --optimiser sgd has no second moments; leave one of them away.")
        for name, choices in (("order", get_args(Order)), ("protect", get_args(Protect))):
            if getattr(self, name) not in choices:
                raise OptionError(f"--{name} {getattr(self, name)}: expected one of {', '.join(choices)}.")
        for name, least in (("orders", 1), ("world_size", 1), ("sketch", 64), ("part_pairs", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {least} or more.")
        if self.sketch > _LARGEST_SKETCH:
            raise OptionError(f"--sketch {self.sketch}: expected {_LARGEST_SKETCH} or less.")
        if self.sample is not None and (self.sample < 0 or self.sample == 1):
            raise OptionError(f"--sample {self.sample}: expected 0 (all pairs), or 2 or more.")
        if self.protect == "held-out" and not self.held_out:
            raise OptionError("--protect held-out: it protects the pairs of --held-out FILE; give that too.")
        if self.train.sft_epochs:
            raise OptionError(
                "--sft-epochs: a forecast begins at the model that preference training begins at. Train the phase "
                "first (`undertow train --sft-epochs …` keeps its model in OUT/sft/model), and forecast from there."
            )

    @property
    def own_products(self) -> bool:
        """Whether the columns of level ``gradient`` are the forecast's and not the audit's, which knows plain products
        over all of the model's parameters only."""
        return self.level == "gradient" and (self.geometry != "sgd" or self.train.lora_r > 0)

    def audit_settings(self) -> AuditSettings:
        """Those of the scores that stand beside."""
        train = self.train
        return AuditSettings(
            level="unembedding" if self.own_products else self.level,
            loss=train.loss.unweighted,  # an audit is of whole responses
            ref=train.ref,
            pull=self.pull,
            data=train.data,
            tokens=train.tokens,
            device=train.device,
            dtype="float32",  # the weights that small steps add up in
            packed=train.packed,
            seed=0,  # no score depends on it
            trust_remote_code=train.trust_remote_code,
            by=self.by,
        )

    def sample_of(self, pairs: int) -> int:
        """How many of so many pairs get features.

        All where asked for, or up to 500; of more, what costs a third of the training run, within 160 and 2,000.
        """
        if self.sample is not None:
            return min(self.sample or pairs, pairs)
        if pairs <= ALL_UP_TO:
            return pairs
        epochs = self.train.epochs
        if self.train.max_steps:
            step = self.train.batch_size * self.train.accumulate * self.world_size
            epochs = self.train.max_steps * step / pairs
        affordable = int(pairs * epochs * _SHARE_OF_TRAINING / _COST_OF_A_PAIR)
        return min(max(affordable, FEWEST), MOST, pairs)

    @classmethod
    def from_options(
        cls,
        options: Mapping[str, Any],
        typed: Iterable[str] = (),
        recipe: Mapping[str, Entry] | None = None,
    ) -> tuple[str, ForecastSettings]:
        """The model's name and the settings, from options by name: a forecast's own, and those of the run to simulate.

        Args:
            options: by name; those that are not there have their defaults.
            typed: which of them were typed, and so win over the recipe.
            recipe: options of training from a file.

        Raises:
            OptionError: there is no such option, or a value cannot be used.
        """
        own = {field.name: field.default for field in fields(cls)} | {"by": ()}
        del own["train"]
        defaults = option_defaults()
        unknown = next((name for name in options if name not in own and name not in defaults), None)
        if unknown is not None:
            close = nearest(unknown, [*own, *defaults])
            raise OptionError(
                f"--{unknown.replace('_', '-')}: there is no such option."
                + (f" Did you mean --{close.replace('_', '-')}?" if close else "")
            )
        bearing = {name: options.get(name, value) for name, value in defaults.items()}
        model, train = from_options(bearing, typed, recipe)
        mine = {name: options.get(name, value) for name, value in own.items()}
        mine["by"] = tuple(mine["by"] or ())
        for name in ("held_out", "texts"):
            mine[name] = None if mine[name] is None else str(mine[name])
        return model, cls(train=train, **mine)

    def record(self) -> dict[str, Any]:
        """The settings as JSON values: those of training by their own names, in ``training``."""
        return {name: getattr(self, name) for name in _RECORDED} | {"training": self.train.record()}

    @classmethod
    def recorded(cls, record: Mapping[str, Any], place: str) -> ForecastSettings:
        """The settings that :meth:`record` tells of.

        Args:
            record: as it was read from a file, with the model's name.
            place: of that file, for messages.

        Raises:
            OptionError: it holds what this version does not know.
        """
        training = {name: entry.value for name, entry in recorded_options(record["training"], place).items()}
        own = {name: record[name] for name in _RECORDED if name in record}
        return cls.from_options({**training, **own, "model": record["model"]})[1]


def not_simulated(train: TrainSettings) -> str:
    """What of a training run no simulation has in it, in a sentence."""
    said = ["Not simulated: dropout (training here has none)"]
    if train.weight_decay:
        said.append(f"weight decay ({train.weight_decay:g})")
    if train.guard:
        said.append("guards")
    return ", ".join(said) + "."

"""What an audit was asked to do: frozen, checked on creation, written beside the scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from undertow.data.packing import DEFAULT_BATCH_TOKENS
from undertow.data.reading import Pairs, open_pairs
from undertow.data.tokens import TokenSettings
from undertow.errors import OptionError
from undertow.maths.losses import PairLoss, RewardCalibrated, by_name, parameters
from undertow.scoring.levels import LEVELS, includes

DEFAULT_LEVEL = "unembedding"
ON_BAD_ROW = ("stop", "skip")


@dataclass(frozen=True, slots=True)
class Shard:
    """The ``index``-th of ``count`` static shards, counted from 1: input row r belongs to shard ``r mod count + 1``."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise OptionError(f"--shard {self}: expected I/N with I from 1 to N.")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"3/8"`` is the third of eight."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found:
            raise OptionError(f"--shard {text}: expected I/N, for example 3/8.")
        return cls(int(found[1]), int(found[2]))

    def holds(self, row: int) -> bool:
        """Whether an input row belongs to this shard. Interleaved, so that sorted data gives shards of equal work."""
        return row % self.count == self.index - 1


@dataclass(frozen=True, slots=True)
class DataSettings:
    """How the data is read: the options of the data argument."""

    format: str | None = None
    columns: Mapping[str, str] | None = None
    split: str | None = None
    name: str | None = None
    limit: int | None = None
    on_bad_row: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"--limit {self.limit}: expected 1 or more.")
        if self.on_bad_row not in ON_BAD_ROW:
            raise OptionError(f"--on-bad-row {self.on_bad_row}: expected one of {', '.join(ON_BAD_ROW)}.")

    def open(self, data: str | Path, *, by: Sequence[str] = ()) -> Pairs:
        """The pairs of the data argument, read in this way; it raises what :func:`open_pairs` does."""
        return open_pairs(
            data,
            format=self.format,
            columns=dict(self.columns) if self.columns else None,
            split=self.split,
            name=self.name,
            on_bad_row=self.on_bad_row,
            limit=self.limit,
            by=by,
        )


@dataclass(frozen=True, slots=True)
class LossSettings:
    """A preference loss by its name and what was given of its parameters, as text or as numbers.

    ``calibrated``: with its two weights rescaled so that each pair is disentangled.
    """

    name: str = "dpo"
    beta: float | None = None
    args: Mapping[str, object] = field(default_factory=dict)
    calibrated: bool = False

    def __post_init__(self) -> None:
        self.make()

    def make(self) -> PairLoss:
        """The loss itself.

        Raises:
            OptionError: there is no such loss or parameter, or a value out of its range.
        """
        given = dict(self.args)
        try:
            if self.beta is not None:
                if "beta" in given:
                    raise OptionError("--beta and --loss-args beta=…: give one of the two.")
                if "beta" not in parameters(self.name):
                    raise OptionError(f"--beta {self.beta:g}: the loss {self.name} has no beta.")
                given["beta"] = self.beta
            loss = by_name(self.name, **given)
            return RewardCalibrated(loss) if self.calibrated else loss
        except ValueError as error:
            raise OptionError(f"--loss {self.name}: {error}.") from error

    @staticmethod
    def parse_args(texts: Iterable[str]) -> dict[str, object]:
        """``["alpha=0.2,beta=1"]`` as ``{"alpha": "0.2", "beta": "1"}``; what the values mean the loss decides."""
        found: dict[str, object] = {}
        for part in (part.strip() for text in texts for part in text.split(",")):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not (name and equals and value):
                raise OptionError(f"--loss-args {part!r}: expected NAME=VALUE, for example alpha=0.2.")
            if name in found:
                raise OptionError(f"--loss-args: {name} is given twice.")
            found[name.replace("-", "_")] = value
        return found


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """An audit's options besides data, model and output folder.

    ``loss``, ``ref`` (the reference model's name; the audited model where None) and ``pull`` matter from level
    ``unembedding`` on. ``batch_tokens`` is how many tokens go through the model in one packed row; ``part_pairs`` how
    many pairs one part of the scores holds, and so at most how many a killed run scores again. ``by`` are columns of
    the data by whose values the report groups the pairs; no score depends on them.
    """

    level: str = DEFAULT_LEVEL
    loss: LossSettings = field(default_factory=LossSettings)
    ref: str | None = None
    pull: bool = False
    data: DataSettings = field(default_factory=DataSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    shard: Shard = field(default_factory=Shard)
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    part_pairs: int = 512
    seed: int = 0
    packed: bool = True
    trust_remote_code: bool = False
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_level(self.level)
        check_loss(self.loss.make())
        for option, given in (("--ref", self.ref), ("--pull", self.pull)):
            if given and not includes(self.level, "unembedding"):
                raise OptionError(f"{option}: it needs --level unembedding, not {self.level}.")
        if self.pull and self.shard.count > 1:
            raise OptionError("--pull: it is the pull of the whole data set, which no shard sees; leave --shard away.")
        for name in ("batch_tokens", "part_pairs"):
            if getattr(self, name) < 1:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more.")

    def record(self) -> dict[str, object]:
        """The settings as JSON values."""
        values = asdict(self)
        values["loss"] = repr(self.loss.make())
        reading, tokens = values.pop("data"), values.pop("tokens")
        return {**values, "shard": str(self.shard), "reading": reading, "tokens": tokens}


def check_level(level: str) -> None:
    """Refuse a level that does not exist, or not yet."""
    if level == "gradient":
        raise OptionError(f"--level {level}: not built yet in this version; use one of {', '.join(LEVELS)}.")
    if level not in LEVELS:
        raise OptionError(f"--level {level}: expected one of {', '.join(LEVELS)}.")


def check_loss(loss: PairLoss) -> None:
    """Refuse a loss that needs what an audit does not have."""
    if loss.needs_scores:
        raise OptionError(
            f"--loss {loss.name}: it compares with a reward model's scores, which an audit does not have; "
            "its weights can be had from undertow.losses."
        )

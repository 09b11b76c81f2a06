"""What an audit was asked to do: frozen, checked on creation, written beside the scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from undertow.data.tokens.encoder import TokenSettings
from undertow.data.tokens.packing import DEFAULT_BATCH_TOKENS
from undertow.errors import OptionError
from undertow.maths.losses import PairLoss
from undertow.models.device import check_device, check_dtype
from undertow.runs.settings import DataSettings, LossSettings, Shard
from undertow.scoring.columns import LEVELS
from undertow.scoring.levels import includes

DEFAULT_LEVEL = "unembedding"


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
        check_device(self.device)
        check_dtype(self.dtype)
        for option, given in (("--ref", self.ref), ("--pull", self.pull)):
            if given and not includes(self.level, "unembedding"):
                raise OptionError(f"{option}: it needs --level unembedding, not {self.level}.")
        if self.pull and self.shard.count > 1:
            raise OptionError("--pull: it is the pull of the whole data set, which no shard sees; leave --shard away.")
        for name in ("batch_tokens", "part_pairs"):
            if getattr(self, name) < 1:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more.")

    @property
    def computed_in(self) -> str:
        """``dtype``, with ``auto`` decided where signs are: float32 from level ``unembedding`` on.

        There the scores say which way a log-probability goes, by differences of large and nearly equal products. In
        bfloat16 these come out otherwise for some pairs (docs/audit.md has figures), so that a verdict would depend on
        the processor. Ranks by CHES, at level ``hidden``, hold in bfloat16.
        """
        return "float32" if self.dtype == "auto" and includes(self.level, "unembedding") else self.dtype

    def record(self) -> dict[str, object]:
        """The settings as JSON values."""
        values = asdict(self)
        values["loss"] = repr(self.loss.make())
        reading, tokens = values.pop("data"), values.pop("tokens")
        return {**values, "shard": str(self.shard), "reading": reading, "tokens": tokens}


def check_level(level: str) -> None:
    """Refuse a level that does not exist."""
    if level not in LEVELS:
        raise OptionError(f"--level {level}: expected one of {', '.join(LEVELS)}.")


GEOMETRIES = ("sgd", "rmsprop")
"""Of inner products at level ``gradient``: plain ones, or with the optimiser's scaling between the gradients."""


def check_geometry(geometry: str, level: str) -> None:
    """Refuse a geometry that does not exist, or that the level has no use for."""
    if geometry not in GEOMETRIES:
        raise OptionError(f"--geometry {geometry}: expected one of {', '.join(GEOMETRIES)}.")
    if geometry != "sgd" and level != "gradient":
        raise OptionError(f"--geometry {geometry}: it is of --level gradient, not {level}.")


def check_audit_geometry(geometry: str, level: str) -> None:
    """The same, where there is no training run whose second moments would scale."""
    check_geometry(geometry, level)
    if geometry != "sgd":
        raise OptionError(
            f"--geometry {geometry}: an audit has no second moments; `undertow forecast --level gradient --geometry "
            f"{geometry}` measures those of the run and writes the same columns."
        )


def check_loss(loss: PairLoss) -> None:
    """Refuse a loss that needs what an audit does not have."""
    if loss.needs_scores:
        raise OptionError(
            f"--loss {loss.name}: it compares with a reward model's scores, which an audit does not have; "
            "its weights can be had from undertow.losses."
        )

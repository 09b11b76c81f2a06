"""What is to be explained, and by which model: frozen, checked on creation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from undertow.auditing.settings import check_loss
from undertow.data.pairs import Pair
from undertow.data.tokens.encoder import TokenSettings
from undertow.errors import DataError, OptionError
from undertow.models.device import check_device
from undertow.runs.folder import SETTINGS, read_arguments, read_command
from undertow.runs.names import AUDIT, COMPARE, FORECAST, SUMMARIES, TRAIN
from undertow.runs.settings import DataSettings, LossSettings

__all__ = ["HEAT_TOKENS", "ExplainSettings", "HeatLevel", "Subject", "run_of"]

HeatLevel = Literal["auto", "gradient", "unembedding", "none"]
HEAT_TOKENS = 128
"""Tokens of both responses together up to which ``auto`` takes all parameters: beyond, minutes on a processor."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Which pairs: rows of the data, ids of its pairs, or a pair that is given by itself."""

    rows: tuple[int, ...] = ()
    pair_ids: tuple[str, ...] = ()
    pair: Pair | None = None

    def __post_init__(self) -> None:
        if self.pair is not None and (self.rows or self.pair_ids):
            raise OptionError("--row and --pair-id choose from the data; --prompt, --chosen, --rejected give a pair.")
        if self.pair is None and not (self.rows or self.pair_ids):
            raise OptionError("Which pair? Give --row N or --pair-id ID, or a pair by --prompt, --chosen, --rejected.")
        for row in self.rows:
            if row < 0:
                raise OptionError(f"--row {row}: expected 0 or more; rows are counted from 0.")

    @classmethod
    def of(
        cls,
        rows: tuple[int, ...] = (),
        pair_ids: tuple[str, ...] = (),
        prompt: str | None = None,
        chosen: str | None = None,
        rejected: str | None = None,
    ) -> Subject:
        """From options.

        Raises:
            OptionError: they do not go together.
        """
        given = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        if all(text is None for text in given.values()):
            return cls(rows, pair_ids)
        missing = [f"--{name}" for name, text in given.items() if text is None]
        if missing:
            raise OptionError(f"{' and '.join(missing)}: a pair is a prompt and two responses; give all three.")
        assert prompt is not None
        assert chosen is not None
        assert rejected is not None
        return cls(rows, pair_ids, Pair(0, prompt, chosen, rejected, "the command line", 1))


@dataclass(frozen=True, slots=True)
class ExplainSettings:
    """Options besides the pairs, the data and the model.

    ``heat_map``: over which parameters the products of single tokens are; ``auto``: all up to :data:`HEAT_TOKENS`
    tokens of both responses together, else the unembedding. ``top``: how many pairs are named that pull the chosen
    response down, and that hold it up. Numbers are computed in float32.
    """

    loss: LossSettings = field(default_factory=LossSettings)
    ref: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    heat_map: HeatLevel = "auto"
    top: int = 10
    device: str = "auto"
    batch_tokens: int = 1536
    packed: bool = True
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_device(self.device)
        check_loss(self.loss.make())
        if self.heat_map not in get_args(HeatLevel):
            raise OptionError(f"--heat-map {self.heat_map}: expected one of {', '.join(get_args(HeatLevel))}.")
        for name in ("top", "batch_tokens"):
            if getattr(self, name) < 1:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more.")

    @classmethod
    def recorded(cls, record: Mapping[str, Any], **own: Any) -> ExplainSettings:
        """Those of a run, as its ``settings.json`` has them, with options of one's own."""
        beta = record.get("beta")  # a comparison names no loss: its DPO's β
        loss = LossSettings.recorded(str(record["loss"])) if "loss" in record else LossSettings("dpo", beta)
        reading, tokens = (dict(record.get(name) or {}) for name in ("reading", "tokens"))
        same = {name: record[name] for name in ("ref", "packed", "trust_remote_code") if name in record}
        return cls(loss, data=_of(DataSettings, reading), tokens=_of(TokenSettings, tokens), **{**same, **own})


def run_of(folder: Path) -> tuple[str, str, str, dict[str, Any]] | None:
    """The kind of run that stands in a folder, its data, its model and what its settings tell; None where none does.

    Raises:
        DataError: it is another program's, or not finished.
    """
    if not (folder / SETTINGS).is_file():
        return None
    command, record = read_command(folder), read_arguments(folder)
    if command == AUDIT:
        kind = FORECAST if (folder / SUMMARIES[FORECAST]).exists() else AUDIT
    elif command in (COMPARE, TRAIN):
        kind = command
    else:
        raise DataError(f"{folder} holds no run of Undertow: name its data, and the model with --model.")
    if kind != TRAIN and not (folder / SUMMARIES[kind]).exists():
        raise DataError(f"{folder} is not finished: give its `undertow {kind}` command again, then explain.")
    data, model = str(record.get("data", "")), str(record.get("before" if kind == COMPARE else "model", ""))
    if kind == TRAIN and record.get("sft_epochs"):
        model = str(folder / "sft" / "model")  # where preference training begins
    if data == "-":
        raise DataError(f"The data of {folder} came on standard input and are gone: name a file that holds them.")
    return kind, data, model, record


def _of(kind: Any, values: Mapping[str, Any]) -> Any:
    """Settings from what a file tells of them; what this version does not know is of no concern here."""
    known = {one.name for one in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})

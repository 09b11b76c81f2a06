"""Settings that several commands share: how the data is read, the loss, the shard; frozen, checked on creation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from undertow.data.reading import Pairs, open_pairs
from undertow.errors import OptionError
from undertow.maths.losses import PairLoss, RewardCalibrated, TokenWeighted, by_name, name_of, parameters

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
    empty_prompt: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"--limit {self.limit}: expected 1 or more.")
        if self.on_bad_row not in ON_BAD_ROW:
            raise OptionError(f"--on-bad-row {self.on_bad_row}: expected one of {', '.join(ON_BAD_ROW)}.")

    def of_another_file(self) -> DataSettings:
        """The same for a file of pairs beside the data: which split, and how many rows, is said of the data alone."""
        return replace(self, split=None, name=None, limit=None)

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
            empty_prompt=self.empty_prompt,
        )


@dataclass(frozen=True, slots=True)
class LossSettings:
    """A preference loss by its name and what was given of its parameters, as text or as numbers.

    ``calibrated``: with its two weights rescaled so that each pair is disentangled. ``token_weights``: what its tokens
    count by, see :class:`TokenWeighted`; all the same where None.
    """

    name: str = "dpo"
    beta: float | None = None
    args: Mapping[str, object] = field(default_factory=dict)
    calibrated: bool = False
    token_weights: str | None = None

    def __post_init__(self) -> None:
        if self.calibrated and self.token_weights:
            raise OptionError("--token-weights: with --calibrated tokens cannot be weighted; give one of the two.")
        self.make()

    @property
    def unweighted(self) -> LossSettings:
        """The same in which all tokens count the same."""
        return replace(self, token_weights=None)

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
            if self.token_weights:
                return TokenWeighted(loss, self.token_weights)
            return RewardCalibrated(loss) if self.calibrated else loss
        except ValueError as error:
            raise OptionError(f"--loss {self.name}: {error}.") from error

    @classmethod
    def recorded(cls, text: str) -> LossSettings:
        """From the line by which a run's settings tell of its loss: its ``repr``.

        Raises:
            OptionError: it tells of no loss that there is.
        """
        try:
            call = ast.parse(text, mode="eval").body
            around = _class_of(call)
            weights: str | None = None
            if around in (RewardCalibrated.__name__, TokenWeighted.__name__) and isinstance(call, ast.Call):
                inside = {str(one.arg): one.value for one in call.keywords}
                weights = ast.literal_eval(inside["by"]) if around == TokenWeighted.__name__ else None
                call = inside["loss"]
            name = name_of(_class_of(call))
            assert isinstance(call, ast.Call)
            given = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
        except (SyntaxError, ValueError, KeyError) as error:
            raise OptionError(f"--loss: {text!r} is no loss of this version.") from error
        return cls(name, given.pop("beta", None), given, around == RewardCalibrated.__name__, weights)

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


def _class_of(call: ast.expr) -> str:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError("expected CLASS(NAME=VALUE, …)")
    return call.func.id

"""What a comparison was asked to do: frozen, checked on creation, written beside the result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from undertow.data.tokens.encoder import TokenSettings
from undertow.data.tokens.packing import DEFAULT_BATCH_TOKENS
from undertow.errors import OptionError
from undertow.models.device import check_device, check_dtype
from undertow.runs.settings import DataSettings

NEW_TOKENS = 48
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """A comparison's options besides data, models and output folder."""

    scores: tuple[str, ...] = ()
    """Folders of an earlier audit whose predictions are held against what happened."""
    beta: float = 0.1
    """Of the DPO loss that says whether training lowered the loss at all; the model before is its reference."""
    generate: int = 3
    """How many of the worst pairs are continued by both models; 0 for none."""
    resamples: int = RESAMPLES
    """Bootstrap resamples behind every interval."""
    seed: int = 0
    """Of the bootstrap."""
    data: DataSettings = field(default_factory=DataSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    device: str = "auto"
    dtype: str = "auto"
    """``auto`` is float32: what a few steps change is less than bfloat16 can tell apart."""
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    packed: bool = True
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_device(self.device)
        check_dtype(self.dtype)
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise OptionError(f"--beta {self.beta}: expected a number above 0.")
        for name, least in (("generate", 0), ("resamples", 1), ("batch_tokens", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {least} or more.")

    def record(self) -> dict[str, object]:
        """The settings as JSON values."""
        values = asdict(self)
        reading, tokens = values.pop("data"), values.pop("tokens")
        return {**values, "scores": list(self.scores), "reading": reading, "tokens": tokens}

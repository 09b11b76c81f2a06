"""Weights that are sharded among processes: each would see a part only, or wait for the others for ever."""

from __future__ import annotations

import os

from accelerate.utils import parse_flag_from_env
from transformers.integrations import is_deepspeed_zero3_enabled

from undertow.errors import OptionError


def refuse_sharded_weights(who: str, *, fsdp: bool = False) -> None:
    """Refuse FSDP and DeepSpeed's ZeRO-3: what is tracked and saved reads the weights whole.

    Args:
        who: for whom, as the beginning of the message.
        fsdp: whether a trainer's own arguments ask for FSDP, besides what `accelerate launch` was told.

    Raises:
        OptionError: they are asked for.
    """
    zero_3 = (
        parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    )
    if fsdp or zero_3 or parse_flag_from_env("ACCELERATE_USE_FSDP") or is_deepspeed_zero3_enabled():
        raise OptionError(
            f"{who}: the weights are sharded (FSDP or DeepSpeed ZeRO-3), and it reads them whole; train without "
            "sharding (plain data parallelism, ZeRO-1 or ZeRO-2), or elsewhere, and look at the checkpoints with "
            "`undertow compare`."
        )

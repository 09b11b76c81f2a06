"""Weights that are sharded among processes: what can be trained so, and what reads weights whole and cannot."""

from __future__ import annotations

import os
from collections.abc import Iterable

from accelerate.utils import parse_flag_from_env
from transformers.integrations import is_deepspeed_zero3_enabled

from undertow.errors import OptionError
from undertow.training.tracking.names import FULL


def check_sharding(*, adapter: bool, guarded: Iterable[str] = ()) -> None:
    """Let ``undertow train`` have FSDP's second version; refuse the first, ZeRO-3, and an adapter under either.

    Args:
        adapter: whether one is trained.
        guarded: the names of the tracked values that guards watch.

    Raises:
        OptionError: `accelerate launch` was told so.
    """
    if _zero_3():
        raise OptionError("undertow train: DeepSpeed ZeRO-3 is not known here; take ZeRO-1 or 2, or FSDP (version 2).")
    if not _fsdp():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise OptionError("undertow train: of FSDP only version 2 is known here: accelerate launch --fsdp_version 2.")
    if adapter:
        raise OptionError("--lora-r: an adapter is merged into whole weights, which FSDP shards; train without FSDP.")
    for name in guarded:
        if name.startswith(FULL):
            raise OptionError(f"--guard: {name} is not tracked where FSDP shards the weights; {name[len(FULL) :]} is.")


def sharded() -> bool:
    """Whether `accelerate launch` was told to shard the weights."""
    return _fsdp() or _zero_3()


def refuse_sharded_weights(who: str, *, fsdp: bool = False) -> None:
    """Refuse all sharding, for what reads the weights whole.

    Args:
        who: for whom, as the beginning of the message.
        fsdp: whether a trainer's own arguments ask for FSDP, besides what `accelerate launch` was told.

    Raises:
        OptionError: it is asked for.
    """
    if fsdp or sharded():
        raise OptionError(
            f"{who}: the weights are sharded (FSDP or DeepSpeed ZeRO-3), and it reads them whole; train without "
            "sharding (plain data parallelism, ZeRO-1 or ZeRO-2), or elsewhere, and look at the checkpoints with "
            "`undertow compare`."
        )


def _fsdp() -> bool:
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def _zero_3() -> bool:
    third_stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    return (third_stage and bool(parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"))) or bool(is_deepspeed_zero3_enabled())

"""Where the model runs and in which type: the documented rules behind ``--device auto`` and ``--dtype auto``."""

from __future__ import annotations

import ctypes
import os
import sys

from undertow.errors import OptionError
from undertow.maths.later import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")
FORCED = "UNDERTOW_NATIVE_BFLOAT16"
"""For tests: an environment variable, ``0`` or ``1``, that answers :func:`multiplies_bfloat16` for every device."""


def choose_device(name: str = "auto") -> torch.device:
    """``auto``: a CUDA device where there is one, else Apple's MPS, else the CPU."""
    check_device(name)
    return torch.device(name if name != "auto" else next(kind for kind in ("cuda", "mps", "cpu") if _is_there(kind)))


def check_device(name: str) -> None:
    """Refuse a device that does not exist, or not on this machine."""
    if name not in DEVICES:
        raise OptionError(f"--device {name}: expected one of {', '.join(DEVICES)}.")
    if name != "auto" and not _is_there(name):
        raise OptionError(f"--device {name}: this machine has none that torch can use; try --device auto.")


def check_dtype(name: str) -> None:
    """Refuse a type that is not known."""
    if name not in DTYPES:
        raise OptionError(f"--dtype {name}: expected one of {', '.join(DTYPES)}.")


def _is_there(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind == "cpu" or torch.backends.mps.is_available()


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where the processor multiplies it natively and so faster than float32, else float32.

    Comparisons, and audits from level ``unembedding`` on, take float32 for ``auto`` on every processor: what they say
    hangs on differences that bfloat16 rounds away (:attr:`undertow.auditing.settings.AuditSettings.computed_in`).
    Native means: a CUDA device of compute capability 8.0 or more; a CPU with AVX512-BF16 or AMX. Without them a CPU
    emulates bfloat16 products, many times slower than float32. Elsewhere (MPS): float32.
    """
    check_dtype(name)
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 products of its own (see :func:`choose_dtype`).

    Raises:
        OptionError: ``UNDERTOW_NATIVE_BFLOAT16`` is set, to neither 0 nor 1.
    """
    forced = os.environ.get(FORCED)
    if forced:
        if forced not in ("0", "1"):
            raise OptionError(f"{FORCED}={forced}: expected 0 or 1, or the variable not set.")
        return forced == "1"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent in some builds of torch: then float32
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


def peak_memory_mb(device: torch.device) -> int | None:
    """The most memory this process ever held, in MiB: on an accelerator its own, else resident; None where unknown."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def keep_large_blocks() -> bool:
    """Tell glibc to keep large freed blocks instead of unmapping them; True where that was possible.

    Each large temporary is otherwise mapped, page-faulted and unmapped again at every operation of a forward pass. The
    same through the environment, before Python starts: ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
    MALLOC_TOP_PAD_=268435456``. It only changes speed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # glibc's malloc.h
    largest = 2**31 - 1
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, largest), mallopt(top_pad, 2**28)])

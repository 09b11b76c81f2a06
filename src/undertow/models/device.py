"""Where the model runs and in which type: the documented rules behind ``--device auto`` and ``--dtype auto``."""

from __future__ import annotations

import ctypes
import sys

import torch

from undertow.errors import OptionError

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")


def choose_device(name: str = "auto") -> torch.device:
    """``auto``: a CUDA device where there is one, else Apple's MPS, else the CPU."""
    if name not in DEVICES:
        raise OptionError(f"--device {name}: expected one of {', '.join(DEVICES)}.")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if not there[name]:
        raise OptionError(f"--device {name}: this machine has none that torch can use; try --device auto.")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where the processor multiplies it natively and so faster than float32, else float32.

    Native means: a CUDA device of compute capability 8.0 or more; a CPU with AVX512-BF16 or AMX. Without them a CPU
    emulates bfloat16 products, many times slower than float32. Elsewhere (MPS): float32.
    """
    if name not in DTYPES:
        raise OptionError(f"--dtype {name}: expected one of {', '.join(DTYPES)}.")
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 products of its own (see :func:`choose_dtype`)."""
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

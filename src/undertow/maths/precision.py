"""In which floating type sums are taken, and how to keep matrix products in full float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from undertow.maths.later import torch

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["as_like", "full_precision", "has_float64", "in_float64", "product", "working_dtype"]


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The type to compute in: float32, or float64 as soon as one of the tensors has it. bfloat16 is never enough."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64; Apple's GPUs do not."""
    return device.type != "mps"


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its own device where that has float64, else on the CPU. Gradients flow back."""
    return tensor.double() if has_float64(tensor.device) else tensor.cpu().double()


def as_like(value: Tensor | float, like: Tensor) -> Tensor:
    """A number or tensor in another tensor's type and place; a Python number keeps all its digits on the way."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def product(a: Tensor, b: Tensor, kind: torch.dtype | None = None) -> Tensor:
    """``a @ b`` in the type of ``a``; with ``kind`` (bfloat16) both factors are rounded to it, the sums are float32.

    A processor that multiplies bfloat16 natively does so several times faster. The result then has about three digits:
    on a CUDA device rounded once, at the factors; on a CPU also at the end, since its kernels return bfloat16.
    """
    if kind is None or kind == a.dtype:
        return a @ b
    if a.is_cuda and a.dtype == torch.float32:
        return torch.mm(a.to(kind), b.to(kind), out_dtype=torch.float32)
    return (a.to(kind) @ b.to(kind)).to(a.dtype)


@contextmanager
def full_precision() -> Iterator[None]:
    """No TensorFloat-32 and no bfloat16 inside float32 matrix products, whatever the program around has switched on.

    A TF32 product has ten bits of mantissa; the gradients of a confident token are differences far below that. The
    settings are put back on leaving.
    """
    backends = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    knobs: list[Any] = [knob for knob in backends if hasattr(knob, "fp32_precision")]
    if not knobs:  # before torch 2.9 there was this one switch
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
        return
    before = [k.fp32_precision for k in knobs]
    try:
        for knob in knobs:
            knob.fp32_precision = "ieee"
        yield
    finally:
        for knob, value in zip(knobs, before, strict=True):
            knob.fp32_precision = value

"""A device that has no float64, as Apple's GPUs, made of ordinary tensors: what would fail there fails here.

Tensors of this device say that they are on ``mps``; they hold a CPU tensor, on which every operation is done. An
operation that would read or make float64 there raises what MPS raises, and so does one that mixes the two devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("mps")
_INSIDE = torch.device("meta")  # what torch itself is told: a torch without MPS refuses to hear of it
NO_FLOAT64 = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"


class DeviceTensor(torch.Tensor):
    """A tensor that says it is on ``mps``."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_mps = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        if held.dtype in (torch.float64, torch.complex128):
            raise TypeError(NO_FLOAT64)
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_INSIDE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Names(TorchFunctionMode):
    """The device's name in calls, as torch itself is told of it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def told(value: Any) -> Any:
            return _INSIDE if value == DEVICE or (isinstance(value, str) and value == "mps") else value

        def one(value: Any) -> Any:
            return told(value) if isinstance(value, torch.device | str) else value

        if function is torch.Tensor.backward:
            with self:  # what runs in the backward pass speaks of the device too
                ones = torch.ones_like(args[0])
                return _engine_run_backward((args[0],), (ones,), False, False, (), True, accumulate_grad=True)
        named = {k: one(v) for k, v in (kwargs or {}).items()}
        if function in (torch.tensor, torch.as_tensor) and named.get("device") == _INSIDE:
            dtype = named.get("dtype")
            if dtype == torch.float64:
                raise TypeError(NO_FLOAT64)
            value = args[0] if isinstance(args[0], Tensor) else torch.tensor(args[0], dtype=dtype)
            return value.to(_INSIDE, dtype)
        return function(*(one(a) for a in args), **named)


class _Mode(TorchDispatchMode):
    """Catches what makes tensors on the device out of none."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = tree_flatten((args, kwargs))[0]
    ours = [a for a in flat if isinstance(a, DeviceTensor)]
    asked = next((a for a in flat if isinstance(a, torch.device)), None)
    name = function.name()
    others = [a for a in flat if isinstance(a, Tensor) and not isinstance(a, DeviceTensor) and a.ndim]
    moves = name.startswith(("aten::_to_copy", "aten::to.", "aten::copy_", "aten::index"))  # these take both
    if ours and others and not moves:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found mps:0 and cpu")
    on_device = asked == _INSIDE if asked is not None else bool(ours)
    if on_device and any(a in (torch.float64, torch.complex128) for a in flat if isinstance(a, torch.dtype)):
        raise TypeError(NO_FLOAT64)

    def inner(value: Any) -> Any:
        return value.held if isinstance(value, DeviceTensor) else torch.device("cpu") if value == _INSIDE else value

    plain = tree_map(lambda a: inner(a) if isinstance(a, DeviceTensor | torch.device) else a, (args, kwargs))
    out = function(*plain[0], **plain[1])
    if name == "aten::copy_":
        return args[0]
    if not on_device:
        return out
    first = args[0] if args else None
    if isinstance(first, DeviceTensor) and isinstance(out, Tensor) and out is first.held:
        return first  # in place
    return tree_map(lambda a: DeviceTensor(a) if isinstance(a, Tensor) else a, out)


@contextmanager
def device_without_float64() -> Iterator[torch.device]:
    """Inside, tensors can be made on and moved to the device that is given."""
    with _Names(), _Mode():
        yield DEVICE


def move(module: nn.Module) -> nn.Module:
    """Put a module's weights on the device, tied ones once."""
    seen: dict[int, Any] = {}
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                if id(parameter) not in seen:
                    seen[id(parameter)] = nn.Parameter(DeviceTensor(parameter.detach()), parameter.requires_grad)
                part._parameters[name] = seen[id(parameter)]
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = DeviceTensor(buffer)
    return module

"""torch, imported when something of it is first used.

Names and ranges of losses, settings and options are checked without it: what was mistyped is said at once, not after
the second or more that torch takes to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["functional", "torch"]

if TYPE_CHECKING:
    import torch
    from torch.nn import functional
else:

    class _Later:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self._name), name)

    torch = _Later("torch")
    functional = _Later("torch.nn.functional")

"""First-order changes, cases and the disentanglement band, from tensors: see :mod:`undertow.maths.entanglement`.

:func:`three_settings` holds the gradient-entanglement paper's small theorems against a real model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from undertow.maths.entanglement import *  # noqa: F403
from undertow.maths.entanglement import __all__ as _pure

if TYPE_CHECKING:
    from undertow.scoring.three_settings import SettingProducts

__all__ = [*_pure, "three_settings"]


def three_settings(*args: Any, **kwargs: Any) -> list[SettingProducts]:
    """Theorem 1, Corollary 2 and Theorem 3 beside measured products: see
    :func:`undertow.scoring.three_settings.three_settings`."""
    from undertow.scoring.three_settings import three_settings as measured  # transformers: not for the formulas alone

    return measured(*args, **kwargs)

"""Labels of axes: no two of one axis read the same, whatever range the numbers have.

Vega-Lite's own labels have as many decimals as the steps between them need, up to 20. A format of ours must leave the
number of digits open too: ``+f`` and ``~e`` do, ``+.3f`` does not.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SIGNED", "WHOLE", "number_format"]

SIGNED = "+f"
"""Changes, their sign always there."""
WHOLE: dict[str, Any] = {"tickMinStep": 1, "labelExpr": "datum.value % 1 ? '' : format(datum.value, ',d')"}
"""Options of an axis of counts or steps: a tick between two whole numbers has no label."""
_SMALL = 1e-4


def number_format(low: float, high: float) -> dict[str, Any]:
    """Options of an axis from ``low`` to ``high``: numbers that would begin with many zeros are written as powers."""
    return {"format": "~e"} if 0 < max(abs(low), abs(high)) < _SMALL else {}

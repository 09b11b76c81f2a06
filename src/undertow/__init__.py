"""Undertow finds, watches and mends likelihood displacement in preference training.

>>> import undertow as ut
>>> pairs = ut.read_pairs("prefs.jsonl")  # doctest: +SKIP
>>> table = ut.audit(pairs, ut.load_model("HuggingFaceTB/SmolLM2-135M-Instruct"))  # doctest: +SKIP
>>> kept = ut.filter_pairs(pairs, table, by="ln_ches", drop_highest=0.10)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from undertow.version import __version__

if TYPE_CHECKING:
    from undertow import entanglement, flow, losses, similarity, tilt
    from undertow.auditing.audit import audit
    from undertow.comparing.compare import compare
    from undertow.data.pairs import BadRow, Message, Pair
    from undertow.data.reading import read_pairs
    from undertow.data.tokens.encoder import TokenSettings
    from undertow.errors import (
        BadRowsError,
        DataError,
        InputError,
        ModelError,
        OptionError,
        OutputError,
        UndertowError,
    )
    from undertow.explaining.explain import explain
    from undertow.filtering.filter import filter_pairs
    from undertow.filtering.what_if import what_if
    from undertow.forecasting.forecast import forecast
    from undertow.forecasting.stored import simulate
    from undertow.losses import Logps
    from undertow.models.loading import load_model
    from undertow.models.model import Model
    from undertow.scoring.shards import read_scores

# Where each public name lives. They are imported at first use: torch and transformers take seconds, which `--help`
# and a caught typing error should not cost.
_HOMES = {
    "BadRow": "undertow.data.pairs",
    "BadRowsError": "undertow.errors",
    "DataError": "undertow.errors",
    "InputError": "undertow.errors",
    "Logps": "undertow.losses",
    "Message": "undertow.data.pairs",
    "Model": "undertow.models.model",
    "ModelError": "undertow.errors",
    "OptionError": "undertow.errors",
    "OutputError": "undertow.errors",
    "Pair": "undertow.data.pairs",
    "TokenSettings": "undertow.data.tokens.encoder",
    "UndertowError": "undertow.errors",
    "audit": "undertow.auditing.audit",
    "compare": "undertow.comparing.compare",
    "explain": "undertow.explaining.explain",
    "filter_pairs": "undertow.filtering.filter",
    "forecast": "undertow.forecasting.forecast",
    "load_model": "undertow.models.loading",
    "read_pairs": "undertow.data.reading",
    "read_scores": "undertow.scoring.shards",
    "simulate": "undertow.forecasting.stored",
    "what_if": "undertow.filtering.what_if",
}
_MODULES = ("entanglement", "flow", "losses", "similarity", "tilt")

__all__ = [
    "BadRow",
    "BadRowsError",
    "DataError",
    "InputError",
    "Logps",
    "Message",
    "Model",
    "ModelError",
    "OptionError",
    "OutputError",
    "Pair",
    "TokenSettings",
    "UndertowError",
    "__version__",
    "audit",
    "compare",
    "entanglement",
    "explain",
    "filter_pairs",
    "flow",
    "forecast",
    "load_model",
    "losses",
    "read_pairs",
    "read_scores",
    "similarity",
    "simulate",
    "tilt",
    "what_if",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"undertow.{name}")
    raise AttributeError(f"module 'undertow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

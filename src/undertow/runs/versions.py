"""With what a run was made: the head of its summary."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from undertow.version import __version__

__all__ = ["made_with"]

LIBRARIES = ("torch", "transformers", "tokenizers", "pyarrow", "numpy")
"""Those whose version can change a number."""


def made_with() -> dict[str, Any]:
    """Undertow's version, and those of Python and the libraries that compute."""
    return {
        "undertow": __version__,
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
    }

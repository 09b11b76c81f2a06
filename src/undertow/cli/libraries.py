"""What other libraries say by themselves: nothing of it reaches the terminal, where our own notes say what matters."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

_NAMES = ("accelerate", "datasets", "filelock", "fsspec", "huggingface_hub", "peft", "torch", "transformers", "urllib3")
# Read when a library is imported, which is later; who set them wants to hear more, or less.
_VERBOSITY = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, libraries neither warn nor log anything below an error, unless Python was told to warn (``-W``)."""
    for name, value in _VERBOSITY.items():
        os.environ.setdefault(name, value)
    loggers = [logging.getLogger(name) for name in _NAMES]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

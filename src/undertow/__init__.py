"""Undertow finds, watches and mends likelihood displacement in preference training."""

__version__ = "0.1.0"

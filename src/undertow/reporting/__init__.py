"""The pages that a run writes beside its numbers, and what serves them."""

from undertow.reporting.writing import write_report

__all__ = ["write_report"]

"""Levels of scores, the audit that computes them, the store that keeps them, the filter that uses them."""

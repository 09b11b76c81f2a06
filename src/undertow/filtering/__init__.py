"""Leaving pairs out: selectors, what leaving pairs out would do, and writing the rows that stay."""

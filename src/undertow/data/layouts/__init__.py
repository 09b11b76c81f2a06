"""Rows to prompt, chosen and rejected: the layouts that people's data have, and how each is recognised."""

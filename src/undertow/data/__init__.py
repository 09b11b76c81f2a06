"""Rows to pairs to tokens to batches."""

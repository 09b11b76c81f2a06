"""Preference training with displacement tracked, and guards that act on what is tracked."""

"""Preference pairs made of a model's own answers."""

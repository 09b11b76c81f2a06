"""Refusals and over-refusals of models, with the judge's error in the number."""

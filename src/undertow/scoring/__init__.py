"""Scores of pairs: their columns and levels, the loops that compute them, the folder that keeps them."""

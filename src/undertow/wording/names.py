"""Columns of the scores, as people call them."""

from __future__ import annotations

__all__ = ["AXES", "LABELS", "MEASURE_LABELS", "WHAT"]

LABELS = {
    "dlogp_chosen": "change of the chosen response",
    "dlogp_rejected": "change of the rejected response",
    "free_dlogp_chosen": "with free hidden embeddings",
    "ln_ches": "length-normalised CHES",
    "ches": "CHES",
    "last_hidden_ip": "last hidden embeddings",
    "edit_distance": "edit distance",
}
AXES = {
    "dlogp_chosen": "dlogp_chosen (nats, unit learning rate)",
    "free_dlogp_chosen": "free_dlogp_chosen (nats, unit learning rate)",
}
WHAT = {
    "dlogp_chosen": "Below zero, a step on the pair lowers the probability of its own chosen response.",
    "free_dlogp_chosen": "The same change with the hidden embeddings as free features.",
    "ln_ches": "Higher means more displacement expected; response length is divided out.",
    "ches": "Higher means more displacement expected; it grows with the rejected response's length.",
    "last_hidden_ip": "Inner product of the two last hidden embeddings: a baseline.",
    "edit_distance": "0: the two responses are equal; 1: they share no token. Low means alike.",
}
MEASURE_LABELS = {
    "own": "a step on the pair alone",
    "free": "the same, hidden embeddings free",
    "pull": "the gradient of all pairs",
}

"""Pairs to tokens, and tokens to packed batches."""

from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings
from undertow.data.tokens.notes import EncodingNotes

__all__ = ["EncodingNotes", "PairEncoder", "TokenPair", "TokenSettings"]

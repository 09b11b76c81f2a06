"""Pairs to tokens, and tokens to packed batches."""

from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings

__all__ = ["PairEncoder", "TokenPair", "TokenSettings"]

"""Which pairs share a prompt, and which responses are the same: compared by hashes of their tokens.

The tokens are read from disk one pair at a time; only the hashes are kept in memory.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertow.data.tokens.encoder import TokenPair
from undertow.runs.token_file import TokenFile

__all__ = ["ListedResponses", "list_responses"]

Numbers = NDArray[np.intp]
_COLUMNS = 6


@dataclass(frozen=True, slots=True, eq=False)
class ListedResponses:
    """The prompts and the distinct responses of a data set, numbered.

    ``prompt``, ``chosen``, ``rejected``: of each pair, ``[pairs]``; a response is the same only under the same prompt.
    ``nested``: prompts one of whose responses is the beginning of another, ``[prompts]``: whoever says the longer one
    has said the shorter, so that their probabilities are not of different events. ``cut``: pairs with a response that
    was cut, ``[pairs]``.
    """

    prompt: Numbers
    chosen: Numbers
    rejected: Numbers
    nested: NDArray[np.bool_]
    cut: NDArray[np.bool_]


def list_responses(spool: TokenFile) -> ListedResponses:
    """Number the prompts and responses of all pairs, in two passes over their tokens."""
    found = np.fromiter((value for pair in _pairs(spool) for value in _keys(pair)), np.uint64, _COLUMNS * spool.pairs)
    found = found.reshape(-1, _COLUMNS)
    prompt = np.unique(found[:, 0], return_inverse=True)[1]
    keys, response = np.unique(found[:, 1:3], return_inverse=True)
    response = response.reshape(-1, 2)
    lengths = _lengths(prompt, found[:, 3:5].astype(np.intp))
    nested = np.zeros(len(lengths), np.bool_)
    for number, pair in zip(prompt, _pairs(spool), strict=True):
        nested[number] |= any(_holds_another(pair.prompt, ids, lengths[number], keys) for ids in _responses(pair))
    return ListedResponses(prompt, response[:, 0], response[:, 1], nested, found[:, 5].astype(np.bool_))


def _pairs(spool: TokenFile) -> Iterator[TokenPair]:
    return spool.read(0, spool.pairs)


def _responses(pair: TokenPair) -> tuple[Sequence[int], Sequence[int]]:
    return pair.chosen, pair.rejected


def _keys(pair: TokenPair) -> tuple[int, ...]:
    both = _responses(pair)
    return _key(pair.prompt), *(_key(pair.prompt, ids) for ids in both), *map(len, both), int(pair.truncated)


def _key(prompt: Sequence[int], response: Sequence[int] = ()) -> int:
    """64 bits of a hash: among a million responses two share one by chance once in 10⁷ data sets."""
    start = hashlib.blake2b(array("q", prompt).tobytes(), digest_size=16)
    return int.from_bytes(hashlib.blake2b(array("q", response).tobytes(), digest_size=8, key=start.digest()).digest())


def _lengths(prompt: Numbers, lengths: Numbers) -> list[Numbers]:
    """The different lengths of each prompt's responses, ascending."""
    both = np.unique(np.stack([np.repeat(prompt, 2), lengths.reshape(-1)], axis=1), axis=0)
    return np.split(both[:, 1], np.flatnonzero(np.diff(both[:, 0])) + 1)


def _holds_another(prompt: Sequence[int], response: Sequence[int], lengths: Numbers, keys: NDArray[np.uint64]) -> bool:
    """Whether the response begins with another response to its prompt."""
    for length in lengths[lengths < len(response)].tolist():
        start = np.uint64(_key(prompt, response[:length]))
        at = np.searchsorted(keys, start)
        if at < len(keys) and keys[at] == start:
            return True
    return False

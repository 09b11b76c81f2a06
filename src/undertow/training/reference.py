"""Reference log-probabilities: computed once, kept on disk under a hash of model and data, and reused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from undertow.data.tokens.packing import pack
from undertow.files import write_atomically
from undertow.models.forward import pair_states
from undertow.models.model import Model
from undertow.runs.progress import Watcher
from undertow.runs.token_file import TokenFile
from undertow.scoring.token_weights import digest_of
from undertow.scoring.unembedding import response_logps

Logps = NDArray[np.float64]


def reference_key(data: str, tokens: str, weights: str, dtype: torch.dtype) -> str:
    """What the numbers depend on, as 16 hex digits: fingerprints of the data, the tokenizer and the weights."""
    return hashlib.sha256("\n".join((data, tokens, weights, str(dtype))).encode()).hexdigest()[:16]


def weighted_key(key: str, spool: TokenFile) -> str:
    """The same where tokens count by weights."""
    if spool.weights is None:
        return key
    return hashlib.sha256(f"{key} {digest_of(list(spool.weights))}".encode()).hexdigest()[:16]


def reference_logps(
    spool: TokenFile,
    model: Model,
    folder: Path,
    key: str,
    *,
    batch_tokens: int,
    watch: Watcher,
    weighted: bool = False,
) -> Logps:
    """``[pairs, 2]``: ``ln π_ref`` of each chosen and rejected response, in nats, from the folder where it is there;
    ``weighted``: by the weights of their tokens, where the spool has some."""
    path = folder / f"reference-{weighted_key(key, spool) if weighted else key}.npy"
    found = _load(path, spool.pairs)
    if found is not None:
        watch.note(f"reference log-probabilities read from {path}.")
        return found
    watch.phase("reference", pairs=spool.pairs, tokens=spool.tokens)
    found = np.array(list(_logps(spool, model, batch_tokens, watch, weighted)), dtype=np.float64)
    with write_atomically(path) as file:
        np.save(file, found, allow_pickle=False)
    return found


@torch.inference_mode()
def _logps(spool: TokenFile, model: Model, batch_tokens: int, watch: Watcher, weighted: bool):  # type: ignore[no-untyped-def]
    for batch in pack(spool.read(0, spool.pairs, weighted=weighted), batch_tokens):
        for states in pair_states(model, batch):
            yield response_logps(states, model.head)
        watch.advance(pairs=len(batch.pairs), tokens=sum(pair.total for pair in batch.pairs))


def _load(path: Path, pairs: int) -> Logps | None:
    try:
        found: Logps = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (pairs, 2) else None

"""Count sketch: long vectors as a few numbers that keep inner products, with signs from a counter-based generator.

Entry ``i`` of a tensor is multiplied by a random sign and added to bucket ``(i + offset) mod D``. For any two vectors
the inner product of their sketches is that of the vectors in expectation, with a standard error of about ``1/√D`` of
the product of their norms (Charikar, Chen and Farach-Colton 2002). ``D`` must share no factor with the tensors' widths:
a prime. With a power of two, one heavy column of a wide matrix would fall into few buckets.

Signs are a hash of the entry's number and a key: any part of them can be made anywhere, and nothing is stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.maths.later import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CountSketch", "random_signs"]

_BITS = 0xFFFFFFFF
_AT_ONCE = 1 << 22
"""Signs made at once: the hash works on 8 bytes an entry, which a large matrix shall not need as a whole."""


def random_signs(begin: int, end: int, key: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Signs of the entries ``begin`` to ``end`` (exclusive) under a key: int8, 1 or −1, ``[end − begin]``.

    The same for equal entry and key on every device and in every part. Three rounds of xor, shift and multiply on 32
    bits (of the kind of MurmurHash3's finaliser); the multipliers are below 2³¹, so that no product overflows 63 bits.
    """
    found = torch.empty(end - begin, dtype=torch.int8, device=device)
    for start in range(begin, end, _AT_ONCE):
        stop = min(start + _AT_ONCE, end)
        x = torch.arange(start, stop, dtype=torch.int64, device=device)
        x = (x ^ (x >> 32) * 0x2C1B3C6D ^ key) & _BITS
        for multiplier in (0x7FEB352D, 0x2C1B3C6D, 0x31848BAB):
            x = ((x ^ (x >> 16)) * multiplier) & _BITS
        found[start - begin : stop - begin] = ((x >> 15) & 1) * 2 - 1
    return found


@dataclass(frozen=True, slots=True)
class CountSketch:
    """Sketches of one size; ``seed`` decides signs and offsets, with the tensor's name.

    ``size``: ``D``, buckets.
    """

    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a sketch has at least one bucket, got {self.size}")

    def key(self, name: str) -> int:
        """Of a tensor: what its signs are made of, 32 bits."""
        return self._hash(name) & _BITS

    def offset(self, name: str) -> int:
        """Of a tensor: the bucket of its first entry."""
        return (self._hash(name) >> 32) % self.size

    def signs(self, name: str, begin: int, end: int, *, device: torch.device | str = "cpu") -> Tensor:
        """The signs of a tensor's entries, in row-major order; see :func:`random_signs`."""
        return random_signs(begin, end, self.key(name), device=device)

    def add(self, out: Tensor, name: str, begin: int, values: Tensor) -> None:
        """Add a run of a tensor's entries, their signs applied already, to a sketch ``out``, ``[D]``, in place.

        ``begin``: the number of the run's first entry in the tensor; ``values``: ``[entries]``.
        """
        at = (self.offset(name) + begin) % self.size
        first = min(self.size - at, len(values))
        out[at : at + first] += values[:first]
        whole = (len(values) - first) // self.size
        if whole:
            out += values[first : first + whole * self.size].view(whole, self.size).sum(0)
        rest = values[first + whole * self.size :]
        out[: len(rest)] += rest

    def add_rows(self, out: Tensor, name: str, rows: Tensor, values: Tensor) -> None:
        """Add rows of a matrix, ``values [k, width]`` at the row numbers ``rows [k]`` (which may repeat), in place."""
        width = values.shape[1]
        at = rows.unsqueeze(1) * width + torch.arange(width, device=rows.device) + self.offset(name)
        out.index_add_(0, (at % self.size).flatten(), values.flatten().to(out.dtype))

    def _hash(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:8], "big")

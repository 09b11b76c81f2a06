"""The bytes of a text file, unpacked and known to be UTF-8 by their beginning, in blocks and in lines.

Compression is told by the content, so a file whose name lies about it is read all the same.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol

import zstandard

from undertow.errors import DataError

_BLOCK = 1 << 16
# Small, as a packed block can unpack to a thousand times its size.
_PACKED_BLOCK = 1 << 12
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_DAMAGE = (zlib.error, zstandard.ZstdError)
_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"PAR1": "a Parquet file; give it a name that ends in .parquet",
    b"ARROW1": "an Arrow file; give it a name that ends in .arrow",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first (bunzip2), or use gzip or zstd",
    b"\xfd7zXZ": "compressed by xz; unpack it first (unxz), or use gzip or zstd",
}


class BrokenStreamError(Exception):
    """A compressed file ends too early or is damaged: what came before it is good."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def blocks(path: Path, name: str) -> Iterator[bytes]:
    """The unpacked bytes of a text file, without a byte order mark.

    Raises:
        DataError: it cannot be opened, or is no UTF-8 text by its first bytes.
        BrokenStreamError: the compressed data break off; raised after all that could be unpacked.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{name} cannot be opened: {error.strerror}.") from error
    with file:
        try:
            yield from _as_text(_unpacked(file), name)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}.") from error


def byte_order_mark(path: Path) -> bytes:
    """The byte order mark of a text file, which :func:`blocks` leaves out; nothing where it has none."""
    with path.open("rb") as file:
        head = b""
        for part in _unpacked(file):
            head += part
            if len(head) >= len(_BOM):
                break
    return _BOM if head.startswith(_BOM) else b""


def lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their newline; the last may have none. Time is linear in a line's length, however long it is."""
    unfinished: list[bytes] = []
    for part in parts:
        start = 0
        while (end := part.find(b"\n", start) + 1) > 0:
            yield b"".join((*unfinished, part[start:end]))
            unfinished.clear()
            start = end
        if start < len(part):
            unfinished.append(part[start:])
    if unfinished:
        yield b"".join(unfinished)


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    first = file.read(4)
    file.seek(0)
    if first.startswith(_GZIP):
        return _decompressed(file, lambda: zlib.decompressobj(wbits=31), "gzip")
    if first == _ZSTD:
        return _decompressed(file, lambda: zstandard.ZstdDecompressor().decompressobj(), "zstd")
    return iter(lambda: file.read(_BLOCK), b"")


def _decompressed(file: IO[bytes], decoder: Callable[[], _Decoder], method: str) -> Iterator[bytes]:
    # One decoder per member: gzip and zstd files may be several, one after the other.
    unpack, member = None, 0
    while data := file.read(_PACKED_BLOCK):
        while data:
            if unpack is None:
                if not data.strip(b"\0"):  # padding between members and at the end, as tape archives leave it
                    break
                unpack, member = decoder(), file.tell() - len(data)
            try:
                unpacked = unpack.decompress(data)
            except _DAMAGE as error:
                yield from _salvaged(file, decoder(), member, file.tell() - len(data))
                raise BrokenStreamError(f"the {method} data are damaged from here on ({error})") from error
            yield unpacked
            data = unpack.unused_data if unpack.eof else b""
            if unpack.eof:
                unpack = None
    if unpack is not None:
        raise BrokenStreamError(f"the {method} data are cut off here; copy or download the file again")


def _salvaged(file: IO[bytes], unpack: _Decoder, member: int, block: int) -> Iterator[bytes]:
    """What a damaged block, in the member that starts at ``member``, holds before the damage: read byte by byte."""
    file.seek(member)
    while (left := block - file.tell()) > 0:
        unpack.decompress(file.read(min(left, _PACKED_BLOCK)))
    with contextlib.suppress(*_DAMAGE):
        while byte := file.read(1):
            yield unpack.decompress(byte)


def _as_text(parts: Iterator[bytes], name: str) -> Iterator[bytes]:
    head = b""
    while len(head) < 8 and (part := next(parts, None)) is not None:
        head += part
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{name} is {what}.")
    if wide := _wide_encoding(head[:4]):
        target = f"utf8-{Path(name).name}"
        raise DataError(
            f"{name} is {wide} text, expected UTF-8. Convert it: iconv -f {wide} -t UTF-8 {name} > {target}"
        )
    yield head.removeprefix(_BOM)
    yield from parts


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by a byte order mark or by where the zero bytes of the first ASCII character stand."""
    if head in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") or (len(head) == 4 and (not any(head[1:]) or not any(head[:3]))):
        return "UTF-32" if any(head) else None
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    return "UTF-16" if len(head) >= 2 and (head[0] == 0) != (head[1] == 0) else None

"""Text from data on a terminal: shown, never obeyed."""

from __future__ import annotations

import unicodedata

_KEPT = {"\n", "\t"}
# Format characters (bidirectional overrides, zero-width marks) can reorder or hide what is shown around them.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def plain(text: str) -> str:
    """The text with every control character made visible (``\\x1b`` for escape), line breaks and tabs kept."""
    return "".join(c if c in _KEPT or unicodedata.category(c) not in _HIDDEN else _visible(c) for c in text)


def one_line(text: str, width: int) -> str:
    """The text on one line of at most ``width`` characters, safe to print."""
    line = " ".join(plain(text[: 4 * width]).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _visible(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

"""Text of data as people may see it, on a page and on a terminal: nothing in it is obeyed, nothing hides.

What would be invisible, move the cursor, or reorder what stands around it becomes visible. Markup is not escaped here:
the templates escape everything, scripts set text, and the terminal's printing takes text without markup.
"""

from __future__ import annotations

import unicodedata

__all__ = ["cut", "one_line", "shown", "visible"]

LONGEST = 4_000
"""Characters of one text on a page."""

_KEPT = frozenset("\n\t")
_JOINERS = frozenset("\u200c\u200d")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_FIRST_PRINTED, _DELETE = 0x20, 0x7F
_PICTURES, _DELETE_PICTURE = 0x2400, "\u2421"


def shown(text: str, limit: int = LONGEST, *, characters: int | None = None) -> str:
    """The text, cut and made visible: what a page holds of it.

    ``characters``: how many there were, where ``text`` is only the beginning.
    """
    whole = len(text) if characters is None else characters
    return visible(text) if whole <= limit else f"{visible(text[:limit])}{_cut_mark(whole)}"


def visible(text: str) -> str:
    """Control characters as their pictures (``␛``), marks that reorder or hide as ``[U+202E]``; all else as it is.

    Line feeds and tabs stay. So does a joiner between two characters that are not ASCII, as scripts and emoji need it.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(_visible(text, index, one) for index, one in enumerate(text))


def one_line(text: str, width: int) -> str:
    """The text on one line of at most ``width`` characters, made visible.

    >>> one_line("two\\nlines, and more", 12)
    'two lines, …'
    """
    line = " ".join(visible(text[: 4 * width]).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def cut(text: str, limit: int = LONGEST) -> str:
    """At most ``limit`` characters of a text, and how many there were where some are missing."""
    return text if len(text) <= limit else text[:limit] + _cut_mark(len(text))


def _cut_mark(characters: int) -> str:
    return f"… ({characters:,} characters)"


def _visible(text: str, index: int, one: str) -> str:
    if one in _KEPT or unicodedata.category(one) not in _HIDDEN:
        return one
    code = ord(one)
    if code < _FIRST_PRINTED:
        return chr(_PICTURES + code)
    if code == _DELETE:
        return _DELETE_PICTURE
    joins = one in _JOINERS and not text[index - 1 : index].isascii() and not text[index + 1 : index + 2].isascii()
    return one if joins else f"[U+{code:04X}]"

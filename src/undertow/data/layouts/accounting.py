"""What a row has besides the columns that its layout reads: nothing that bears text may be lost without a word.

A column that no layout reads is *bookkeeping* by its name (a score, a source, a judge's reasons) or by its values
(numbers, truth values, ids, one-word labels), or it is a *copy* of text that was read. Anything else bears text, and a
layout that leaves it out is not the layout of the row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

from undertow.data.layouts.layout import Columns
from undertow.data.layouts.values import IMAGE, TURN_FIELDS, Row, RowError, is_turn
from undertow.data.layouts.vocabulary import CONVERSATIONS, PROMPTS, SCORE_OF, TEXT_OF

Sort = Literal["comment", "label", "content", "unknown"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")
_SIDES = frozenset({"chosen", "rejected", "a", "b", "better", "worse", "preferred"})
# Words of names whose columns tell of a pair, and are never trained on.
_COMMENTS = _words(
    "gold golden rationale rationales critique critiques annotation annotations annotator annotators judge "
    "judgement judgment judgements judgments labelling labeling metadata meta moderation candidates generations "
    "correct incorrect expected preference preferences"
)
_LABELS = _words(
    "id ids uid uuid guid idx index row rank ranks ranking score scores rating ratings reward rewards margin "
    "source sources dataset datasets origin category categories kind type types subset split model models "
    "generator generators policy policies author user username language languages lang locale country date "
    "datetime time timestamp tstamp created updated url urls uri link links domain domains topic topics tag tags "
    "label labels style difficulty level grade quality hash sha sha1 sha256 md5 length len tokens token count num "
    "number status flag name names version license file filename path order order method strategy severity "
    "toxicity harm safety safe finish"
)
_CONTENT = _words(
    "prompt query question instruction instructions input inputs context history system message messages "
    "conversation conversations dialogue dialog passage document documents article text story post body content "
    "response responses answer answers output outputs completion completions tools functions knowledge persona "
    "demonstrations examples reasoning thinking thought thoughts"
)
_ANSWERS = _words("answer answers response output completion text truth")
_MEDIA = _words("image images img imgs picture pictures photo photos video videos audio audios")
_MEDIA_FORMS = _words("path paths url urls file files bytes data base64 b64")
_ALWAYS_CONTENT = frozenset((*PROMPTS, *CONVERSATIONS))
# What is longer is a text under a label's name.
_LONGEST_LABEL, _MOST_WORDS = 120, 8
# A copy inside a longer text must be long enough not to be there by chance.
_LEAST_CONTAINED = 16
_ELEMENT_FIELDS = frozenset((*TEXT_OF, *SCORE_OF, "rank", "messages", "tools")) | TURN_FIELDS


def refuse_media(row: Row) -> None:
    """Refuse a row that comes with an image, a video or sound: no model that is read here sees it."""
    for name, value in row.items():
        if value is not None and (_is_media(str(name)) or isinstance(value, Mapping)) and _has_media(str(name), value):
            raise RowError(f"{IMAGE} (`{str(name)!s:.40}`)")


def unread(row: Row, used: Iterable[str]) -> list[str]:
    """The columns that bear text which nobody reads: neither bookkeeping, nor copies of text in the columns used."""
    taken = set(used)
    texts: list[tuple[str, list[str]]] = []
    for name, value in row.items():
        if name in taken or value is None or isinstance(value, bool | int | float):
            continue
        if found := list(_texts(str(name), value)):
            texts.append((str(name), found))
    if not texts:
        return []
    said = {text.strip() for name in taken for text in _leaves(row[name])}
    return [name for name, found in texts if not all(_is_copy(text.strip(), said) for text in found)]


def unused(row: Row, used: Columns) -> Iterator[str]:
    """The columns that no one reads, and the fields of turns and responses that no one reads."""
    taken = set(used.values())
    for name, value in row.items():
        if name not in taken:
            yield str(name)
        elif isinstance(value, list | tuple | Mapping):
            elements = [value] if isinstance(value, Mapping) else value
            for element in elements:
                if isinstance(element, Mapping) and not element.keys() <= _ELEMENT_FIELDS:
                    extra = (key for key, inner in element.items() if key not in _ELEMENT_FIELDS and inner is not None)
                    if name not in ("tools",):
                        yield from (f"{name}.{key}" for key in extra)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(inner)


def _is_copy(text: str, said: set[str]) -> bool:
    return text in said or (len(text) >= _LEAST_CONTAINED and any(text in longer for longer in said))


@lru_cache(maxsize=4096)
def sort_of(name: str) -> Sort:
    """What a column of this name holds, as far as its name tells."""
    if name in _ALWAYS_CONTENT:
        return "content"
    words = [word.lower() for word in _WORD.findall(name)]
    if any(word in _COMMENTS for word in words):
        return "comment"
    if words and words[0] in ("reference", "ref", "ground", "target") and words[-1] in (*_ANSWERS, words[0]):
        return "comment"
    while words and (words[-1] in _SIDES or words[-1].isdigit()):
        words.pop()
    if not words or words[-1] in _CONTENT:
        return "content" if words or name.strip(" _") else "unknown"
    return "label" if words[-1] in _LABELS else "unknown"


def _texts(name: str, value: Any, sort: Sort | None = None) -> Iterator[str]:
    """The texts in a value, labels and comments left out."""
    own = sort_of(name)
    # Inside a column, the names of its fields tell only what is bookkeeping.
    sort = own if sort is None or own in ("comment", "label") else sort
    if sort == "comment" or value is None:
        return
    if isinstance(value, str):
        if value.strip() and not _is_label(value, sort):
            yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not (key in ("role", "from") and is_turn(value)):
                yield from _texts(str(key), inner, "content" if is_turn(value) else sort)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(name, inner, sort)


def _is_label(text: str, sort: Sort) -> bool:
    """Whether a string is no text, but a label, an id, a number, a date or an address."""
    text = text.strip()
    if sort == "label":
        words = len(text.split())
        return words == 1 or (words <= _MOST_WORDS and len(text) <= _LONGEST_LABEL and "\n" not in text)
    if sort == "content":
        return False
    if not any(character.isalpha() for character in text):
        return True
    return not re.search(r"\s", text) and (text.isascii() or len(text) <= _LEAST_CONTAINED)


@lru_cache(maxsize=4096)
def _is_media(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    return bool(words) and words[0] in _MEDIA and all(word in _MEDIA_FORMS or word.isdigit() for word in words[1:])


def _has_media(name: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        if value.keys() == {"bytes", "path"}:
            return any(inner is not None for inner in value.values())
        return _is_media(name) and any(_has_media(name, inner) for inner in value.values())
    if not _is_media(name) or isinstance(value, bool | int | float):
        return False
    if isinstance(value, list | tuple):
        return any(_has_media(name, inner) for inner in value)
    return value is not None and not (isinstance(value, str | bytes) and not value.strip())

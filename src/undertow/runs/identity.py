"""What a run's results depend on, as written into its ``settings.json``, and what differs between two of these.

An identity is a mapping of names to hashes and options. The message about two that differ names what the user can
change: ``--max-length: 512 there, 1024 here``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # it brings transformers, which `undertow view` does not need to start
    from undertow.data.tokens.encoder import PairEncoder

__all__ = ["JSON", "differences", "token_identity"]

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"

TOKENS = "tokenizer and template"
_OPTIONS = {
    "attention": "attention",
    "batch tokens": "--batch-tokens",
    "beta": "--beta",
    "continuations": "--generate",
    "device": "--device",
    "dtype": "--dtype",
    "eot": "--eot",
    "level": "--level",
    "loss": "--loss",
    "max length": "--max-length",
    "part pairs": "--part-pairs",
    "pull": "--pull",
    "resamples": "--resamples",
    "scores": "--scores",
    "seed": "--seed",
    "shard": "--shard",
    "template": "--template",
}
"""The options behind the names."""
_OF_TOKENS = ("--max-length", "--eot", "--template")
_NESTED = ("option tokens", "option reading")  # of a training run: options that are kept together
_HASH = re.compile(r"[0-9a-f]{24,}")
_LONGEST, _OF_A_HASH = 60, 12


def token_identity(encoder: PairEncoder) -> dict[str, JSON]:
    """All that tokens depend on, in one hash, and what of it are options."""
    return {
        TOKENS: encoder.fingerprint,
        "max length": encoder.settings.max_length,
        "eot": encoder.settings.eot,
        "template": str(encoder.describe()["layout"]),
    }


def differences(one: Mapping[str, JSON], two: Mapping[str, JSON], where_one: str, where_two: str) -> str:
    """What differs between two identities, a line a name, for people; nothing where they are of the same run."""
    one, two = _by_option(one), _by_option(two)
    names = [name for name in {**one, **two} if name not in one or name not in two or one[name] != two[name]]
    # Earlier versions wrote no option of the tokens beside the hash, which says it all.
    names = [name for name in names if name not in _OF_TOKENS or (name in one and name in two)]
    if any(name in _OF_TOKENS for name in names):
        names = [name for name in names if name != TOKENS]  # it differs because they do
    return "\n".join(f"  {name}: {_shown(one, name)} {where_one}, {_shown(two, name)} {where_two}" for name in names)


def _by_option(identity: Mapping[str, JSON]) -> dict[str, JSON]:
    """The same by the names of the options, where there are such."""
    found: dict[str, JSON] = {}
    for name, value in identity.items():
        if name == "options":
            continue  # earlier versions' hash over all options, which stand beside it
        if name in _NESTED and isinstance(value, dict):
            found |= {_option(inner): item for inner, item in value.items()}
        else:
            found[_option(name.removeprefix("option ")) if name.startswith("option ") else _OPTIONS.get(name, name)] = (
                value
            )
    return found


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(identity: Mapping[str, JSON], name: str) -> str:
    if name not in identity:
        return "nothing"
    value = identity[name]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if _HASH.fullmatch(text):
        return f"{text[:_OF_A_HASH]}…"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

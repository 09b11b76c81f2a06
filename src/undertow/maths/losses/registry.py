"""Losses by their names on the command line, and how another one gets a name."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from undertow.maths.losses import averaged, gpo, hinge, logistic, regularised, separate, squared
from undertow.maths.losses.base import PairLoss

__all__ = ["by_name", "name_of", "names", "parameters", "register"]

L = TypeVar("L", bound=type[PairLoss])

_LOSSES: dict[str, type[PairLoss]] = {}


def register(loss: L) -> L:
    """Makes a subclass of :class:`PairLoss` known by its ``name``; to be used as a decorator.

    Raises:
        ValueError: when the class has no name, or another class has it already.
    """
    if not loss.name:
        raise ValueError(f'{loss.__name__} needs a name to be registered: name = "my-loss"')
    # A class of the same full name is the same one, defined again (a notebook cell that is run twice).
    known = _LOSSES.get(loss.name)
    if known is not None and (known.__module__, known.__qualname__) != (loss.__module__, loss.__qualname__):
        raise ValueError(f"the name {loss.name} is taken by {known.__name__}; give {loss.__name__} another one")
    _LOSSES[loss.name] = loss
    return loss


def names() -> list[str]:
    """All names, sorted."""
    return sorted(_LOSSES)


def parameters(name: str) -> dict[str, object]:
    """The loss's parameters and their defaults, in order; ``None`` also where one must be given.

    >>> parameters("r-dpo")
    {'beta': 0.1, 'alpha': 0.2}
    """
    return {f.name: None if f.default is MISSING else f.default for f in _fields(_find(name))}


def by_name(name: str, **parameters: object) -> PairLoss:
    """The loss of that name, with defaults for what is not given. Texts are read as what the parameter is.

    Raises:
        ValueError: when there is no such loss or parameter (the message lists those that exist), a text cannot be
            read, a parameter is out of its range, or one without a default is not given.

    >>> by_name("r-dpo", alpha="0.01")
    RDPO(beta=0.1, alpha=0.01)
    """
    loss = _find(name)
    known = {f.name: f for f in _fields(loss)}
    for given in parameters:
        if given not in known:
            listed = f"its parameters: {', '.join(known)}" if known else "it has none"
            raise ValueError(f"the loss {name} has no parameter {given!r}{_closest(given, list(known))}; {listed}")
    lacking = [
        n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in parameters
    ]
    if lacking:
        raise ValueError(f"the loss {name} has no usual value of {', '.join(lacking)}: it must be given")
    return loss(**{n: _read(name, n, v, str(known[n].type)) for n, v in parameters.items()})


def name_of(loss: str) -> str:
    """The name of the registered loss whose class is called so.

    Raises:
        ValueError: there is none.

    >>> name_of("RDPO")
    'r-dpo'
    """
    found = [name for name, one in _LOSSES.items() if one.__name__ == loss]
    if not found:
        raise ValueError(f"there is no loss of the class {loss}")
    return found[0]


def _find(name: str) -> type[PairLoss]:
    if name not in _LOSSES:
        raise ValueError(f"there is no loss {name!r}{_closest(name, names())}; losses: {', '.join(names())}")
    return _LOSSES[name]


def _fields(loss: type[PairLoss]) -> tuple[Field[Any], ...]:
    return fields(loss) if is_dataclass(loss) else ()


def _closest(given: str, known: list[str]) -> str:
    alike = get_close_matches(given.lower(), known, n=1)
    return f" (did you mean {alike[0]}?)" if alike else ""


def _read(loss: str, parameter: str, value: object, kind: str) -> object:
    """A text as the parameter's type; anything else as it came, for the loss itself to judge."""
    kind = kind.removesuffix(" | None")
    if not isinstance(value, str) or kind == "str":
        return value
    if kind == "bool" and value.lower() in ("true", "false"):
        return value.lower() == "true"
    expected = {"float": "a number", "int": "a whole number", "bool": "true or false"}.get(kind, kind)
    try:
        return {"float": float, "int": int}[kind](value)
    except (KeyError, ValueError):
        raise ValueError(f"the loss {loss}: {parameter} must be {expected}, got {value!r}") from None


# A family's losses are those that its module exports: a new one is written there, and nowhere else.
for _family in (averaged, gpo, hinge, logistic, regularised, separate, squared):
    for _exported in _family.__all__:
        if isinstance(_loss := getattr(_family, _exported), type) and issubclass(_loss, PairLoss):
            register(_loss)

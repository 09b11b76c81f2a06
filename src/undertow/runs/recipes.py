"""Recipes and sweeps: YAML files of options, in which words stay words and numbers are numbers.

Read by the rules of YAML 1.2, not 1.1: ``yes``, ``No`` and ``on`` are text, only ``true`` and ``false`` are truth
values, and ``1e-6`` is a number. Keys are always text. A key that is given twice, a tag and whatever is no YAML are
refused with their line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from undertow.errors import OptionError
from undertow.runs.option_names import SAME

__all__ = ["Arm", "Entry", "read_arms", "read_recipe"]

_ARM = re.compile(r"[\w.-]+")
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One option in a file: its value, and where it stands, for messages (``--config recipe.yaml, line 7``)."""

    value: Any
    place: str


Arm = dict[str, Entry]


def read_recipe(path: str | Path) -> dict[str, Entry]:
    """A YAML file of options, by their names with underscores; dashes may stand in the file.

    Raises:
        OptionError: it cannot be read, or is no such file.
    """
    file = _File(path, "--config")
    root = file.root()
    if not isinstance(root, yaml.MappingNode):
        raise OptionError(f"{file.name}: expected options and their values, such as `lr: 1e-6`.")
    return file.options(root)


def read_arms(path: str | Path) -> dict[str, Arm]:
    """A YAML file of arms: names, and the options in which each differs from the command line.

    Raises:
        OptionError: it cannot be read, or is not of that form; or two arms would share a folder.
    """
    file = _File(path, "--sweep")
    root = file.root()
    form = "expected arms by name, each with its options, such as `dpo: {loss: dpo}` and `sft: {loss: rpo}`"
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise OptionError(f"{file.name}: {form}.")
    arms: dict[str, Arm] = {}
    for key, node in file.pairs(root):
        place, name = file.place(key), key.value
        if not _ARM.fullmatch(name) or not name.strip("."):
            raise OptionError(f"{place}: the arm {name!r} needs a name that can be a folder's: letters, digits, _ . -.")
        # Some file systems do not tell capitals from small letters: there the two would be one folder.
        twin = next((other for other in arms if other.casefold() == name.casefold()), None)
        if twin is not None:
            raise OptionError(f"{place}: the arms {twin!r} and {name!r} differ in capitals only; name one otherwise.")
        if isinstance(node, yaml.MappingNode):
            arms[name] = file.options(node)
        elif file.value(node) is None:
            arms[name] = {}
        else:
            raise OptionError(f"{place}: the arm {name!r} is not of the form; {form}.")
    return arms


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml is untyped here
    """PyYAML's safe loader with the plain words and numbers of YAML 1.2 (its core schema)."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)

_SCALARS = {_TAG + kind for kind in ("null", "bool", "int", "float", "str")}
_NODES = {_TAG + kind for kind in ("map", "seq")} | _SCALARS


class _File:
    """One file: its nodes, which know their lines, and their values."""

    def __init__(self, path: str | Path, option: str) -> None:
        self.name = f"{option} {path}"
        self._path = Path(path)

    def root(self) -> Any:
        """The node that holds all; None in an empty file."""
        try:
            self._loader = _Loader(self._path.read_text(encoding="utf-8-sig"))
            return self._loader.get_single_node()
        except OSError as error:
            raise OptionError(f"{self.name}: it cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise OptionError(f"{self.name}: it is not YAML: it is not UTF-8 text.") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            what = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise OptionError(f"{self.name}{where}: it is not YAML: {what}.") from error

    def place(self, node: Any) -> str:
        """Where a node stands."""
        return f"{self.name}, line {node.start_mark.line + 1}"

    def options(self, node: Any) -> dict[str, Entry]:
        """A mapping of options, each with its place."""
        found: dict[str, Entry] = {}
        for key, value in self.pairs(node):
            name = key.value.replace("-", "_")
            name = SAME.get(name, name)
            if name in found:
                raise OptionError(f"{self.place(key)}: {key.value!r} is given a second time.")
            found[name] = Entry(self.value(value), self.place(key))
        return found

    def pairs(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """The keys and values of a mapping node; the keys are text, each there once."""
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise OptionError(f"{self.place(key)}: expected a name before the colon.")
            if key.value in seen:
                raise OptionError(f"{self.place(key)}: {key.value!r} is given a second time.")
            seen.add(key.value)
            yield key, value

    def value(self, node: Any, above: Iterable[int] = ()) -> Any:
        """A node's value: text, a number, a truth value, null, or lists and mappings of these."""
        above = {*above, id(node)}
        if node.tag not in _NODES or isinstance(node, yaml.ScalarNode) != (node.tag in _SCALARS):
            raise OptionError(f"{self.place(node)}: the tag {node.tag.replace(_TAG, '!!')} has no meaning here.")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        inner = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
        if any(id(item) in above for item in inner):
            raise OptionError(f"{self.place(node)}: it contains itself.")
        if isinstance(node, yaml.MappingNode):
            return {key.value: self.value(item, above) for key, item in self.pairs(node)}
        return [self.value(item, above) for item in node.value]

    def _scalar(self, node: Any) -> Any:
        try:
            # Not PyYAML's own, by which 010 is eight.
            return int(node.value) if node.tag == f"{_TAG}int" else self._loader.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError) as error:
            kind = node.tag.removeprefix(_TAG)
            raise OptionError(f"{self.place(node)}: {node.value!r} is no {kind}.") from error

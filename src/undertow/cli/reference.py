"""Every command and option as a page of the docs: ``python -m undertow.cli.reference > docs/commands.md``."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import typer

from undertow.cli import commands
from undertow.cli.app import app

HEAD = """# Commands and options

Made from the commands themselves by `make reference`; `undertow COMMAND --help` prints the same. Exit codes: 0 done,
2 the input or the command line is wrong, 1 anything else, 130 interrupted.
"""


def page() -> str:
    """The page, in Markdown."""
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")
    root: Any = typer.main.get_command(app)
    parts = [HEAD]
    for name in sorted(root.commands):
        parts += _command(name, root.commands[name])
    return "\n".join(parts)


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## undertow {name}\n"
    yield f"{_plain(command.help)}\n"
    yield "| option | default | what it does |\n|---|---|---|"
    for parameter in command.params:
        if parameter.name != "help" and not getattr(parameter, "hidden", False):
            yield f"| {_names(parameter)} | {_default(parameter)} | {_plain(getattr(parameter, 'help', None))} |"
    yield ""


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(f"`{name}`" for name in names)


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or value == "" or callable(value):
        return ""
    return "yes" if value is True else f"`{value}`"


def _plain(text: str | None) -> str:
    """One line, with what would end a cell of the table escaped."""
    return re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")

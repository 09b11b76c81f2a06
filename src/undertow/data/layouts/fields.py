"""The fields of a row: text, messages and the system message, checked, with a reason where they cannot be used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from undertow.data.pairs import Message, Prompt
from undertow.data.rows import shown

Row = Mapping[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")
_SYSTEM = ("system", "system_prompt")
# ShareGPT's names for who speaks, as its readers (LLaMA-Factory, Axolotl) know them.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
_ASKS = ("user", "tool")


class RowError(Exception):
    """A row that cannot be used; the message is the reason."""


class MisfitError(RowError):
    """A row whose columns or types are not those of its layout."""


def text(row: Row, field: str) -> str:
    """A string that says something, to the letter."""
    return checked_text(present(row, field), f"`{field}`")


def checked_text(value: object, where: str) -> str:
    """``value`` as a string that says something.

    Raises:
        RowError: it is no string, is empty, or could not be written as UTF-8.
    """
    if not isinstance(value, str):
        raise MisfitError(f"{where} is {shown(value)}, expected a string")
    if not value.strip():
        raise RowError(f"{where} is empty" if not value else f"{where} holds only white space")
    if not value.isascii() and (lone := _SURROGATE.search(value)):
        raise RowError(f"{where} holds invalid UTF-8 (a lone surrogate, \\u{ord(lone[0]):04x})")
    return value


def optional_text(row: Row, field: str) -> str | None:
    """A string that says something, or None where it is absent, null or blank."""
    value = row.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return checked_text(value, f"`{field}`")


def present(row: Row, field: str) -> Any:
    """The value of a column that must be there, null included."""
    if field not in row:
        columns = ", ".join(f"`{str(name)!s:.40}`" for name in list(row)[:8])
        raise MisfitError(f"`{field}` is missing (columns: {columns or 'none'})")
    return row[field]


def items(row: Row, field: str, least: int = 1) -> Sequence[Any]:
    """A list with at least ``least`` elements."""
    value = present(row, field)
    if not isinstance(value, list | tuple):
        raise MisfitError(f"`{field}` is {shown(value)}, expected a list")
    if len(value) < least:
        raise RowError(f"`{field}` is {shown(value)}, expected at least {least}")
    return value


def messages(row: Row, field: str) -> tuple[Message, ...]:
    """A list of ``{role, content}``."""
    spoken = (_message(value, f"`{field}[{index}]`") for index, value in enumerate(items(row, field)))
    return _system_first(tuple(spoken), field)


def turns(row: Row, field: str) -> tuple[Message, ...]:
    """A list of ShareGPT's ``{from, value}``."""
    spoken = (turn(value, f"`{field}[{index}]`") for index, value in enumerate(items(row, field)))
    return _system_first(tuple(spoken), field)


def turn(value: object, where: str) -> Message:
    """One ``{from, value}``, or the same as ``{role, content}``."""
    if not isinstance(value, Mapping) or "from" not in value:
        return _message(value, where)
    speaker = value["from"]
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise RowError(f"{where} comes from {shown(speaker)}, expected one of {', '.join(_SPEAKERS)}")
    role = _SPEAKERS[speaker]
    return Message(role, _content(value.get("value"), role, f"{where} `value`"))


def reply(spoken: tuple[Message, ...], field: str) -> str:
    """The text of a response that must be exactly one assistant message."""
    if len(spoken) != 1:
        roles = ", ".join(message.role for message in spoken)
        raise RowError(f"`{field}` is {len(spoken)} messages ({roles}), expected exactly one, the assistant's")
    if spoken[0].role != "assistant":
        raise RowError(f"`{field}` is a message of the role {shown(spoken[0].role)}, expected assistant")
    return spoken[0].content


def asked(conversation: tuple[Message, ...], what: str) -> tuple[Message, ...]:
    """A conversation that ends where a response is due."""
    if not conversation:
        raise RowError(f"{what} is empty")
    if conversation[-1].role not in _ASKS:
        raise RowError(f"{what} ends with the role {shown(conversation[-1].role)}, expected user (or tool)")
    return conversation


def prompt_of(row: Row, field: str = "prompt") -> Prompt:
    """A prompt as a string or as messages that end with the user."""
    value = present(row, field)
    if isinstance(value, list | tuple):
        return asked(messages(row, field), f"`{field}`")
    if not isinstance(value, str):
        raise MisfitError(f"`{field}` is {shown(value)}, expected a string or a list of messages")
    return text(row, field)


def with_system(row: Row, prompt: Prompt) -> Prompt:
    """The prompt with the row's system message in front, where it has one in a column of its own."""
    column = next((name for name in _SYSTEM if row.get(name) is not None), None)
    system = optional_text(row, column) if column else None
    if system is None:
        return prompt
    if isinstance(prompt, str):
        return (Message("system", system), Message("user", prompt))
    if prompt[0].role != "system":
        return (Message("system", system), *prompt)
    if prompt[0].content.strip() != system.strip():
        raise RowError(f"`{column}` and the prompt's own system message differ; keep one of them")
    return prompt


def _system_first(conversation: tuple[Message, ...], field: str) -> tuple[Message, ...]:
    """Refuse a system message after other turns: chat templates raise on it, or move it to the front."""
    for index, message in enumerate(conversation[1:], start=1):
        if message.role == "system":
            raise RowError(f"`{field}[{index}]` is a system message; only the first can be one")
    return conversation


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise MisfitError(f"{where} is {shown(value)}, expected an object with `role` and `content`")
    role = value.get("role")
    if not isinstance(role, str) or not role.strip():
        raise MisfitError(f"{where} has {shown(role) if 'role' in value else 'no'} `role`, expected user, assistant, …")
    checked_text(role, f"{where} `role`")
    if value.get("tool_calls"):
        raise RowError(f"{where} holds tool calls, which cannot be scored as text")
    return Message(role, _content(value.get("content"), role, f"{where} `content`"))


def _content(value: object, role: str, where: str) -> str:
    if isinstance(value, list | tuple):
        value = "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(value))
    # An empty system message means "no default one" to many chat templates, and a tool may have nothing to say.
    if isinstance(value, str) and not value and role not in ("user", "assistant"):
        return value
    return checked_text(value, where)


def _part(value: object, where: str) -> str:
    if not isinstance(value, Mapping) or value.get("type") != "text":
        kind = value.get("type") if isinstance(value, Mapping) else value
        raise RowError(f"{where} is a part of the type {shown(kind)}; only text can be scored")
    if not isinstance(value.get("text"), str):
        raise MisfitError(f"{where} has as `text` {shown(value.get('text'))}, expected a string")
    return str(value["text"])

"""Single fields of a row: checked, with the field and what came named when one is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undertow.data.pairs import Message

Row = Mapping[str, Any]

ROLES = {  # what data sets call them
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
    "function_call": "assistant",
    "function": "tool",
}


class RowError(ValueError):
    """A row cannot be used; the message is the reason that is reported for it."""


def text(row: Row, field: str) -> str:
    """A string that holds something."""
    if field not in row:
        raise RowError(f"`{field}` is missing")
    value = row[field]
    if value is None:
        raise RowError(f"`{field}` is null")
    if not isinstance(value, str):
        raise RowError(f"`{field}` must be a string, found {shorten(value)}")
    if not value.strip():
        raise RowError(f"`{field}` is empty")
    return encodable(value, field)


def optional_text(row: Row, field: str) -> str:
    """A string that may be empty, null or absent."""
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"`{field}` must be a string, found {shorten(value)}")
    return encodable(value, field)


def encodable(value: str, field: str) -> str:
    """Text without lone surrogates: they stand for bytes that were no UTF-8."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"`{field}` is invalid UTF-8 at character {error.start}") from None
    return value


def conversation(row: Row, field: str) -> tuple[Message, ...]:
    """A list of messages, ``role``/``content`` or ``from``/``value``; a single message counts as a list of one."""
    if field not in row:
        raise RowError(f"`{field}` is missing")
    value = row[field]
    if value is None:
        raise RowError(f"`{field}` is null")
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise RowError(f"`{field}` must be a list of messages, found {shorten(value)}")
    if not value:
        raise RowError(f"`{field}` is an empty list")
    messages = tuple(_message(item, f"{field}[{index}]") for index, item in enumerate(value))
    late = next((i for i, m in enumerate(messages) if m.role == "system" and i), None)
    if late is not None:
        raise RowError(f"`{field}[{late}]` is a system message; only the first may be one")
    return messages


def one_answer(messages: tuple[Message, ...], field: str) -> str:
    """The text of a response: exactly one assistant message."""
    if len(messages) != 1:
        found = ", ".join(message.role for message in messages) or "nothing"
        raise RowError(f"the response in `{field}` must be one assistant message, found {len(messages)} ({found})")
    if messages[0].role != "assistant":
        raise RowError(f"the response in `{field}` must be an assistant message, found one by {messages[0].role!r}")
    return messages[0].content


def responses_differ(chosen: str, rejected: str) -> None:
    """Refuse a pair that prefers nothing."""
    if chosen == rejected:
        raise RowError("`chosen` and `rejected` are identical")


def shorten(value: object) -> str:
    """What came, for a message: its type and its beginning, without control characters."""
    shown = ascii(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return f"{'null' if value is None else type(value).__name__} {shown}" if value is not None else "null"


def _message(item: Any, field: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(f"`{field}` must be a message with role and content, found {shorten(item)}")
    names = ("role", "content") if "role" in item or "content" in item else ("from", "value")
    role, content = (item.get(name) for name in names)
    if not isinstance(role, str) or not role.strip():
        raise RowError(f"`{field}` has no {names[0]}: found {shorten(role)}")
    role = role.strip().lower()
    return Message(ROLES.get(role, role), _content(content, f"{field}.{names[1]}"))


def _content(content: Any, field: str) -> str:
    if isinstance(content, list):  # parts, as multimodal data has them
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise RowError(f"`{field}` holds a part that is not text: {shorten(part)}")
        content = "".join(part["text"] for part in content)
    return text({field: content}, field)

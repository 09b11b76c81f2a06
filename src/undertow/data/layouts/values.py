"""The values of a row: text, turns of a conversation, tools, checked, with a reason where they cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from undertow.data.pairs import Message, Prompt, canonical
from undertow.data.rows import shown

Row = Mapping[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")
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
# ShareGPT's two names that people keep when they rename `from` to `role`.
_ROLES = {"human": "user", "gpt": "assistant"}
_ASKS = ("user", "tool")
# Fields of a turn besides its text that chat templates read.
_EXTRA = ("reasoning_content", "reasoning", "thinking", "tool_calls", "tool_call_id", "name")
TURN_FIELDS = frozenset({"role", "content", "from", "value", "function_call", *_EXTRA})
"""The fields of a turn that are read; others are named as unused."""
IMAGE = "this row has an image; vision models are not supported"
_IMAGE_PARTS = ("image", "image_url", "input_image", "video", "video_url", "audio", "audio_url", "input_audio")
# LLaMA-Factory's and LLaVA's placeholders stand at the beginning or the end of a turn.
_PLACEHOLDER = re.compile(r"\A\s*<(image|video|audio)>|<(image|video|audio)>\s*\Z")


class RowError(Exception):
    """A row that cannot be used; the message is the reason."""


class MisfitError(RowError):
    """A row whose columns or types are not those of its layout."""


def checked_text(value: object, where: str) -> str:
    """``value`` as a string that says something, to the letter.

    Raises:
        RowError: it is no string, is empty, or could not be written as UTF-8.
    """
    if not isinstance(value, str):
        raise MisfitError(f"{where} is {shown(value)}, expected a string")
    if not value.strip():
        raise RowError(f"{where} is empty" if not value else f"{where} holds only white space")
    _check_unicode(value, where)
    return value


def optional_text(row: Row, column: str | None) -> str | None:
    """A string that says something, or None where it is absent, null or blank."""
    value = row.get(column) if column else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return checked_text(value, f"`{column}`")


def checked_list(value: object, where: str, least: int = 1) -> Sequence[Any]:
    """``value`` as a list with at least ``least`` elements."""
    if not isinstance(value, list | tuple):
        raise MisfitError(f"{where} is {shown(value)}, expected a list")
    if len(value) < least:
        raise RowError(f"{where} is {shown(value)}, expected at least {least}")
    return value


def turns(value: object, where: str) -> tuple[Message, ...]:
    """A list of turns, each ``{role, content}`` or ShareGPT's ``{from, value}``.

    Raises:
        RowError: one of them is no turn, or a system message stands after others: chat templates raise on it, or move
            it to the front.
    """
    spoken = tuple(turn(one, f"{where[:-1]}[{index}]`") for index, one in enumerate(checked_list(value, where)))
    for index, message in enumerate(spoken[1:], start=1):
        if message.role == "system":
            raise RowError(f"{where[:-1]}[{index}]` is a system message; only the first can be one")
    return spoken


def turn(value: object, where: str) -> Message:
    """One turn. Reasoning, tool calls and a tool's name come along in ``Message.extra``."""
    if not isinstance(value, Mapping):
        raise MisfitError(f"{where} is {shown(value)}, expected an object with `role` and `content`")
    role, field = (
        (_speaker(value, where), "value") if value.get("from") is not None else (_role(value, where), "content")
    )
    extra = _extra(value, where)
    content = value.get(field)
    if content is None and "tool_calls" in extra:
        content = ""
    if content == "" and "tool_calls" in extra:
        return Message(role, "", canonical(extra))
    return Message(role, _content(content, role, f"{where} `{field}`"), canonical(extra))


def _speaker(value: Mapping[str, Any], where: str) -> str:
    speaker = value["from"]
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise RowError(f"{where} comes from {shown(speaker)}, expected one of {', '.join(_SPEAKERS)}")
    return _SPEAKERS[speaker]


def _role(value: Mapping[str, Any], where: str) -> str:
    role = value.get("role")
    if not isinstance(role, str) or not role.strip():
        came = shown(role) if "role" in value else "no"
        raise MisfitError(f"{where} has {came} `role`, expected user, assistant, …")
    checked_text(role, f"{where} `role`")
    return _ROLES.get(role, role)


def is_turn(value: object) -> bool:
    """Whether a value is laid out as a turn: a role or a speaker, and what is said."""
    return isinstance(value, Mapping) and (value.get("role") is not None or value.get("from") is not None)


def is_turns(value: object) -> bool:
    """Whether a value is a list that begins with a turn."""
    return isinstance(value, list | tuple) and bool(value) and is_turn(value[0])


def is_open(value: object) -> bool:
    """Whether a value is a list of turns that does not end with the assistant's: a response is due."""
    if not is_turns(value) or not is_turn(last := value[-1]):  # type: ignore[index]  # a list
        return False
    speaker = last.get("from") or last.get("role")
    return not isinstance(speaker, str) or _SPEAKERS.get(speaker) != "assistant"


def reply(spoken: tuple[Message, ...], where: str) -> Message:
    """A response that must be exactly one assistant message, and text: tool calls cannot be scored as text."""
    if len(spoken) != 1:
        roles = ", ".join(message.role for message in spoken)
        raise RowError(f"{where} is {len(spoken)} messages ({roles}), expected exactly one, the assistant's")
    (said,) = spoken
    if said.role != "assistant":
        raise RowError(f"{where} is a message of the role {shown(said.role)}, expected assistant")
    if '"tool_calls":' in said.extra and "tool_calls" in json.loads(said.extra):
        raise RowError(f"{where} holds tool calls, which cannot be scored as text; expected a response of text")
    return said


def answer(value: object, where: str) -> Message:
    """A response in any of its forms: a string, an assistant's turn, or a list of just that."""
    if isinstance(value, list | tuple):
        return reply(turns(value, where), where)
    if isinstance(value, Mapping):
        return reply((turn(value, where),), where)
    return Message("assistant", checked_text(value, where))


def asked(conversation: tuple[Message, ...], what: str) -> tuple[Message, ...]:
    """A conversation that ends where a response is due."""
    if not conversation:
        raise RowError(f"{what} is empty")
    if conversation[-1].role not in _ASKS:
        raise RowError(f"{what} ends with the role {shown(conversation[-1].role)}, expected user (or tool)")
    return conversation


def with_system(prompt: Prompt, system: str | None, where: str) -> Prompt:
    """The prompt with a system message in front; a string prompt then is the user's turn after it."""
    if system is None:
        return prompt
    if isinstance(prompt, str):
        return (Message("system", system), Message("user", prompt))
    if prompt[0].role != "system":
        return (Message("system", system), *prompt)
    if prompt[0].content.strip() != system.strip():
        raise RowError(f"{where} and the prompt's own system message differ; keep one of them")
    return prompt


def tools_of(value: object, where: str) -> str:
    """A list of tools as canonical JSON; empty where there are none. Each is an object, or JSON text of one."""
    if value is None or value in ("", [], (), {}):
        return ""
    if isinstance(value, Mapping):
        value = [value]
    tools = [_json_object(tool, f"{where[:-1]}[{index}]`") for index, tool in enumerate(checked_list(value, where))]
    return canonical([_without_nulls(tool) for tool in tools])


def refuse_images(prompt: Prompt) -> None:
    """Refuse a prompt in which a placeholder stands for an image that the row does not even carry."""
    for said in (prompt,) if isinstance(prompt, str) else (message.content for message in prompt):
        if "<" in said and (found := _PLACEHOLDER.search(said)):
            raise RowError(f"{IMAGE} (the prompt has the placeholder {found[0].strip()})")


def _extra(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {name: _without_nulls(value[name]) for name in _EXTRA if value.get(name) not in (None, "", [], ())}
    call = value.get("function_call")
    if call and "tool_calls" not in found:  # OpenAI's form before there were `tool_calls`
        found["tool_calls"] = [{"type": "function", "function": _without_nulls(call)}]
    for name, inner in found.items():
        try:
            _check_unicode(json.dumps(inner, ensure_ascii=False), f"{where} `{name}`")
        except TypeError:
            raise MisfitError(f"{where} `{name}` holds a value that JSON cannot: {shown(inner)}") from None
    return found


def _without_nulls(value: Any) -> Any:
    """Objects without their null fields: a Parquet column gives every object all the fields that any of them has."""
    if isinstance(value, Mapping):
        return {str(name): _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(inner) for inner in value]
    return value


def _json_object(value: object, where: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise MisfitError(f"{where} is {shown(value)}, expected an object that describes a tool") from None
    if not isinstance(value, Mapping):
        raise MisfitError(f"{where} is {shown(value)}, expected an object that describes a tool")
    return value


def _content(value: object, role: str, where: str) -> str:
    if isinstance(value, list | tuple):
        value = "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(value))
    # An empty system message means "no default one" to many chat templates, and a tool may have nothing to say.
    if isinstance(value, str) and not value and role not in ("user", "assistant"):
        return value
    return checked_text(value, where)


def _part(value: object, where: str) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else value
    if kind in _IMAGE_PARTS:
        raise RowError(f"{IMAGE} ({where} is a part of the type {shown(kind)})")
    if not isinstance(value, Mapping) or kind != "text":
        raise RowError(f"{where} is a part of the type {shown(kind)}; only text can be scored")
    if not isinstance(value.get("text"), str):
        raise MisfitError(f"{where} has as `text` {shown(value.get('text'))}, expected a string")
    return str(value["text"])


def _check_unicode(text: str, where: str) -> None:
    if not text.isascii() and (lone := _SURROGATE.search(text)):
        raise RowError(f"{where} holds invalid UTF-8 (a lone surrogate, \\u{ord(lone[0]):04x})")

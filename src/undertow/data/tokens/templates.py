"""How a pair is laid out as text: through the model's chat template, or plainly.

A layout turns a pair into three strings (prompt, chosen response, rejected response) such that prompt + response is,
to the letter, the text that preference training with Hugging Face tools would tokenise. Where a response ends, and with
which token, is found here once for a tokenizer; turning text into tokens is the business of `encoder`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from jinja2.exceptions import TemplateError

from undertow.data.pairs import Message, Pair, Prompt, canonical
from undertow.data.tokens.ends import KNOWN_ENDS, EndTokens
from undertow.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_SYSTEM = "UndertowProbeSystem"
PROBE_USER = "UndertowProbeUser"
PROBE_ANSWER = "UndertowProbeAnswer"

HH_HEADERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
HH_ANSWER = "\n\nAssistant:"

REASONING = ("reasoning_content", "reasoning", "thinking")
"""The fields of a turn in which reasoning models keep what they think before they answer."""
_TOOL_CALLS = "tool_calls"
_BOOKKEEPING = {"name", "tool_call_id"}
"""Fields of a turn whose loss changes nothing that was said."""
_THINK_END = "</think>"


class LayoutError(Exception):
    """One pair cannot be laid out; the message says why. It becomes the reason of a `BadRow`."""


@dataclass(frozen=True, slots=True)
class ResponseText:
    """A response as text, its end of turn included, and what happened to it on the way.

    ``own_end`` and ``foreign_end`` are end tokens that the data's text ended with (see
    :class:`~undertow.data.tokens.ends.Ending`). ``without_reasoning``: the chat template leaves the turn's reasoning
    out. ``cut``: it leaves out text of the response itself; ``cut_before_think``: everything before ``</think>``.
    """

    text: str
    own_end: str = ""
    foreign_end: str = ""
    without_reasoning: bool = False
    cut: bool = False
    cut_before_think: bool = False

    @property
    def removed(self) -> str:
        """What the chat template took away, for a message; empty where that is nothing."""
        if self.without_reasoning or self.cut_before_think:
            return "the reasoning"
        return "text of a response" if self.cut else ""


@dataclass(frozen=True, slots=True)
class TextPair:
    """A pair as text: ``prompt + response.text`` is what gets tokenised.

    ``templated`` where the data's own text is used as it is, since it carries the chat template's tokens already.
    """

    prompt: str
    chosen: ResponseText
    rejected: ResponseText
    templated: bool = False


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """What closes a response.

    ``token`` is the end-of-turn token's text. ``text`` is all that follows a response's content and is part of the
    response: the token, and before it whatever the template puts between (Llama 2 puts a space there). ``by_template``
    says that the template renders it; otherwise it is put after each response here.
    """

    token: str
    text: str
    by_template: bool


class Layout(Protocol):
    """What `undertow.data.tokens.encoder.PairEncoder` needs of a layout."""

    name: str
    end: EndOfTurn | None

    def lay_out(self, pair: Pair) -> TextPair:
        """The pair as text. Raises `LayoutError` where it has no such form."""
        ...

    def describe(self) -> dict[str, object]:
        """What the layout adds to the data, for ``audit.json``."""
        ...


class PlainLayout:
    """No template: a string prompt and its response to the letter; a conversation as Human and Assistant turns.

    A conversation is laid out as the HH data sets are: the system text first, ``\\n\\nHuman: …`` and
    ``\\n\\nAssistant: …`` for the turns, ``\\n\\nAssistant:`` for the turn to come, and a space before the response.
    The response ends with the tokenizer's end-of-sequence token, unless its text already has an end.
    """

    name = "plain"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, eot: bool) -> None:
        self.end = _eos(tokenizer, "the plain layout") if eot else None
        self._has_template = bool(getattr(tokenizer, "chat_template", None))
        self._ends = EndTokens(_own_ends(tokenizer, _templates_end(tokenizer) if self._has_template else None))

    def lay_out(self, pair: Pair) -> TextPair:
        """The pair as text. Raises `LayoutError` for what plain text has no place for: tools, reasoning, more roles."""
        _refuse_more_than_text(pair, "the plain layout", has_template=self._has_template)
        if isinstance(pair.prompt, str):
            prompt, space = pair.prompt, ""
        else:
            prompt, space = _hh_prompt(pair.prompt), " "
        chosen, rejected = (_as_it_is(text, self._ends, self.end, space) for text in (pair.chosen, pair.rejected))
        return TextPair(prompt, chosen, rejected)

    def describe(self) -> dict[str, object]:
        """Plain text: nothing is added but the end of the turn."""
        return {"chat_template": None, "adds_system_prompt": False, "system_prompt": None}


class ChatLayout:
    """The tokenizer's chat template, with the generation prompt.

    The prompt is what the template renders for the conversation with ``add_generation_prompt=True``; the response is
    what it renders after that for the assistant's turn, up to and with the end-of-turn token (found by rendering a
    probe). What the template does to a response, trimming it or putting an empty think block before it, thus belongs
    to the response. Some templates end the generation prompt with text that the finished turn does not have (an opened
    ``<think>``): such an end is left out of all prompts, as training does.

    With ``recognise``, a string prompt that carries the template's tokens already is used as it is, with its responses.
    """

    name = "chat"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, eot: bool, recognise: bool = False) -> None:
        self._tokenizer = tokenizer
        user = Message("user", PROBE_USER)
        try:
            prompt = self._render((user,))
            whole = self._render((user,), Message("assistant", PROBE_ANSWER))
        except TemplateError as error:
            message = (
                f"The tokenizer's chat template cannot render a question and its answer: {error}. Use --template plain."
            )
            raise ModelError(message) from error
        if PROBE_ANSWER not in whole:
            raise ModelError("The tokenizer's chat template leaves the assistant's answer out. Use --template plain.")
        start = whole.rindex(PROBE_ANSWER)
        self._drawn = whole[start + len(PROBE_ANSWER) :]
        self._unfinished = prompt[_shared_length(prompt, whole[:start]) :]
        self.end = _end_of_turn(tokenizer, self._drawn) if eot else None
        self._ends = EndTokens(_own_ends(tokenizer, _drawn_end(tokenizer, self._drawn)))
        self._system = self._added_system_prompt()
        self._signs = _Signs.find(tokenizer, prompt) if recognise else None
        self._header = _generation_prompt(prompt, self._render((user,), ask=False)).removesuffix(self._unfinished)

    def lay_out(self, pair: Pair) -> TextPair:
        """The pair as text. Raises `LayoutError` where the template refuses the conversation or renders it unusably."""
        if isinstance(pair.prompt, str):
            if self._signs and self._signs.carried_by(pair.prompt):
                return self._already_templated(pair, pair.prompt)
            turns: tuple[Message, ...] = (Message("user", pair.prompt),)
        else:
            turns = pair.prompt
        if not turns:
            raise LayoutError("the prompt has no messages")
        try:
            tools = self._tools(turns, json.loads(pair.tools)) if pair.tools else None
            prompt = self._render(turns, tools=tools)
            self._check_tool_calls(turns, None, prompt, tools)
            prompt = prompt.removesuffix(self._unfinished)
            responses = ((pair.chosen, pair.chosen_extra), (pair.rejected, pair.rejected_extra))
            chosen, rejected = (self._response(turns, prompt, *said, tools) for said in responses)
        except TemplateError as error:
            raise LayoutError(f"the chat template refuses this conversation: {error}") from error
        return TextPair(prompt, chosen, rejected)

    def describe(self) -> dict[str, object]:
        """The template, and the system prompt it adds to conversations that have none."""
        return {
            "chat_template": self._tokenizer.get_chat_template(),
            "adds_system_prompt": self._system is not None,
            "system_prompt": self._system,
        }

    def _render(
        self,
        turns: Sequence[Message],
        response: Message | None = None,
        *,
        tools: list[Any] | None = None,
        ask: bool | None = None,
    ) -> str:
        """The template's text; with the generation prompt where no response follows, unless ``ask`` says otherwise."""
        every = (*turns, response) if response else turns
        messages = [
            self._record(turn) if turn.extra else {"role": turn.role, "content": turn.content} for turn in every
        ]
        return self._apply(messages, tools=tools, ask=response is None if ask is None else ask)

    def _apply(self, messages: list[dict[str, Any]], *, tools: list[Any] | None, ask: bool) -> str:
        given = {"tools": tools} if tools else {}
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=ask, **given
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # a template that adds text to a dict
            raise TemplateError(f"{type(error).__name__}: {error}") from error
        return text

    def _record(self, turn: Message) -> dict[str, Any]:
        """A turn with further fields, as the template reads it."""
        record = turn.record()
        calls = record.get(_TOOL_CALLS)
        if isinstance(calls, list):
            record[_TOOL_CALLS] = [_with_arguments(call, as_text=self._text_arguments) for call in calls]
        return record

    @cached_property
    def _text_arguments(self) -> bool:
        """Whether the template takes a tool call's arguments as JSON text only; most take a mapping, some either."""
        return not self._renders_call({"a": "b"}) and self._renders_call('{"a": "b"}')

    def _renders_call(self, arguments: object) -> bool:
        call = {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": arguments}}
        user = {"role": "user", "content": PROBE_USER}
        try:
            self._apply(
                [user, {"role": "assistant", "content": "", _TOOL_CALLS: [call]}],
                tools=None,
                ask=False,
            )
        except TemplateError:
            return False
        return True

    def _tools(self, turns: Sequence[Message], tools: list[Any]) -> list[Any] | None:
        """The tools as given. Raises `LayoutError` where the template has no place for them."""
        if not tools:
            return None
        without = self._render(turns)
        try:
            rendered = self._render(turns, tools=tools)
        except TemplateError as error:
            raise LayoutError(f"the chat template has no place for tools: {error}") from error
        if rendered == without:
            raise LayoutError("the chat template has no place for tools: it leaves them out")
        return tools

    def _check_tool_calls(
        self, turns: Sequence[Message], response: Message | None, rendered: str, tools: list[Any] | None
    ) -> None:
        """Raise `LayoutError` where the template leaves out the tool calls of the response, or else of the prompt."""
        if response is not None:
            calls = _TOOL_CALLS in response.extra
            response = _without_calls(response)
        else:
            calls = any(_TOOL_CALLS in turn.extra for turn in turns)
            turns = tuple(map(_without_calls, turns))
        if not calls:
            return
        try:
            without = self._render(turns, response, tools=tools)
        except TemplateError:  # it reads them: an answer of a tool without a call before it is refused
            return
        if rendered == without:
            raise LayoutError("the chat template has no place for tool calls: it leaves them out")

    def _response(
        self, turns: Sequence[Message], prompt: str, said: str, extra: str, tools: list[Any] | None
    ) -> ResponseText:
        ending = self._ends.split(said)
        turn = Message("assistant", ending.content, extra)
        whole = self._render(turns, turn, tools=tools)
        if extra:
            self._check_tool_calls(turns, turn, whole, tools)
        if not whole.startswith(prompt):
            raise LayoutError("the chat template renders this prompt differently once an answer follows it")
        rest = whole[len(prompt) :]
        if not rest.endswith(self._drawn):
            raise LayoutError(f"the chat template does not close this answer with {self._drawn!r}, as it does others")
        content = rest.removesuffix(self._drawn)
        # What the generation prompt has opened (a think block) is not lost, though it is no part of the response.
        rendered = self._header + content
        cut = not _holds(rendered, ending.content)
        return ResponseText(
            content + (self.end.text if self.end else "") if content else "",
            own_end=ending.own,
            foreign_end=ending.foreign,
            without_reasoning=bool(extra) and not all(_holds(rendered, text) for text in _reasoning(turn)),
            cut=cut,
            cut_before_think=cut and _holds(rendered, ending.content.rpartition(_THINK_END)[2]),
        )

    def _already_templated(self, pair: Pair, prompt: str) -> TextPair:
        """The pair's own text. A header of the assistant's turn that both responses carry belongs to the prompt."""
        _refuse_more_than_text(pair, "a prompt that carries the chat template's tokens already", has_template=True)
        said = (pair.chosen, pair.rejected)
        header = self._header
        if header and not prompt.endswith(header) and all(text.startswith(header) for text in said):
            prompt, said = prompt + header, (said[0].removeprefix(header), said[1].removeprefix(header))
        chosen, rejected = (_as_it_is(text, self._ends, self.end) for text in said)
        return TextPair(prompt, chosen, rejected, templated=True)

    def _added_system_prompt(self) -> str | None:
        """The system prompt that the template adds where the data has none; None where it adds nothing."""
        user = Message("user", PROBE_USER)
        without = self._render((user,))
        try:
            before, after = self._render((Message("system", PROBE_SYSTEM), user)).split(PROBE_SYSTEM)
        except (TemplateError, ValueError):  # no system role, or one that is dropped or rendered twice
            return None
        is_default = without.startswith(before) and without.endswith(after) and len(without) > len(before) + len(after)
        return without[len(before) : len(without) - len(after)] if is_default else None


def _shared_length(one: str, other: str) -> int:
    """How many characters two strings share from their start."""
    differ = (k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def _as_it_is(response: str, ends: EndTokens, end: EndOfTurn | None, space: str = "") -> ResponseText:
    """A response to the letter, behind ``space``. The end of turn that it has is kept; one that has none gets one."""
    if not response:
        return ResponseText("")
    ending = ends.split(response)
    closed = (ending.own or end.text) if end else ""
    content = space + ending.content if ending.content or end else ""
    return ResponseText(content + closed, own_end=ending.own, foreign_end=ending.foreign)


def _holds(rendered: str, said: str) -> bool:
    """Whether a rendered text has all that was said, white space apart."""
    return said.strip() in rendered or "".join(said.split()) in "".join(rendered.split())


def _extra(turn: Message) -> dict[str, Any]:
    """The turn's further fields."""
    return json.loads(turn.extra) if turn.extra else {}


def _reasoning(turn: Message) -> Iterator[str]:
    """What was thought before the answer."""
    fields = _extra(turn)
    return (fields[name] for name in REASONING if isinstance(fields.get(name), str))


def _without_calls(turn: Message) -> Message:
    if _TOOL_CALLS not in turn.extra:
        return turn
    fields = {name: value for name, value in _extra(turn).items() if name != _TOOL_CALLS}
    return Message(turn.role, turn.content, canonical(fields))


def _with_arguments(call: Any, *, as_text: bool) -> Any:
    """A tool call whose arguments are a mapping, or JSON text where the template wants that.

    Text that is no JSON of a mapping stays as it is.
    """
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with_arguments(call["function"], as_text=as_text)}
    arguments = call.get("arguments")
    if isinstance(arguments, dict) and as_text:
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    if isinstance(arguments, str) and not as_text:
        try:
            parsed = json.loads(arguments)
        except ValueError:
            return call
        return {**call, "arguments": parsed} if isinstance(parsed, dict) else call
    return call


def _refuse_more_than_text(pair: Pair, where: str, *, has_template: bool) -> None:
    """Raise `LayoutError` for a pair with tools, tool calls or reasoning, which only a chat template can lay out."""
    if not (pair.tools or pair.chosen_extra or pair.rejected_extra or not isinstance(pair.prompt, str)):
        return
    turns = () if isinstance(pair.prompt, str) else pair.prompt
    extras = [Message("assistant", "", extra) for extra in (pair.chosen_extra, pair.rejected_extra)]
    fields = {name for turn in (*turns, *extras) for name in _extra(turn)} - _BOOKKEEPING
    if pair.tools:
        fields.add("tools")
    if fields:
        way_out = "use --template chat" if has_template else "it takes a tokenizer with a chat template"
        raise LayoutError(f"{where} has no place for {', '.join(sorted(fields))}: {way_out}")


def _hh_prompt(turns: Prompt) -> str:
    if not turns:
        raise LayoutError("the prompt has no messages")
    text = ""
    for turn in turns:
        assert isinstance(turn, Message)
        if turn.role == "system":
            text += turn.content if not text else f"\n\n{turn.content}"
        elif turn.role in HH_HEADERS:
            text += HH_HEADERS[turn.role] + turn.content
        else:
            raise LayoutError(
                f"the plain layout has no turns of the role {turn.role!r}, only system, user and assistant"
            )
    return text + HH_ANSWER


def _eos(tokenizer: PreTrainedTokenizerBase, needed_by: str) -> EndOfTurn:
    eos = tokenizer.eos_token
    if not eos:
        message = f"The tokenizer has no end-of-sequence token, which {needed_by} ends responses with. Use --no-eot."
        raise ModelError(message)
    return EndOfTurn(token=eos, text=eos, by_template=False)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, drawn: str) -> EndOfTurn:
    """The end of turn in what the template draws after an answer, else the tokenizer's eos."""
    return _drawn_end(tokenizer, drawn) or _eos(tokenizer, "this chat template's layout")


def _drawn_end(tokenizer: PreTrainedTokenizerBase, drawn: str) -> EndOfTurn | None:
    """What ends the turn in what the template draws after an answer: its first added token, else its text.

    Added tokens of white space (Gemma has some for newlines) end no turn.
    """
    found = [(drawn.index(name), -len(name), name) for name in _added_tokens(tokenizer) if name in drawn]
    if found:
        start, _, token = min(found)
        return EndOfTurn(token=token, text=drawn[: start + len(token)], by_template=True)
    if drawn.strip():
        return EndOfTurn(token=drawn.strip(), text=drawn.rstrip(), by_template=True)
    return None


def _templates_end(tokenizer: PreTrainedTokenizerBase) -> EndOfTurn | None:
    """What ends the turn in the tokenizer's chat template, for a layout that does not use it; None where it fails."""
    try:
        return ChatLayout(tokenizer, eot=True).end
    except ModelError:
        return None


def _own_ends(tokenizer: PreTrainedTokenizerBase, end: EndOfTurn | None) -> Iterator[str]:
    """The texts that end a response for this tokenizer: its eos, and its template's end of turn where that is a token
    and no mere punctuation."""
    if tokenizer.eos_token:
        yield str(tokenizer.eos_token)
    if end and (end.token in KNOWN_ENDS or end.token in _added_tokens(tokenizer)):
        yield from (end.token, end.text)


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that were added to the vocabulary as a whole (special ones and others), without those of white
    space."""
    return [name for token in tokenizer.added_tokens_decoder.values() if (name := str(token)).strip()]


def _generation_prompt(asking: str, alone: str) -> str:
    """What the template puts after a conversation to ask for an answer."""
    return asking.removeprefix(alone) if asking.startswith(alone) else ""


@dataclass(frozen=True, slots=True)
class _Signs:
    """How a text is known that the chat template has rendered already: the template's own tokens where it puts them.

    A token that a prompt only speaks of ("What is <|im_start|> for?") is no such sign.

    Attributes:
        bos, eos: the tokenizer's, or empty.
        openings: added tokens that the template draws; a rendered text begins with one, after BOS.
        words: what else the template puts before a question, for templates without such tokens (``[INST]``).
        asked: what it puts between a question and its answer.
        tokens: whether there is an added token in ``asked``.
    """

    bos: str
    eos: str
    openings: tuple[str, ...]
    words: str
    asked: str
    tokens: bool

    @classmethod
    def find(cls, tokenizer: PreTrainedTokenizerBase, prompt: str) -> _Signs | None:
        """The signs of a tokenizer's template; ``prompt`` is the probe's question with the generation prompt."""
        bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
        before, found, asked = prompt.removeprefix(bos).partition(PROBE_USER)
        if not found:
            return None
        added = _added_tokens(tokenizer)
        drawn = prompt.removeprefix(bos)  # BOS that stands there again begins turns
        openings = tuple(name for name in added if name in drawn and (name != eos or eos == bos))
        return cls(bos, eos, openings, before.strip(), asked.strip(), any(name in asked for name in added))

    def carried_by(self, prompt: str) -> bool:
        """Whether a prompt carries the template's tokens already."""
        start, end = prompt.lstrip(), prompt.rstrip()
        has_bos = bool(self.bos) and start.startswith(self.bos)
        body = start.removeprefix(self.bos).lstrip()
        if start.startswith(self.openings) or body.startswith(self.openings):
            return True
        asked = bool(self.asked) and end.endswith(self.asked)
        if asked and self.tokens:
            return True
        has_eos = bool(self.eos) and self.eos in prompt
        return bool(self.words) and body.startswith(self.words) and (has_bos or has_eos or asked)

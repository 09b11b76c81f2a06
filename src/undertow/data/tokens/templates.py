"""How a pair is laid out as text: through the model's chat template, or plainly.

A layout turns a pair into three strings (prompt, chosen response, rejected response) such that prompt + response is,
to the letter, the text that preference training with Hugging Face tools would tokenise. Where a response ends, and with
which token, is found here once for a tokenizer; turning text into tokens is the business of `encoder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from undertow.data.pairs import Message, Pair, Prompt
from undertow.errors import ModelError

PROBE_SYSTEM = "UndertowProbeSystem"
PROBE_USER = "UndertowProbeUser"
PROBE_ANSWER = "UndertowProbeAnswer"

HH_HEADERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
HH_ANSWER = "\n\nAssistant:"


class LayoutError(Exception):
    """One pair cannot be laid out; the message says why. It becomes the reason of a `BadRow`."""


@dataclass(frozen=True, slots=True)
class TextPair:
    """A pair as text: ``prompt + chosen`` and ``prompt + rejected`` are what gets tokenised, ends of turn included."""

    prompt: str
    chosen: str
    rejected: str


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
    The response ends with the tokenizer's end-of-sequence token unless its text already does.
    """

    name = "plain"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, eot: bool) -> None:
        self.end = _eos(tokenizer, "the plain layout") if eot else None

    def lay_out(self, pair: Pair) -> TextPair:
        """The pair as text. Raises `LayoutError` for a role other than system, user and assistant."""
        if isinstance(pair.prompt, str):
            prompt, space = pair.prompt, ""
        else:
            prompt, space = _hh_prompt(pair.prompt), " "
        return TextPair(
            prompt,
            *(_closed(space + response, self.end) if response else "" for response in (pair.chosen, pair.rejected)),
        )

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
    """

    name = "chat"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, eot: bool) -> None:
        self._tokenizer = tokenizer
        user = Message("user", PROBE_USER)
        try:
            prompt = self._render((user,))
            whole = self._render((user,), PROBE_ANSWER)
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
        self._system = self._added_system_prompt()

    def lay_out(self, pair: Pair) -> TextPair:
        """The pair as text. Raises `LayoutError` where the template refuses the conversation or renders it unusably."""
        turns = (Message("user", pair.prompt),) if isinstance(pair.prompt, str) else pair.prompt
        if not turns:
            raise LayoutError("the prompt has no messages")
        try:
            prompt = self._render(turns).removesuffix(self._unfinished)
            chosen, rejected = (self._response(turns, prompt, text) for text in (pair.chosen, pair.rejected))
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

    def _render(self, turns: tuple[Message, ...], response: str | None = None) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        if response is not None:
            messages.append({"role": "assistant", "content": response})
        text: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=response is None
        )
        return text

    def _response(self, turns: tuple[Message, ...], prompt: str, response: str) -> str:
        whole = self._render(turns, response)
        if not whole.startswith(prompt):
            raise LayoutError("the chat template renders this prompt differently once an answer follows it")
        rest = whole[len(prompt) :]
        if not rest.endswith(self._drawn):
            raise LayoutError(f"the chat template does not close this answer with {self._drawn!r}, as it does others")
        content = rest.removesuffix(self._drawn)
        return _closed(content, self.end) if content else ""

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


def _closed(content: str, end: EndOfTurn | None) -> str:
    """A response's content with its end of turn, which is not put twice after text that already ends with it."""
    if end is None or (not end.by_template and content.endswith(end.text)):
        return content
    return content + end.text


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
    """The end of turn in what the template draws after an answer: its first added token, else its text, else eos.

    Added tokens of white space (Gemma has some for newlines) end no turn.
    """
    names = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    found = [(drawn.index(name), -len(name), name) for name in names if name.strip() and name in drawn]
    if found:
        start, _, token = min(found)
        return EndOfTurn(token=token, text=drawn[: start + len(token)], by_template=True)
    if drawn.strip():
        return EndOfTurn(token=drawn.strip(), text=drawn.rstrip(), by_template=True)
    return _eos(tokenizer, "this chat template's layout")

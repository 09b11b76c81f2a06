"""Pairs to token pairs: where the prompt ends, where a response ends, and what is cut.

A response's tokens are those that a model which has read the prompt would have to produce. Hence two rules:

* The prompt's tokens are those of the prompt alone, for both responses and whatever they say: when a model starts to
  answer, its prompt is already tokenised. They stand at the beginning of the whole.
* Prompt and response tokens together decode to the laid-out text.

Prompt and prompt + response are encoded. Where the first is the beginning of the second, the rest is the response: the
usual case. Where the tokenizer has merged characters over the boundary (``"Answer: " + "Yes"``, where `` Yes`` is one
token), the response is encoded on its own, as text in the middle of a sentence: behind an anchor character that does
not merge with it and is then taken away. Encoding it bare would let SentencePiece tokenizers put a space before it that
nobody wrote.

Text of the data that spells a special token (a response with a literal ``<|im_end|>`` in its middle) becomes that
token, as in training with Hugging Face tools. At the end of a response the tokenizer's own end is its end, once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, get_args

from undertow.data.pairs import BadRow, Pair
from undertow.data.tokens.notes import EncodingNotes
from undertow.data.tokens.templates import ChatLayout, Layout, LayoutError, PlainLayout, TextPair
from undertow.errors import ModelError, OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["auto", "chat", "plain"]

ANCHORS = ("\n", "a", "}", "0", "。")
"""Characters to encode a response behind, tried in this order: for most texts one of the first two does not merge."""

TOKENS_VERSION = "2"
"""Changes whenever the same settings turn the same pair into other tokens."""

_BARE = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False, "verbose": False}


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """How pairs become tokens."""

    max_length: int = 1024
    """Prompt and response together have at most so many tokens; the end of a longer response is cut."""
    eot: bool = True
    """A response ends with the end-of-turn token, unless that was cut."""
    template: Template = "auto"
    """``chat`` is the tokenizer's chat template, ``plain`` is none, ``auto`` is ``chat`` where there is one and the
    text does not carry its tokens already."""

    def __post_init__(self) -> None:
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int) or self.max_length < 2:
            expected = "an integer of at least 2 (a prompt and a response token)"
            raise OptionError(f"--max-length {self.max_length!r}: expected {expected}.")
        if not isinstance(self.eot, bool):
            raise OptionError(f"eot={self.eot!r}: expected True or False.")
        if self.template not in get_args(Template):
            raise OptionError(f"--template {self.template!r}: expected one of {', '.join(get_args(Template))}.")


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A pair as token ids; ``truncated`` where the end of a response was cut.

    ``duplicate_of`` and ``contradicts`` are rows of the same data (see :mod:`undertow.runs.repeats`), which are known
    only when all of it was read. ``weights``: what each response token counts in the log-probabilities of the two
    responses, chosen tokens first; 1 each where there are none.
    """

    row: int
    pair_id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    truncated: bool
    duplicate_of: int | None = None
    contradicts: int | None = None
    weights: tuple[float, ...] = field(default=(), repr=False)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt, with BOS and generation prompt: q."""
        return len(self.prompt)

    @property
    def chosen_tokens(self) -> int:
        """Length of the chosen response, with its end-of-turn token: n⁺."""
        return len(self.chosen)

    @property
    def rejected_tokens(self) -> int:
        """Length of the rejected response, with its end-of-turn token: n⁻."""
        return len(self.rejected)

    @property
    def counted_tokens(self) -> tuple[float, float]:
        """How many tokens the chosen and the rejected response count for: the sums of their weights."""
        n = self.chosen_tokens
        return (sum(self.weights[:n]), sum(self.weights[n:])) if self.weights else (n, self.rejected_tokens)

    @property
    def shared_prefix_tokens(self) -> int:
        """Leading response tokens that both responses share."""
        both = zip(self.chosen, self.rejected, strict=False)
        return sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], both))

    @property
    def total(self) -> int:
        """Tokens of the prompt, once, and of both responses."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


class PairEncoder:
    """Turns pairs into tokens for one tokenizer and one setting; keeps nothing of the pairs.

    ``vocabulary`` is how many tokens the model has rows for, where that is known: a pair that uses another one cannot
    be used. Tokenizers may know a few more tokens than the model, which no text of the data has.

    Raises `OptionError` for ``template="chat"`` without a template, `ModelError` where an end-of-turn token is wanted
    and the tokenizer has none.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings, *, vocabulary: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.vocabulary = vocabulary
        self._layout = _layout(tokenizer, settings)
        self._prefix = _automatic_prefix(tokenizer)
        self._anchors = dict(zip(ANCHORS, self._ids(list(ANCHORS)), strict=True))

    def notes(self) -> EncodingNotes:
        """Counts to hand to :meth:`encode`, of nothing yet."""
        return EncodingNotes(self.settings.max_length, self.settings.eot)

    def encode(self, pair: Pair, notes: EncodingNotes | None = None) -> TokenPair | BadRow:
        """The pair as tokens, or the reason why it cannot be used. What happened to it is counted in ``notes``."""
        try:
            text = self._layout.lay_out(pair)
            _check_text(text)
            if notes is not None:
                notes.add(text)
            prompt, chosen, rejected = self._encode_text(text)
            room = self._room(prompt, chosen, rejected, text.chosen.removed or text.rejected.removed)
            self._check_vocabulary(prompt, chosen[:room], rejected[:room])
        except LayoutError as error:
            return BadRow(pair.row, pair.file, pair.line, str(error))
        if notes is not None:
            notes.add_truncation(len(chosen), len(rejected), room=room)
        return TokenPair(
            row=pair.row,
            pair_id=pair.pair_id,
            prompt=tuple(prompt),
            chosen=tuple(chosen[:room]),
            rejected=tuple(rejected[:room]),
            truncated=max(len(chosen), len(rejected)) > room,
        )

    def describe(self) -> dict[str, object]:
        """The layout as ``audit.json`` records it."""
        layout = self._layout.describe()
        template = layout.pop("chat_template")
        end = self._layout.end
        end_ids = self._ids([end.token])[0] if end else []
        return {
            "layout": self._layout.name,
            "chat_template_sha256": hashlib.sha256(str(template).encode()).hexdigest() if template else None,
            **layout,
            "end_of_turn": end.token if end else None,
            "end_of_turn_id": end_ids[0] if len(end_ids) == 1 else None,
            "eot": self.settings.eot,
            "bos": self._starts_with_bos(),
            "max_length": self.settings.max_length,
        }

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that decides tokens: the tokenizer, its chat template, the settings."""
        digest = hashlib.sha256()
        digest.update(_tokenizer_text(self.tokenizer).encode())
        parts: list[object] = [TOKENS_VERSION, self._layout.name, self._layout.describe(), self._prefix]
        parts.append(asdict(self.settings))
        parts.append(asdict(self._layout.end) if self._layout.end else None)
        digest.update(json.dumps(parts, sort_keys=True).encode())
        return digest.hexdigest()

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, nothing added, in one call."""
        ids: list[list[int]] = self.tokenizer(texts, **_BARE)["input_ids"]
        return ids

    def _encode_text(self, text: TextPair) -> tuple[list[int], list[int], list[int]]:
        """Prompt, chosen and rejected ids. One tokenizer call; one more (seldom two) where the boundary merges."""
        texts = (text.chosen.text, text.rejected.text)
        prompt, *wholes = self._ids([text.prompt, *(text.prompt + response for response in texts)])
        responses = [whole[len(prompt) :] if whole[: len(prompt)] == prompt else None for whole in wholes]
        merged = [k for k, ids in enumerate(responses) if ids is None]
        if merged:
            for k, ids in zip(merged, self._encode_inner([texts[k] for k in merged]), strict=True):
                responses[k] = ids
        # A template puts BOS where it wants it; to plain text the tokenizer's own goes.
        prefix = list(self._prefix) if self._layout.name == "plain" or text.templated else []
        if prompt[: len(prefix)] != prefix:  # a prompt that already spells its BOS gets no second one
            prompt = prefix + prompt
        chosen, rejected = responses
        assert chosen is not None
        assert rejected is not None
        return prompt, chosen, rejected

    def _encode_inner(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts as they would be in the middle of a longer text, with nothing put before them."""
        likely = [ANCHORS[1] if text[:1].isspace() else ANCHORS[0] for text in texts]
        found = self._behind(list(zip(likely, texts, strict=True)))
        missing = [k for k, ids in enumerate(found) if ids is None]
        if missing:
            tries = self._behind([(anchor, texts[k]) for k in missing for anchor in ANCHORS])
            for n, k in enumerate(missing):
                of_text = tries[n * len(ANCHORS) : (n + 1) * len(ANCHORS)]
                found[k] = next((ids for ids in of_text if ids is not None), None)
        if any(ids is None for ids in found):
            raise LayoutError(
                "the tokenizer merges the end of the prompt with the start of a response; they cannot be told apart"
            )
        return [ids for ids in found if ids is not None]

    def _behind(self, anchored: list[tuple[str, str]]) -> list[list[int] | None]:
        """Ids of each text behind its anchor, without those of the anchor; None where the two merge."""
        wholes = self._ids([anchor + text for anchor, text in anchored])
        starts = [self._anchors[anchor] for anchor, _ in anchored]
        return [
            whole[len(start) :] if whole[: len(start)] == start else None
            for start, whole in zip(starts, wholes, strict=True)
        ]

    def _check_vocabulary(self, *parts: list[int]) -> None:
        """Raise `LayoutError` where a token is used that the model does not have."""
        if self.vocabulary is None:
            return
        highest = max(map(max, parts))
        if highest >= self.vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise LayoutError(
                f"it uses the token {token!r} (id {highest}), which the model has no row for: it has {self.vocabulary}"
            )

    def _room(self, prompt: list[int], chosen: list[int], rejected: list[int], removed: str) -> int:
        """How many tokens a response may have. Raises `LayoutError` where no usable pair is left.

        ``removed`` is what the chat template took away from a response, for the messages.
        """
        limit = self.settings.max_length
        since = f" once the chat template has removed {removed}" if removed else ""
        lengths = f"prompt {len(prompt)}, chosen {len(chosen)}, rejected {len(rejected)} tokens"
        if not prompt:
            raise LayoutError("the prompt is empty: there is no token to predict a response from")
        for name, response in (("chosen", chosen), ("rejected", rejected)):
            if not response:
                raise LayoutError(f"the {name} response is empty: it has no tokens{since}")
        if chosen == rejected:
            raise LayoutError(f"chosen and rejected are identical as tokens{since} ({lengths})")
        room = limit - len(prompt)
        if room <= 0:
            raise LayoutError(f"no room for a response: --max-length is {limit} ({lengths}); a prompt is never cut")
        if chosen[:room] == rejected[:room]:
            raise LayoutError(
                f"chosen and rejected become identical when cut to {room} tokens: --max-length is {limit} ({lengths})"
            )
        return room

    def _starts_with_bos(self) -> bool:
        """Whether the prompt of an ordinary pair starts with the tokenizer's BOS token."""
        bos = self.tokenizer.bos_token_id
        text = self._layout.lay_out(Pair(row=0, prompt="Question", chosen="Yes", rejected="No"))
        return bos is not None and self._encode_text(text)[0][:1] == [bos]


def _layout(tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> Layout:
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if settings.template == "chat" and not has_template:
        raise OptionError("--template chat: this tokenizer has no chat template. Use --template plain (or auto).")
    if settings.template == "plain" or not has_template:
        return PlainLayout(tokenizer, eot=settings.eot)
    try:
        tokenizer.get_chat_template()
    except ValueError as error:  # several named templates, none of them the default
        raise ModelError(f"{error} Or use --template plain.") from error
    return ChatLayout(tokenizer, eot=settings.eot, recognise=settings.template == "auto")


def _automatic_prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that the tokenizer puts before every text of its own accord: BOS, or none."""
    bare = tokenizer("a", **_BARE)["input_ids"]
    whole = tokenizer("a", **{**_BARE, "add_special_tokens": True})["input_ids"]
    starts = (k for k in range(len(whole) - len(bare) + 1) if whole[k : k + len(bare)] == bare)
    return tuple(whole[: next(starts, 0)])


def _tokenizer_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that decides a tokenizer's ids, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), str(tokenizer.init_kwargs)])
    text: str = backend.to_str()
    # What comes before is the padding and truncation of the last call: state, not identity.
    return text[max(text.find('"added_tokens"'), 0) :]


def _check_text(text: TextPair) -> None:
    parts = {"prompt": text.prompt, "chosen": text.chosen.text, "rejected": text.rejected.text}
    for name, part in parts.items():
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise LayoutError(f"the {name} is not valid Unicode text: it holds half of a surrogate pair") from error

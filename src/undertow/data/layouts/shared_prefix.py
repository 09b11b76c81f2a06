"""Prompts that are only implicit: what two whole texts, or two whole conversations, share at their beginning."""

from __future__ import annotations

import os
import re

from undertow.data.layouts.layout import Preference
from undertow.data.layouts.values import RowError, asked, reply
from undertow.data.pairs import Message

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}

# Where an assistant's turn begins in texts that were laid out before. Line breaks behind it belong to the prompt.
_MARKER = re.compile(
    r"(?:\n\n?(?:Assistant|ASSISTANT|AI|Bot|Response|Answer):"
    r"|(?:\A|\s)(?:ASSISTANT|GPT4 Correct Assistant):"
    r"|\#\#\#\ ?(?:Response|Assistant|Answer|Output|ASSISTANT):?"
    r"|\[/INST\]"
    r"|<\|im_start\|>assistant"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>"
    r"|<\|header_start\|>assistant<\|header_end\|>"
    r"|<start_of_turn>model"
    r"|<\|turn>model"
    r"|<\|start_of_role\|>assistant<\|end_of_role\|>"
    r"|<\|start\|>assistant(?:<\|channel\|>final)?<\|message\|>"
    r"|<\|(?:assistant|Assistant|ASSISTANT)\|>"
    r"|<｜Assistant｜>"
    r"|<\|CHATBOT_TOKEN\|>"
    r")\n*"
)


def split_texts(chosen: str, rejected: str, *, anywhere: bool = False) -> tuple[str, str, str]:
    """Prompt and responses of two strings.

    The prompt ends at the last turn marker that both have, where both have one in what they share. Otherwise, and only
    with ``anywhere``, it is the shared beginning, cut back to the last white space, so that no word is torn; a single
    space before the responses goes to them, as in TRL's ``extract_prompt``.

    Raises:
        RowError: they share no beginning that could be the prompt.
    """
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071  # by characters is what is meant
    if end := marked_end(chosen, rejected):
        return chosen[:end], chosen[end:], rejected[end:]
    if not anywhere:
        raise RowError(
            "`chosen` and `rejected` share no beginning that ends at a turn marker, such as \\n\\nAssistant:"
        )
    end = len(shared)
    if not (chosen[end : end + 1].isspace() and rejected[end : end + 1].isspace()):
        end = _word_start(shared)
    while end and not (chosen[end:].strip() and rejected[end:].strip()):
        end = _word_start(shared[:end].rstrip())
    if shared[:end].endswith(" "):
        end -= 1
    if not shared[:end].strip():
        raise RowError("`chosen` and `rejected` share no beginning that could be the prompt")
    return chosen[:end], chosen[end:], rejected[end:]


def marked_end(chosen: str, rejected: str) -> int:
    """Where the last turn marker of two texts ends, if it is the same one, after the same text; otherwise 0."""
    ends = [max((found.end() for found in _MARKER.finditer(text)), default=0) for text in (chosen, rejected)]
    end = ends[0]
    same = ends[0] == ends[1] and chosen[:end] == rejected[:end]
    return end if same and chosen[end:].strip() and rejected[end:].strip() else 0


def split_turns(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...], better: str = "`chosen`", worse: str = "`rejected`"
) -> Preference:
    """Prompt and responses of two whole conversations: all they share, then one assistant message each."""
    end = 0
    for ours, theirs in zip(chosen[:-1], rejected[:-1], strict=False):
        if ours != theirs:
            break
        end += 1
    if not end:
        raise RowError(f"{better} and {worse} share no leading message that could be the prompt")
    prompt = asked(chosen[:end], f"the prompt (the messages that {better} and {worse} share)")
    return Preference(prompt, reply(chosen[end:], better), reply(rejected[end:], worse))


def is_hh(value: object) -> bool:
    """Whether a text is laid out in turns of ``Human:`` and ``Assistant:``."""
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def split_hh(text: str, field: str) -> tuple[tuple[Message, ...], str]:
    """The history and the last assistant turn of one text of ``Human:`` and ``Assistant:`` turns."""
    before, *pieces = _TURN.split(text)
    if before.strip() or not pieces:
        raise RowError(f"`{field}` does not begin with a turn, \\n\\nHuman: …")
    turns = [
        Message(_ROLES[speaker], content.strip()) for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    for number, turn in enumerate(turns, start=1):
        if not turn.content:
            raise RowError(f"turn {number} of `{field}` ({turn.role}) is empty")
    *history, last = turns
    if last.role != "assistant":
        raise RowError(f"the last turn of `{field}` is Human's, expected Assistant's")
    return asked(tuple(history), f"what comes before the last turn of `{field}`"), last.content


def _word_start(text: str) -> int:
    """Where the last word begins: just after the last white space, or 0."""
    return next((index + 1 for index in range(len(text) - 1, -1, -1) if text[index].isspace()), 0)

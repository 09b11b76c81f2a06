"""Laws of what a chat template reads besides text: tools, tool calls and reasoning; and of what it takes away."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from tiny import CHAT, tiny_tokenizer
from tokenizing import encoded, refused, text_of, with_template
from undertow.data.pairs import Message, Pair, canonical
from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings
from undertow.errors import ModelError

TOOLS = '[{"function":{"name":"search","parameters":{"properties":{},"type":"object"}},"type":"function"}]'
ASKED = (Message("user", "How high is it?"),)
FULL = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if loop.last and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m['content'] }}"
    "{% for call in m.tool_calls or [] %}CALL {{ call.function.name }}"
    "{% for name, value in call.function.arguments.items() %} {{ name }}={{ value }}{% endfor %}{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Takes everything, a tool call's arguments as a mapping."""
AS_TEXT = FULL.replace(
    "{% for name, value in call.function.arguments.items() %} {{ name }}={{ value }}{% endfor %}",
    "{{ ' ' + call.function.arguments }}",
)
"""Takes a tool call's arguments as JSON text."""
R1_LIKE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|user|>' + message['content'] }}{% elif message['role'] == 'assistant' %}{% set said = message['content'] %}"
    "{% if '</think>' in said %}{% set said = said.split('</think>') | last %}{% endif %}"
    "{{ '<|assistant|>' + said + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)


def pair_of(**given) -> Pair:
    fields = {
        "prompt": ASKED,
        "chosen": "It is 4806 m.",
        "rejected": "No idea.",
        "row": 3,
        "file": "a.jsonl",
        "line": 4,
    }
    return Pair(**(fields | given))


def encoder_of(chat_template: str | None, **settings) -> PairEncoder:
    return PairEncoder(tiny_tokenizer(chat_template), TokenSettings(**settings))


def noted(encoder: PairEncoder, *pairs: Pair) -> dict:
    notes = encoder.notes()
    for one in pairs:
        encoder.encode(one, notes)
    return notes.record()


def texts(encoder: PairEncoder, one: Pair) -> list[str]:
    tokens = encoded(encoder, one)
    return [text_of(encoder.tokenizer, ids) for ids in (tokens.prompt, tokens.chosen, tokens.rejected)]


def calls(arguments) -> str:
    return canonical(
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]}
    )


# ---- Tools and tool calls


def test_tools_go_to_the_template() -> None:
    prompt, chosen, _ = texts(encoder_of(FULL), pair_of(tools=TOOLS))
    assert prompt == f"<|system|>{TOOLS_RENDERED}<|end|><|user|>How high is it?<|end|><|assistant|>"
    assert chosen == "It is 4806 m.<|end|>"


TOOLS_RENDERED = (
    '[{"function": {"name": "search", "parameters": {"properties": {}, "type": "object"}}, "type": "function"}]'
)


def test_an_empty_list_of_tools_is_none() -> None:
    assert texts(encoder_of(CHAT), pair_of(tools="[]")) == texts(encoder_of(CHAT), pair_of())


def test_a_template_without_a_place_for_tools_is_a_bad_row() -> None:
    assert "the chat template has no place for tools" in refused(encoder_of(CHAT), pair_of(tools=TOOLS))
    raising = f"{{% if tools %}}{{{{ raise_exception('none here') }}}}{{% endif %}}{CHAT}"
    reason = refused(encoder_of(raising), pair_of(tools=TOOLS))
    assert "the chat template has no place for tools: none here" in reason
    assert encoded(encoder_of(raising), pair_of())


def test_a_template_of_its_own_for_tools_is_used() -> None:
    tokenizer = with_template(tiny_tokenizer(), {"default": CHAT, "tool_use": FULL})
    encoder = PairEncoder(tokenizer, TokenSettings())
    assert texts(encoder, pair_of(tools=TOOLS)) == texts(encoder_of(FULL), pair_of(tools=TOOLS))


@pytest.mark.parametrize("arguments", ['{"q":"Mont Blanc"}', {"q": "Mont Blanc"}])
@pytest.mark.parametrize(
    ("template", "called"), [(FULL, "CALL f q=Mont Blanc"), (AS_TEXT, 'CALL f {"q":"Mont Blanc"}')]
)
def test_tool_calls_reach_the_template_in_the_form_it_takes(template, called, arguments) -> None:
    turns = (*ASKED, Message("assistant", "", calls(arguments)), Message("tool", "4806 m", '{"name":"f"}'))
    encoder = encoder_of(template)
    prompt = texts(encoder, pair_of(prompt=turns))[0]
    expected = f"<|assistant|>{called}<|end|><|tool|>4806 m<|end|><|assistant|>"
    assert prompt.endswith(expected.replace('":"', '": "') if isinstance(arguments, dict) else expected)
    response = texts(encoder, pair_of(chosen="", chosen_extra=calls(arguments)))[1]
    assert response.replace('": "', '":"') == f"{called}<|end|>"


def test_arguments_that_are_no_json_stay_as_they_are() -> None:
    echo = FULL.replace(
        "{% for name, value in call.function.arguments.items() %} {{ name }}={{ value }}{% endfor %}",
        "{{ call.function.arguments }}",
    )
    for arguments in ("{broken", "[1]", "7"):
        assert texts(encoder_of(echo), pair_of(chosen_extra=calls(arguments)))[1].endswith(f"f{arguments}<|end|>")


def test_a_template_without_a_place_for_tool_calls_is_a_bad_row() -> None:
    turns = (*ASKED, Message("assistant", "Let me see.", calls({"q": "x"})), Message("user", "And?"))
    for one in (pair_of(prompt=turns), pair_of(chosen_extra=calls({})), pair_of(rejected_extra=calls({}))):
        assert "the chat template has no place for tool calls" in refused(encoder_of(CHAT), one)
        assert encoded(encoder_of(FULL), one)


def test_a_template_that_wants_a_call_before_a_tools_answer() -> None:
    """As gpt-oss does: it refuses the conversation without its calls, which is no sign that it leaves them out."""
    wanting = (
        "{% if m.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}"
        "{{ raise_exception('no call') }}{% endif %}"
    )
    encoder = encoder_of(FULL.replace("<|{{ m['role'] }}|>", wanting + "<|{{ m['role'] }}|>"))
    turns = (*ASKED, Message("assistant", "", calls({"q": "x"})), Message("tool", "4806 m"))
    assert "CALL f q=x<|end|><|tool|>4806 m" in texts(encoder, pair_of(prompt=turns))[0]
    assert "no call" in refused(encoder, pair_of(prompt=(*ASKED, Message("tool", "4806 m"))))


def test_a_template_that_cannot_render_a_field_is_a_bad_row_not_a_crash() -> None:
    adds = CHAT.replace("m['content']", "m['content'] + (m.tool_calls or '')")
    reason = refused(encoder_of(adds), pair_of(chosen_extra=calls({})))
    assert "the chat template refuses this conversation: TypeError" in reason


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"chosen_extra": calls({})}, "tool_calls"),
        ({"rejected_extra": '{"reasoning_content":"Hm."}'}, "reasoning_content"),
        ({"prompt": (Message("user", "Hi", '{"reasoning":"Hm."}'),)}, "reasoning"),
    ],
)
def test_the_plain_layout_refuses_what_it_would_lose(given, named) -> None:
    reason = refused(encoder_of(CHAT, template="plain"), pair_of(**given))
    assert reason == f"the plain layout has no place for {named}: use --template chat"
    assert "it takes a tokenizer with a chat template" in refused(encoder_of(None), pair_of(**given))


def test_a_name_is_no_loss_to_the_plain_layout() -> None:
    named = (Message("user", "How high is it?", '{"name":"Ann"}'),)
    plain = encoder_of(CHAT, template="plain")
    assert texts(plain, pair_of(prompt=named)) == texts(plain, pair_of())


def shipped_templates() -> list:
    """The chat templates of widely used models, as TRL ships them; none where it is not installed."""
    found = importlib.util.find_spec("trl")
    folders = found.submodule_search_locations if found else None
    files = sorted(path for folder in folders or () for path in Path(folder, "chat_templates").glob("*.jinja"))
    return [pytest.param(path, id=path.stem) for path in files]


@pytest.mark.parametrize("path", shipped_templates())
def test_templates_of_real_models_take_all_of_a_row_or_say_so(path) -> None:
    try:
        encoder = encoder_of(path.read_text(encoding="utf-8"), max_length=10_000)  # a byte is a token
    except ModelError as error:
        assert "Use --template plain" in str(error)  # of vision models: content that is text has no place there
        return
    notes = encoder.notes()
    assert isinstance(encoder.encode(pair_of(), notes), TokenPair)
    assert list(notes.sentences()) == []
    with_tools = encoder.encode(pair_of(tools=TOOLS))
    if isinstance(with_tools, TokenPair):
        assert "search" in text_of(encoder.tokenizer, with_tools.prompt)
    else:
        assert "has no place for tools" in with_tools.reason
    thinking = encoder.encode(pair_of(chosen_extra=THOUGHT), notes)
    if isinstance(thinking, TokenPair):
        assert ("Mont Blanc has" in text_of(encoder.tokenizer, thinking.chosen)) is not bool(notes.without_reasoning)


# ---- Reasoning, and what a template takes away

THOUGHT = '{"reasoning_content":"Mont Blanc has 4806 m."}'
GUESSED = '{"reasoning_content":"I never heard of it."}'


def test_reasoning_is_given_to_the_template() -> None:
    encoder, one = encoder_of(FULL), pair_of(chosen_extra=THOUGHT, rejected_extra=GUESSED)
    _, chosen, rejected = texts(encoder, one)
    assert chosen == "<think>Mont Blanc has 4806 m.</think>It is 4806 m.<|end|>"
    assert rejected == "<think>I never heard of it.</think>No idea.<|end|>"
    found = noted(encoder, one)
    assert (found["responses_without_reasoning"], found["notes"]) == (0, [])


def test_reasoning_that_the_template_leaves_out_is_counted_and_said() -> None:
    encoder = encoder_of(CHAT)
    found = noted(
        encoder, pair_of(chosen_extra=THOUGHT, rejected_extra=GUESSED), pair_of(chosen_extra=THOUGHT), pair_of()
    )
    assert found["responses_without_reasoning"] == 3
    assert found["notes"] == ["The chat template left the reasoning out of 3 of 6 responses."]


def test_pairs_that_differ_only_in_reasoning_that_is_left_out_say_so() -> None:
    """The second row of ``cases/reasoning_content.jsonl``."""
    one = pair_of(chosen="4", rejected="4", chosen_extra=THOUGHT, rejected_extra=GUESSED)
    reason = refused(encoder_of(CHAT), one)
    assert reason.startswith(
        "chosen and rejected are identical as tokens once the chat template has removed the reason"
    )
    assert encoded(encoder_of(FULL), one)


ROWS = [
    ("<think>\nSix sevens are 42.\n</think>\n\n42.", "<think>\nI add six and seven.\n</think>\n\n13."),
    ("<think>\nTwo twos.\n</think>\n\n4.", "<think>\nLet me think about this for a long time.\n</think>\n\n4."),
]


def test_text_that_the_template_removes_is_counted_and_said() -> None:
    """``cases/r1_think.jsonl`` with ``r1_like_template.jinja``: the run's notes and the bad row name the cause."""
    encoder = encoder_of(R1_LIKE)
    pairs = [pair_of(chosen=chosen, rejected=rejected) for chosen, rejected in ROWS]
    assert texts(encoder, pairs[0])[1:] == ["\n\n42.</s>", "\n\n13.</s>"]
    assert "identical as tokens once the chat template has removed the reasoning" in refused(encoder, pairs[1])
    found = noted(encoder, *pairs)
    assert (found["responses_cut_by_template"], found["responses_cut_before_think"]) == (4, 4)
    assert found["notes"] == [
        "The chat template removed text of 4 of 4 responses (for example everything before </think>)."
    ]
    assert noted(encoder, pair_of())["responses_cut_by_template"] == 0


def test_a_think_block_that_the_generation_prompt_opens_is_not_lost() -> None:
    """As Qwen 3.5 and 3.6 do: the finished turn begins with the block, and so does the generation prompt."""
    thinking = (
        "{% for m in messages %}{% set parts = m['content'].split('</think>') %}<|{{ m['role'] }}|>"
        "{% if m['role'] == 'assistant' %}<think>\n"
        "{% if parts | length > 1 %}{{ parts[0].split('<think>')[-1] | trim }}"
        "\n{% endif %}</think>\n\n{% endif %}{{ parts[-1] | trim }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    )
    encoder, one = encoder_of(thinking), pair_of(chosen=ROWS[0][0], rejected=ROWS[0][1])
    prompt, chosen, _ = texts(encoder, one)
    assert prompt.endswith("<|assistant|><think>\n")
    assert chosen == "Six sevens are 42.\n</think>\n\n42.<|end|>"
    assert noted(encoder, one)["responses_cut_by_template"] == 0


def test_a_response_of_nothing_but_thoughts_says_why_it_is_empty() -> None:
    reason = refused(encoder_of(R1_LIKE), pair_of(chosen="<think>Hm.</think>"))
    assert reason == "the chosen response is empty: it has no tokens once the chat template has removed the reasoning"


def test_other_text_that_a_template_removes_is_counted_without_that_example() -> None:
    short = CHAT.replace("m['content']", "m['content'][:9]")
    encoder = encoder_of(
        short.replace("m['content'][:9]", "(m['content'][:9] if 'Probe' not in m['content'] else m['content'])")
    )
    found = noted(encoder, pair_of())
    assert (found["responses_cut_by_template"], found["responses_cut_before_think"]) == (1, 0)
    assert found["notes"] == ["The chat template removed text of 1 of 2 responses."]
    same = pair_of(chosen="It is 4806 m.", rejected="It is 4806 feet.")
    assert "identical as tokens once the chat template has removed text of a response" in refused(encoder, same)


def test_trimming_and_new_white_space_remove_nothing() -> None:
    respaced = CHAT.replace("m['content']", "m['content'] | trim | replace('\n', '\n\n')")
    assert noted(encoder_of(respaced), pair_of(chosen=" a\nb \n"))["responses_cut_by_template"] == 0


def test_notes_do_not_depend_on_the_order_of_pairs() -> None:
    pairs = [pair_of(chosen=chosen, rejected=rejected) for chosen, rejected in ROWS]
    pairs += [pair_of(chosen_extra=THOUGHT), pair_of(chosen="a</s>"), pair_of(rejected="b<|im_end|>")]
    encoder = encoder_of(R1_LIKE)
    assert noted(encoder, *pairs) == noted(encoder, *reversed(pairs))
    assert len(noted(encoder, *pairs)["notes"]) == 4


def test_notes_change_no_token() -> None:
    encoder = encoder_of(FULL)
    for one in (pair_of(), pair_of(tools=TOOLS), pair_of(chosen_extra=THOUGHT)):
        assert encoder.encode(one, encoder.notes()) == encoder.encode(one)
        assert encoder.encode(replace(one, row=9)) == replace(encoded(encoder, one), row=9)

"""Laws of the layouts: pairs become the text that training sees, whatever the chat template does."""

from __future__ import annotations

import copy
import json

import pytest

from tokenizing import (
    GEMMA_TEMPLATE,
    LLAMA2_TEMPLATE,
    NO_END_TEMPLATE,
    PLAIN,
    QUESTION,
    QWEN3_TEMPLATE,
    R1_TEMPLATE,
    encoded,
    pair,
    refused,
    sentencepiece_like,
    text_of,
    with_template,
)
from undertow.data.pairs import Message
from undertow.data.tokens.encoder import PairEncoder, TokenSettings
from undertow.errors import ModelError, OptionError


@pytest.mark.parametrize("text", ["Yes.", " Yes", "I say <|im_end|> and go on", "Café 🙂"])
def test_chat_tokens_equal_those_of_training_where_nothing_merges(smollm2_tokenizer, text):
    tokens = encoded(PairEncoder(smollm2_tokenizer, TokenSettings()), pair(QUESTION, text, "No."))
    turns = [{"role": "user", "content": QUESTION[0].content}, {"role": "assistant", "content": text}]
    trained_on = smollm2_tokenizer.apply_chat_template(turns, return_dict=False)
    newline = smollm2_tokenizer("\n")["input_ids"]
    assert list(tokens.prompt + tokens.chosen) + newline == trained_on


def test_a_string_prompt_is_one_user_turn(smollm2_tokenizer):
    encoder = PairEncoder(smollm2_tokenizer, TokenSettings())
    as_text, as_turn = encoded(encoder, pair(QUESTION[0].content)), encoded(encoder, pair(QUESTION))
    assert (as_text.prompt, as_text.chosen) == (as_turn.prompt, as_turn.chosen)


def test_a_system_turn_replaces_the_templates_own(smollm2_tokenizer):
    encoder = PairEncoder(smollm2_tokenizer, TokenSettings())
    own = text_of(smollm2_tokenizer, encoded(encoder, pair((Message("system", "Be brief."), *QUESTION))).prompt)
    assert own.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert "SmolLM" not in own
    assert encoder.describe()["adds_system_prompt"] is True
    assert "SmolLM" in text_of(smollm2_tokenizer, encoded(encoder, pair(QUESTION)).prompt)


def test_plain_conversations_are_laid_out_as_hh(smollm2_tokenizer):
    turns = (Message("system", "Be kind."), *QUESTION, Message("assistant", "It is."), Message("user", "Sure?"))
    tokens = encoded(PairEncoder(smollm2_tokenizer, PLAIN), pair(turns, "Yes.", "No."))
    expected = "Be kind.\n\nHuman: Is the sky blue?\n\nAssistant: It is.\n\nHuman: Sure?\n\nAssistant:"
    assert text_of(smollm2_tokenizer, tokens.prompt) == expected
    assert text_of(smollm2_tokenizer, tokens.chosen) == " Yes.<|im_end|>"


def test_plain_rows_do_not_end_twice(smollm2_tokenizer):
    encoder = PairEncoder(smollm2_tokenizer, PLAIN)
    assert encoded(encoder, pair("a", "b<|im_end|>")).chosen == encoded(encoder, pair("a", "b")).chosen


@pytest.mark.parametrize(
    ("template", "response", "end"),
    [
        (GEMMA_TEMPLATE, "Yes", "<end_of_turn>"),
        (LLAMA2_TEMPLATE, " Yes ", "<eos>"),
        (NO_END_TEMPLATE, "Yes", "<eos>"),
        (NO_END_TEMPLATE.replace("message['content']", "message['content'] + '\n\n'"), "Yes", "<eos>"),
    ],
)
def test_the_end_of_turn_is_found_in_the_template(gemma_tokenizer, template, response, end):
    tokenizer = with_template(gemma_tokenizer, template)
    for eot in (True, False):
        encoder = PairEncoder(tokenizer, TokenSettings(eot=eot))
        tokens = encoded(encoder, pair(QUESTION, "Yes", "No"))
        assert text_of(tokenizer, tokens.chosen) == (response + end if eot else response.rstrip())
        described = encoder.describe()
        assert described["end_of_turn"] == (end if eot else None)
        assert described["end_of_turn_id"] == (tokenizer.convert_tokens_to_ids(end) if eot else None)


def test_a_template_that_spells_its_end_in_ordinary_tokens(gemma_tokenizer):
    tokenizer = with_template(gemma_tokenizer, QWEN3_TEMPLATE)  # Gemma has no <|im_end|>
    encoder = PairEncoder(tokenizer, TokenSettings())
    assert text_of(tokenizer, encoded(encoder, pair(QUESTION, "Yes")).chosen).endswith("Yes<|im_end|>")
    assert encoder.describe()["end_of_turn"] == "<|im_end|>"
    assert encoder.describe()["end_of_turn_id"] is None


def test_what_a_template_puts_before_the_answer_belongs_to_the_response(smollm2_tokenizer):
    tokenizer = with_template(smollm2_tokenizer, QWEN3_TEMPLATE)
    tokens = encoded(PairEncoder(tokenizer, TokenSettings()), pair(QUESTION, "Yes"))
    assert text_of(tokenizer, tokens.prompt).endswith("<|im_start|>assistant\n")
    assert text_of(tokenizer, tokens.chosen) == "<think>\n\n</think>\n\nYes<|im_end|>"


def test_an_opened_think_block_that_the_finished_turn_lacks_is_left_out(smollm2_tokenizer):
    tokenizer = with_template(smollm2_tokenizer, R1_TEMPLATE)
    for response in ("Yes", "<think>\nWell.\n</think>\nYes"):
        tokens = encoded(PairEncoder(tokenizer, TokenSettings()), pair(QUESTION, response))
        assert text_of(tokenizer, tokens.prompt).endswith("<|im_start|>assistant\n")
        assert text_of(tokenizer, tokens.chosen) == response + "<|im_end|>"


def test_a_template_that_trims(gemma_tokenizer):
    encoder = PairEncoder(with_template(gemma_tokenizer, GEMMA_TEMPLATE), TokenSettings())
    assert encoded(encoder, pair(QUESTION, "  Yes \n")).chosen == encoded(encoder, pair(QUESTION, "Yes")).chosen
    assert refused(encoder, pair(QUESTION, " \n ")) == "the chosen response is empty: it has no tokens"
    assert "identical as tokens" in refused(encoder, pair(QUESTION, "Yes", "Yes "))


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ("Call me.", "renders this prompt differently once"),
        ("Wait…", "does not close this answer with '<|im_end|>\\n'"),
    ],
)
def test_an_answer_that_changes_its_surroundings_is_a_bad_row(smollm2_tokenizer, chosen, reason):
    last = "messages[-1]['content']"
    template = QWEN3_TEMPLATE.replace("<think>\n\n</think>\n\n", "")
    template = template.replace("'<|im_end|>\n'", "('' if message['content'] == 'Wait…' else '<|im_end|>\n')")
    template = f"{{{{ 'Tools: ' if {last} == 'Call me.' else '' }}}}{template}"
    encoder = PairEncoder(with_template(smollm2_tokenizer, template), TokenSettings())
    assert reason in refused(encoder, pair(QUESTION, chosen))
    assert encoded(encoder, pair(QUESTION, "Yes")).chosen_tokens == 2


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ((Message("system", "Be kind."), *QUESTION), "System role not supported"),
        ((*QUESTION, *QUESTION), "roles must alternate"),
        ((), "no messages"),
    ],
)
def test_a_conversation_that_the_template_refuses_is_a_bad_row(gemma_tokenizer, turns, reason):
    assert reason in refused(PairEncoder(with_template(gemma_tokenizer, GEMMA_TEMPLATE), TokenSettings()), pair(turns))


def test_the_plain_layout_refuses_roles_it_cannot_lay_out(smollm2_tokenizer):
    encoder = PairEncoder(smollm2_tokenizer, PLAIN)
    assert "'tool'" in refused(encoder, pair((*QUESTION, Message("tool", "4"))))
    assert "no messages" in refused(encoder, pair(()))


def test_which_layout_is_taken(smollm2_tokenizer, gemma_tokenizer):
    assert PairEncoder(smollm2_tokenizer, TokenSettings()).describe()["layout"] == "chat"
    assert PairEncoder(smollm2_tokenizer, PLAIN).describe()["layout"] == "plain"
    assert PairEncoder(gemma_tokenizer, TokenSettings()).describe()["layout"] == "plain"
    with pytest.raises(OptionError, match=r"no chat template.*--template plain"):
        PairEncoder(gemma_tokenizer, TokenSettings(template="chat"))
    with pytest.raises(ModelError, match="no default"):
        PairEncoder(with_template(gemma_tokenizer, {"tool_use": GEMMA_TEMPLATE}), TokenSettings())
    with pytest.raises(ModelError, match="leaves the assistant's answer out"):
        PairEncoder(with_template(gemma_tokenizer, "{{ messages[0]['content'] }}"), TokenSettings())
    with pytest.raises(ModelError, match=r"cannot render.*never"):
        PairEncoder(with_template(gemma_tokenizer, "{{ raise_exception('never') }}"), TokenSettings())


def test_the_fingerprint_changes_with_all_that_changes_tokens(smollm2_tokenizer):
    other_end = copy.deepcopy(sentencepiece_like())
    other_end.eos_token = "<unk>"
    made = [
        (smollm2_tokenizer, TokenSettings()),
        (smollm2_tokenizer, TokenSettings(max_length=512)),
        (smollm2_tokenizer, TokenSettings(eot=False)),
        (smollm2_tokenizer, PLAIN),
        (with_template(smollm2_tokenizer, QWEN3_TEMPLATE), TokenSettings()),
        (sentencepiece_like(), TokenSettings()),
        (sentencepiece_like(bos=False), TokenSettings()),
        (sentencepiece_like(legacy=True), TokenSettings()),
        (other_end, TokenSettings()),
    ]
    prints = [PairEncoder(*arguments).fingerprint for arguments in made]
    assert len(set(prints)) == len(made)
    assert prints == [PairEncoder(*arguments).fingerprint for arguments in made]


def test_describe_is_what_audit_json_records(smollm2_tokenizer):
    described = PairEncoder(smollm2_tokenizer, TokenSettings(max_length=99)).describe()
    assert json.loads(json.dumps(described)) == described
    assert len(described.pop("chat_template_sha256")) == 64
    assert described == {
        "layout": "chat",
        "adds_system_prompt": True,
        "system_prompt": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "end_of_turn": "<|im_end|>",
        "end_of_turn_id": 2,
        "eot": True,
        "bos": True,  # SmolLM2's BOS is <|im_start|>
        "max_length": 99,
    }

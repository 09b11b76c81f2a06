"""Laws of end tokens that a response's text already carries, and of text that was rendered before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import CHAT, tiny_tokenizer
from tokenizing import GEMMA_TEMPLATE, LLAMA2_TEMPLATE, encoded, pair, refused, text_of, with_template
from undertow.data.pairs import Message, Pair
from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings

QUESTION = "Is snow white?"
OWN = ("<|end|>", "</s>")  # the tiny tokenizer's end of turn and its eos
FOREIGN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[/INST]")
TEMPLATED = f"<|user|>{QUESTION}<|end|><|assistant|>"


def encoder_of(template: str = "auto", *, eot: bool = True) -> PairEncoder:
    return PairEncoder(tiny_tokenizer(), TokenSettings(template=template, eot=eot))


def noted(encoder: PairEncoder, *pairs: Pair) -> dict:
    notes = encoder.notes()
    for one in pairs:
        encoder.encode(one, notes)
    return notes.record()


@pytest.mark.parametrize("white", ["", "\n", " \n\n"])
@pytest.mark.parametrize("end", OWN)
@pytest.mark.parametrize("eot", [True, False])
def test_an_own_end_is_the_end_of_the_turn_once(end, white, eot) -> None:
    encoder = encoder_of(eot=eot)
    bare = encoded(encoder, pair(QUESTION, "Yes.", "No."))
    carried = encoded(encoder, pair(QUESTION, f"Yes.{end}{white}", f"No.{end}{white}"))
    assert (carried.prompt, carried.chosen, carried.rejected) == (bare.prompt, bare.chosen, bare.rejected)
    assert text_of(encoder.tokenizer, carried.chosen) == ("Yes.<|end|>" if eot else "Yes.")


@pytest.mark.parametrize("white", ["", "\n"])
@pytest.mark.parametrize("end", OWN)
def test_the_plain_layout_keeps_the_end_that_is_there(end, white) -> None:
    encoder = encoder_of("plain")
    tokens = encoded(encoder, pair(QUESTION, f"Yes.{end}{white}", "No."))
    assert text_of(encoder.tokenizer, tokens.chosen) == f"Yes.{end}"
    assert text_of(encoder.tokenizer, tokens.rejected) == "No.</s>"
    without = encoder_of("plain", eot=False)
    tokens = encoded(without, pair(QUESTION, f"Yes.{end}{white}", "No."))
    assert text_of(without.tokenizer, tokens.chosen) == "Yes."


TEXTS = st.text("ab .\n", min_size=1, max_size=6).filter(str.strip)
ENDS = st.lists(st.sampled_from([*OWN, "\n", " "]), max_size=4).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, end=ENDS, template=st.sampled_from(["chat", "plain"]), eot=st.booleans())
def test_no_response_has_two_ends_or_loses_text(text, end, template, eot) -> None:
    encoder = encoder_of(template, eot=eot)
    tokens = encoded(encoder, pair(QUESTION, text + end, "other"))
    said = text_of(encoder.tokenizer, tokens.chosen)
    assert sum(said.count(own) for own in OWN) == int(eot)
    bare = said
    for own in OWN:
        bare = bare.removesuffix(own)
    assert bare.strip() == text.strip()


@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize("end", FOREIGN)
def test_a_foreign_end_is_left_as_text_and_named(end, template) -> None:
    encoder = encoder_of(template)
    one = pair(QUESTION, f"Yes.{end}", f"No.{end}\n")
    tokens = encoded(encoder, one)
    assert end in text_of(encoder.tokenizer, tokens.chosen)
    found = noted(encoder, one, pair(QUESTION))
    assert found["responses_with_foreign_end_token"] == {end: 2}
    assert found["responses_with_end_token"] == {}
    (sentence,) = found["notes"]
    assert sentence.startswith(f"2 of 4 responses ended with {end}, which ends no turn for this tokenizer")


def test_a_foreign_end_before_the_own_one_is_named_too() -> None:
    found = noted(encoder_of(), pair(QUESTION, "Yes.<|im_end|><|end|>", "No."))
    assert found["responses_with_end_token"] == {"<|end|>": 1}
    assert found["responses_with_foreign_end_token"] == {"<|im_end|>": 1}


def test_own_ends_are_said_once_with_the_number_of_responses() -> None:
    pairs = [pair(QUESTION, "Yes.<|end|>", "No.<|end|>\n"), pair(QUESTION, "Yes.</s>", "No."), pair(QUESTION)]
    found = noted(encoder_of(), *pairs)
    assert found["responses_with_end_token"] == {"</s>": 1, "<|end|>": 2}
    (sentence,) = found["notes"]
    assert sentence.startswith("3 of 6 responses already ended with the tokenizer's own </s> or <|end|>: it is the end")
    (sentence,) = noted(encoder_of(eot=False), *pairs)["notes"]
    assert "--no-eot left it out" in sentence
    assert noted(encoder_of(), *reversed(pairs)) == found


def test_ends_that_a_template_puts_a_space_before(gemma_tokenizer) -> None:
    encoder = PairEncoder(with_template(gemma_tokenizer, LLAMA2_TEMPLATE), TokenSettings())
    bare = encoded(encoder, pair(QUESTION, "Yes", "No"))
    assert encoded(encoder, pair(QUESTION, "Yes <eos>", "No<eos>")).chosen == bare.chosen
    assert text_of(gemma_tokenizer, bare.chosen) == " Yes <eos>"


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_the_files_of_people(smollm2_tokenizer, template) -> None:
    """The rows of ``cases/answers_with_end_token.jsonl``."""
    encoder = PairEncoder(smollm2_tokenizer, TokenSettings(template=template))
    rows = [("Four.<|im_end|>", "Five.<|im_end|>"), ("Six.<|im_end|>\n", "Nine.<|im_end|>\n"), ("Yes.</s>", "No.</s>")]
    pairs = [pair(QUESTION, *row) for row in rows]
    for one in pairs[:2]:
        tokens = encoded(encoder, one)
        assert tokens.chosen == encoded(encoder, pair(QUESTION, one.chosen.split("<")[0], "other")).chosen
        assert (tokens.chosen + tokens.rejected).count(smollm2_tokenizer.eos_token_id) == 2
    found = noted(encoder, *pairs)
    assert found["responses_with_end_token"] == {"<|im_end|>": 4}
    assert found["responses_with_foreign_end_token"] == {"</s>": 2}


# ---- Text that was rendered before


def test_templated_text_is_used_as_it_is() -> None:
    encoder = encoder_of()
    tokens = encoded(encoder, pair(TEMPLATED, "Yes.<|end|>", "No."))
    rendered = encoded(encoder, pair(QUESTION, "Yes.", "No."))
    assert (tokens.prompt, tokens.chosen, tokens.rejected) == (rendered.prompt, rendered.chosen, rendered.rejected)
    found = noted(encoder, pair(TEMPLATED, "Yes.<|end|>", "No."), pair(QUESTION))
    assert found["pairs_already_templated"] == 1
    assert found["notes"][0].startswith("1 of 2 pairs already carried the tokens of the chat template")


def test_chat_and_plain_decide_where_that_is_wrong() -> None:
    one = pair(TEMPLATED, "Yes.", "No.")
    chat, plain = (encoder_of(template) for template in ("chat", "plain"))
    assert text_of(chat.tokenizer, encoded(chat, one).prompt) == f"<|user|>{TEMPLATED}<|end|><|assistant|>"
    assert text_of(plain.tokenizer, encoded(plain, one).prompt) == TEMPLATED
    for encoder in (chat, plain):
        assert noted(encoder, one)["pairs_already_templated"] == 0


def test_a_header_that_both_responses_carry_belongs_to_the_prompt() -> None:
    """As data sets are saved whose prompt was rendered without the generation prompt."""
    encoder = encoder_of()
    without = pair(f"<|user|>{QUESTION}<|end|>", "<|assistant|>Yes.<|end|>", "<|assistant|>No.<|end|>")
    rendered = encoded(encoder, pair(QUESTION, "Yes.", "No."))
    tokens = encoded(encoder, without)
    assert (tokens.prompt, tokens.chosen, tokens.rejected) == (rendered.prompt, rendered.chosen, rendered.rejected)


@pytest.mark.parametrize(
    "prompt", ["What is <|user|> for?", "Say <|end|>", "Explain <|assistant|> to me.", "<|im_start|>user\nHi<|im_end|>"]
)
def test_a_token_that_is_spoken_of_is_no_template(prompt) -> None:
    encoder = encoder_of()
    assert text_of(encoder.tokenizer, encoded(encoder, pair(prompt)).prompt) == f"<|user|>{prompt}<|end|><|assistant|>"
    assert noted(encoder, pair(prompt))["pairs_already_templated"] == 0


def test_conversations_are_never_taken_for_templated() -> None:
    found = noted(encoder_of(), pair((Message("user", TEMPLATED),)))
    assert found["pairs_already_templated"] == 0


@pytest.mark.parametrize("bos", ["", "<bos>"])
@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (GEMMA_TEMPLATE, "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"),
        (LLAMA2_TEMPLATE, "[INST] Hi [/INST]"),
    ],
)
def test_bos_stands_once_before_templated_text(gemma_tokenizer, template, prompt, bos) -> None:
    encoder = PairEncoder(with_template(gemma_tokenizer, template), TokenSettings())
    rendered = encoded(encoder, pair("Hi", "Yes", "No"))
    tokens = encoded(encoder, pair(bos + prompt, "Yes", "No"))
    assert tokens.prompt == rendered.prompt
    assert noted(encoder, pair(bos + prompt))["pairs_already_templated"] == 1


def test_the_default_system_prompt_is_not_added_to_templated_text(smollm2_tokenizer) -> None:
    """``cases/templated_text.jsonl``."""
    prompt = "<|im_start|>user\nIs snow white?<|im_end|>\n<|im_start|>assistant\n"
    tokens = encoded(PairEncoder(smollm2_tokenizer, TokenSettings()), pair(prompt, "Yes.<|im_end|>", "No.<|im_end|>"))
    assert text_of(smollm2_tokenizer, tokens.prompt) == prompt
    assert text_of(smollm2_tokenizer, tokens.chosen) == "Yes.<|im_end|>"


def test_templated_text_with_tools_beside_it_is_refused() -> None:
    one = Pair(row=3, prompt=TEMPLATED, chosen="Yes", rejected="No", file="prefs.jsonl", line=4, tools='[{"a":1}]')
    assert "already has no place for tools: use --template chat" in refused(encoder_of(), one)


# ---- Tokens that the model does not have


def test_only_rows_that_use_a_token_beyond_the_model_are_refused() -> None:
    tokenizer = tiny_tokenizer(CHAT)
    known = len(tokenizer)
    tokenizer.add_tokens(["<image>"])
    encoder = PairEncoder(tokenizer, TokenSettings(), vocabulary=known)
    assert isinstance(encoder.encode(pair(QUESTION)), TokenPair)
    for texts in (("<image>", "Yes", "No"), (QUESTION, "<image>", "No"), (QUESTION, "Yes", "<image>")):
        reason = refused(encoder, pair(*texts))
        assert f"uses the token '<image>' (id {known}), which the model has no row for: it has {known}" in reason
    assert isinstance(PairEncoder(tokenizer, TokenSettings()).encode(pair("<image>")), TokenPair)
    assert isinstance(PairEncoder(tokenizer, TokenSettings(), vocabulary=known + 1).encode(pair("<image>")), TokenPair)


def test_a_token_that_truncation_takes_away_is_not_used() -> None:
    tokenizer = tiny_tokenizer(CHAT)
    known = len(tokenizer)
    tokenizer.add_tokens(["<image>"])
    whole = encoded(PairEncoder(tokenizer, TokenSettings()), pair(QUESTION, "Yes<image>", "No"))
    cut = TokenSettings(max_length=whole.prompt_tokens + 3)
    assert isinstance(
        PairEncoder(tokenizer, cut, vocabulary=known).encode(pair(QUESTION, "Yes<image>", "No")), TokenPair
    )


def test_what_truncation_takes_away_is_counted() -> None:
    tokenizer = tiny_tokenizer()
    one = pair(QUESTION, "Yes, it is.", "No.")
    whole = encoded(PairEncoder(tokenizer, TokenSettings()), one)
    room = 5
    encoder = PairEncoder(tokenizer, TokenSettings(max_length=whole.prompt_tokens + room))
    found = noted(encoder, one, one)
    assert found["responses_truncated"] == 2
    assert found["tokens_truncated"] == 2 * (whole.chosen_tokens - room)
    assert found["notes"] == [
        f"2 of 4 responses lost their end, {2 * (whole.chosen_tokens - room)} tokens in all: "
        f"--max-length is {encoder.settings.max_length}."
    ]

"""Laws of tokenisation: the prompt's tokens are its own, nothing is lost, and what is cut or refused says so."""

from __future__ import annotations

import copy
import json
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tokenizing import (
    GEMMA_TEMPLATE,
    NO_END_TEMPLATE,
    PLAIN,
    QUESTION,
    encoded,
    pair,
    refused,
    sentencepiece_like,
    text_of,
    with_template,
)
from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings
from undertow.errors import ModelError, OptionError


@pytest.fixture(scope="module", params=["smollm2", "gemma"])
def real_tokenizer(request):
    return request.getfixturevalue(f"{request.param}_tokenizer")


# ---- Nothing is lost, and the prompt's tokens are its own

PROMPTS = [
    "Answer: ",
    "Answer:",
    "a\n",
    "a\n\n",
    "\t",
    "half wo",
    "🙂",
    "👩‍👩‍",
    "e",
    "cafe",
    "1+1=",
    " ",
    "\n",
    "don'",
    "…\r\n",
    "x  ",
]
ANSWERS = [
    "Yes",
    " Yes",
    "  Yes",
    "\nYes",
    "\n\n",
    "\tYes",
    "rds",
    "🙂",
    "👧",
    "\u0301t\u0301",
    "s",
    "2",
    "12",
    " ",
    "\r\n",
    "t'",
    "<b>",
]


@pytest.fixture(scope="module")
def real_encoder(real_tokenizer):
    return PairEncoder(real_tokenizer, PLAIN)


def check_laws(encoder: PairEncoder, prompt: str, chosen: str, rejected: str) -> None:
    tokenizer = encoder.tokenizer
    start = tokenizer(prompt)["input_ids"]
    tokens = encoded(encoder, pair(prompt, chosen, rejected))
    assert list(tokens.prompt) == start
    before = text_of(tokenizer, start).removesuffix(prompt)
    assert before in ("", tokenizer.bos_token)
    for response, ids in ((chosen, tokens.chosen), (rejected, tokens.rejected)):
        assert text_of(tokenizer, tokens.prompt + ids) == before + prompt + response + tokenizer.eos_token
        assert text_of(tokenizer, ids) == response + tokenizer.eos_token
        assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_and_response_decode_to_the_text_at_any_boundary(real_encoder, prompt):
    for chosen, rejected in zip(ANSWERS, ANSWERS[1:] + ANSWERS[:1], strict=True):
        check_laws(real_encoder, prompt, chosen, rejected)


def test_some_of_those_boundaries_do_merge(real_tokenizer):
    """Otherwise the test above would say nothing about merges."""

    def ids(text: str) -> list[int]:
        return real_tokenizer(text, add_special_tokens=False)["input_ids"]

    merging = [(p, a) for p in PROMPTS for a in ANSWERS if ids(p + a)[: len(ids(p))] != ids(p)]
    assert len(merging) > 20


PIECES = st.sampled_from(sorted({*PROMPTS, *ANSWERS, "ing", "é", "\u0308", "한", "가", "  \n", "0"}))
ANY_CHARACTERS = st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=4)
ANY_TEXT = st.lists(PIECES | ANY_CHARACTERS, min_size=1, max_size=5).map("".join).filter(bool)


def keeps(tokenizer, *texts: str) -> bool:
    """Whether the tokenizer itself loses nothing: SmolLM2 has no tokens for some rare bytes, Gemma's ▁ is a space."""
    return all(text_of(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"]) == text for text in texts)


@settings(max_examples=120, deadline=None)
@given(prompt=ANY_TEXT, chosen=ANY_TEXT, rejected=ANY_TEXT)
def test_laws_hold_for_any_text(real_encoder, prompt, chosen, rejected):
    assume(chosen != rejected and keeps(real_encoder.tokenizer, prompt, chosen, rejected))
    check_laws(real_encoder, prompt, chosen, rejected)


@settings(max_examples=120, deadline=None)
@given(prompt=ANY_TEXT, chosen=ANY_TEXT, rejected=ANY_TEXT)
def test_chat_layout_decodes_to_what_the_template_renders(smollm2_tokenizer, prompt, chosen, rejected):
    assume(chosen != rejected and keeps(smollm2_tokenizer, prompt, chosen, rejected))
    tokens = encoded(PairEncoder(smollm2_tokenizer, TokenSettings()), pair(prompt, chosen, rejected))
    user = [{"role": "user", "content": prompt}]
    start = smollm2_tokenizer.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
    assert list(tokens.prompt) == start
    for response, ids in ((chosen, tokens.chosen), (rejected, tokens.rejected)):
        turns = [*user, {"role": "assistant", "content": response}]
        rendered = smollm2_tokenizer.apply_chat_template(turns, tokenize=False)
        assert rendered.endswith("<|im_end|>\n")
        assert text_of(smollm2_tokenizer, tokens.prompt + ids) == rendered.removesuffix("\n")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("response", ["yes", " yes", "\nyes", "swer", "\n", "  no", "\tis", ": yes"])
@pytest.mark.parametrize("prompt", ["Answer: ", "Answer:", "An", "What is it?\n", "the  "])
def test_no_space_is_invented_before_a_response(prompt, response, legacy):
    tokenizer = sentencepiece_like(legacy=legacy)
    tokens = encoded(PairEncoder(tokenizer, TokenSettings(eot=False)), pair(prompt, response, "other"))
    assert list(tokens.prompt) == tokenizer(prompt)["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(list(tokens.chosen))
    assert "".join(pieces).replace("▁", " ") == response


def test_encoding_a_response_bare_would_invent_a_space():
    """The effect that the test above guards against is there."""
    tokenizer = sentencepiece_like()
    assert tokenizer.convert_ids_to_tokens(tokenizer("yes", add_special_tokens=False)["input_ids"])[0].startswith("▁")
    whole = tokenizer("Answer: yes")["input_ids"]
    prompt = tokenizer("Answer: ")["input_ids"]
    assert whole[: len(prompt)] != prompt


def test_prompt_ids_do_not_depend_on_the_responses(real_tokenizer):
    for settings_ in (TokenSettings(), PLAIN):
        encoder = PairEncoder(real_tokenizer, settings_)
        prompts = {encoded(encoder, pair("Say: ", a, b)).prompt for a in ANSWERS for b in ANSWERS if a != b}
        assert len(prompts) == 1


def test_swapping_the_responses_swaps_their_tokens(real_tokenizer):
    encoder = PairEncoder(real_tokenizer, PLAIN)
    one, other = (encoded(encoder, pair("Say: ", *texts)) for texts in (("Yes", "\nNo"), ("\nNo", "Yes")))
    assert (one.chosen, one.rejected) == (other.rejected, other.chosen)


# ---- BOS and end of sequence


def test_bos_stands_once_whoever_puts_it_there(gemma_tokenizer):
    bos = gemma_tokenizer.bos_token_id
    chat = PairEncoder(with_template(gemma_tokenizer, GEMMA_TEMPLATE), TokenSettings())
    plain = PairEncoder(gemma_tokenizer, TokenSettings())
    spelt = pair("<bos>Is the sky blue?")
    for encoder, a_pair in ((chat, pair(QUESTION)), (plain, pair("Is the sky blue?")), (plain, spelt)):
        tokens = encoded(encoder, a_pair)
        assert tokens.prompt[0] == bos
        assert (tokens.prompt + tokens.chosen + tokens.rejected).count(bos) == 1
        assert encoder.describe()["bos"] is True


@pytest.mark.parametrize("bos", [True, False])
def test_plain_prompts_have_bos_where_the_tokenizer_adds_it(bos):
    tokenizer = sentencepiece_like(bos=bos)
    encoder = PairEncoder(tokenizer, TokenSettings())
    assert (encoded(encoder, pair("is it?")).prompt[0] == tokenizer.bos_token_id) is bos
    assert encoder.describe()["bos"] is bos
    if bos:
        assert encoded(encoder, pair("")).prompt == (tokenizer.bos_token_id,)
    else:
        assert "the prompt is empty" in refused(encoder, pair(""))


@pytest.mark.parametrize("adds", [True, False])
def test_add_bos_token_is_heeded(adds):
    backend = sentencepiece_like(bos=False).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=adds
    )
    tokens = encoded(PairEncoder(tokenizer, TokenSettings()), pair("is it?"))
    assert tokens.prompt.count(tokenizer.bos_token_id) == int(adds)


def test_a_tokenizer_that_also_adds_eos_adds_none_to_the_prompt():
    tokenizer = sentencepiece_like()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    )
    tokens = encoded(PairEncoder(tokenizer, TokenSettings()), pair("is it?"))
    assert tokenizer.eos_token_id not in tokens.prompt
    assert tokens.chosen.count(tokenizer.eos_token_id) == 1


def test_padding_and_truncation_of_other_calls_change_nothing(smollm2_tokenizer):
    tokenizer = copy.deepcopy(smollm2_tokenizer)
    encoder = PairEncoder(tokenizer, TokenSettings())
    before = encoded(encoder, pair("Is it? ", "Yes", "No, never ever."))
    tokenizer(["a", "a long text"], padding="max_length", truncation=True, max_length=2)
    assert encoded(encoder, pair("Is it? ", "Yes", "No, never ever.")) == before
    later = PairEncoder(tokenizer, TokenSettings())
    tokenizer(["a", "a long text"], padding="max_length", truncation=True, max_length=2)
    assert later.fingerprint == PairEncoder(smollm2_tokenizer, TokenSettings()).fingerprint


def test_without_an_end_token_the_way_out_is_named(gemma_tokenizer):
    tokenizer = copy.deepcopy(sentencepiece_like())
    tokenizer.eos_token = None
    for template in (None, NO_END_TEMPLATE):
        with pytest.raises(ModelError, match="--no-eot"):
            PairEncoder(with_template(tokenizer, template), TokenSettings())
        PairEncoder(with_template(tokenizer, template), TokenSettings(eot=False))


# ---- Truncation and rows that cannot be used


def test_the_end_of_each_response_is_cut_and_never_the_prompt(smollm2_tokenizer):
    a_pair = pair("Is it?", "Yes, and so on and on.", "No.")
    whole = encoded(PairEncoder(smollm2_tokenizer, TokenSettings()), a_pair)
    assert not whole.truncated
    for room in range(1, whole.chosen_tokens + 1):
        limit = whole.prompt_tokens + room
        cut = encoded(PairEncoder(smollm2_tokenizer, TokenSettings(max_length=limit)), a_pair)
        assert cut.prompt == whole.prompt
        assert (cut.chosen, cut.rejected) == (whole.chosen[:room], whole.rejected[:room])
        assert cut.truncated is (room < whole.chosen_tokens)


def test_a_prompt_that_fills_max_length_is_a_bad_row(smollm2_tokenizer):
    whole = encoded(PairEncoder(smollm2_tokenizer, TokenSettings()), pair("Is it?"))
    reason = refused(PairEncoder(smollm2_tokenizer, TokenSettings(max_length=whole.prompt_tokens)), pair("Is it?"))
    assert f"no room for a response: --max-length is {whole.prompt_tokens} " in reason
    assert f"prompt {whole.prompt_tokens}, chosen {whole.chosen_tokens}, rejected {whole.rejected_tokens}" in reason


def test_identical_responses_and_those_that_become_so_are_told_apart(smollm2_tokenizer):
    a_pair = pair("a", "one two three four", "one two three five")
    short = PairEncoder(smollm2_tokenizer, TokenSettings(max_length=4, template="plain"))
    assert "become identical when cut to 3 tokens: --max-length is 4" in refused(short, a_pair)
    assert encoded(PairEncoder(smollm2_tokenizer, PLAIN), a_pair).shared_prefix_tokens == 3
    assert "identical as tokens" in refused(PairEncoder(smollm2_tokenizer, PLAIN), pair("a", "one", "one"))


@pytest.mark.parametrize("eot", [True, False])
def test_empty_prompts_and_responses_are_bad_rows(smollm2_tokenizer, eot):
    encoder = PairEncoder(smollm2_tokenizer, TokenSettings(template="plain", eot=eot))
    assert "the prompt is empty" in refused(encoder, pair(""))
    assert "the chosen response is empty" in refused(encoder, pair("a", ""))
    assert "the rejected response is empty" in refused(encoder, pair(QUESTION, "Yes", ""))


def test_half_a_surrogate_pair_is_a_bad_row(smollm2_tokenizer):
    for k, name in enumerate(("prompt", "chosen", "rejected")):
        texts = ["a", "b", "c"]
        texts[k] += "\ud83d"
        assert f"the {name} is not valid Unicode" in refused(PairEncoder(smollm2_tokenizer, PLAIN), pair(*texts))


def test_lengths_and_counts():
    tokens = TokenPair(0, "0" * 16, prompt=(1, 2, 3), chosen=(4, 5, 6, 9), rejected=(4, 5, 9), truncated=False)
    assert (tokens.prompt_tokens, tokens.chosen_tokens, tokens.rejected_tokens, tokens.total) == (3, 4, 3, 10)
    assert tokens.shared_prefix_tokens == 2
    prefix = TokenPair(0, "0" * 16, prompt=(1,), chosen=(4, 5), rejected=(4, 5, 6), truncated=False)
    assert prefix.shared_prefix_tokens == 2


@pytest.mark.parametrize(
    "wrong", [{"max_length": 1}, {"max_length": "9"}, {"max_length": True}, {"template": "chatml"}, {"eot": 1}]
)
def test_settings_are_checked_on_creation(wrong):
    with pytest.raises(OptionError, match=str(next(iter(wrong.values())))):
        TokenSettings(**wrong)


# ---- Cost, identity, real data


class CountingTokenizer:
    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self._tokenizer(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


def test_a_pair_costs_one_call_to_the_tokenizer_and_never_more_than_three(gemma_tokenizer):
    counting = CountingTokenizer(gemma_tokenizer)
    encoder = PairEncoder(counting, TokenSettings())
    counting.calls = 0
    encoder.encode(pair("Is it?", " Yes", " No"))
    assert counting.calls == 1
    for prompt in PROMPTS:
        for chosen, rejected in pairwise(ANSWERS):
            counting.calls = 0
            encoder.encode(pair(prompt, chosen, rejected))
            assert counting.calls <= 3


def test_real_pairs_keep_their_text(smollm2_tokenizer, shared_data):
    file = shared_data / "alpaca_eval_pairs.jsonl"
    encoder = PairEncoder(smollm2_tokenizer, TokenSettings(max_length=10**6))
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(60), strict=False)]
    for row in rows:
        tokens = encoded(encoder, pair(row["prompt"], row["chosen"], row["rejected"]))
        assert text_of(smollm2_tokenizer, tokens.chosen) == row["chosen"] + "<|im_end|>"
        assert text_of(smollm2_tokenizer, tokens.rejected) == row["rejected"] + "<|im_end|>"
        assert row["prompt"] in text_of(smollm2_tokenizer, tokens.prompt)


def test_an_empty_prompt_needs_a_token_to_predict_from():
    with_bos = encoded(PairEncoder(sentencepiece_like(), PLAIN), pair(""))
    assert len(with_bos.prompt) == 1
    reason = refused(PairEncoder(sentencepiece_like(bos=False), PLAIN), pair(""))
    assert "the prompt is empty" in reason
    chat = encoded(PairEncoder(with_template(sentencepiece_like(), GEMMA_TEMPLATE), TokenSettings()), pair(""))
    assert chat.prompt_tokens > 1

"""What the tests of tokens and layouts share: pairs, chat templates, and a small tokenizer that is quickly made."""

from __future__ import annotations

import copy

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from undertow.data.pairs import BadRow, Message, Pair
from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings

QUESTION = (Message("user", "Is the sky blue?"),)
PLAIN = TokenSettings(template="plain")

# Chat templates as their models ship them, shortened to the parts that lay out system, user and assistant turns.
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA2_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
QWEN3_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
R1_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
NO_END_TEMPLATE = (
    "{% for message in messages %}{{ '\n\n' + message['role'] + ': ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nassistant: ' }}{% endif %}"
)


def pair(prompt, chosen="Yes, it is.", rejected="No.") -> Pair:
    return Pair(row=3, prompt=prompt, chosen=chosen, rejected=rejected, file="prefs.jsonl", line=4)


def encoded(encoder: PairEncoder, a_pair: Pair) -> TokenPair:
    result = encoder.encode(a_pair)
    assert isinstance(result, TokenPair), result
    return result


def refused(encoder: PairEncoder, a_pair: Pair) -> str:
    result = encoder.encode(a_pair)
    assert isinstance(result, BadRow), result
    assert (result.row, result.file, result.line) == (a_pair.row, a_pair.file, a_pair.line)
    return result.reason


def text_of(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def with_template(tokenizer, template: str | None):
    twin = copy.copy(tokenizer)
    twin.chat_template = template
    return twin


CORPUS = [
    "the sky is blue and the answer is yes",
    "Answer: yes Answer: no",
    "no it is not blue, is it?",
    "What is it?\n",
]


def sentencepiece_like(*, legacy: bool = False, bos: bool = True) -> PreTrainedTokenizerFast:
    """A BPE that puts ▁ before every text: by its pre-tokenizer (Llama 2) or, legacy, by its normalizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    alphabet = [*map(chr, range(32, 127)), "\n", "\t", "▁"]
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=170, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([f"▁{line.replace(' ', '▁')}" for line in CORPUS] if legacy else CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")

"""Tiny models with random weights, one for each family, and what is needed to load them as users do."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from undertow.data.tokens.encoder import TokenPair
from undertow.models.checks import check_head, tree_attention_problem
from undertow.models.families import find_backbone, find_head
from undertow.models.model import Model

VOCABULARY = 300
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_WINDOW = 9  # shorter than the test sequences, so that the window is felt

FAMILIES = {
    "llama": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=False),
    "llama-tied": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(**_GROUPED, head_dim=8, sliding_window=_WINDOW, final_logit_softcapping=3.0),
    "gemma3": lambda: Gemma3TextConfig(**_GROUPED, head_dim=8, sliding_window=_WINDOW),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=8),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2
    ),
    "olmo2": lambda: Olmo2Config(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED, sliding_window=_WINDOW),
    "phi3": lambda: Phi3Config(**_GROUPED, sliding_window=_WINDOW),
    "gpt-neox": lambda: GPTNeoXConfig(**_SIZES),
    "cohere": lambda: CohereConfig(**_GROUPED, logit_scale=0.25),
    "granite": lambda: GraniteConfig(**_GROUPED, logits_scaling=4.0, embedding_multiplier=2.0, residual_multiplier=0.5),
}


def tiny_hf(family: str = "llama", *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The bare transformers model, its weights large enough that attention and caps matter."""
    torch.manual_seed(sum(family.encode()))
    model = AutoModelForCausalLM.from_config(FAMILIES[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25)
    return model.to(dtype).eval().requires_grad_(False)


def tiny_model(family: str = "llama", *, dtype: torch.dtype = torch.float32, packed: bool = True) -> Model:
    """The same as a checked :class:`Model` (without a tokenizer)."""
    hf = tiny_hf(family, dtype=dtype)
    model = Model(family, hf, None, find_backbone(hf), find_head(hf), torch.device("cpu"), dtype)
    check_head(model)
    if packed:
        model.attention_note = tree_attention_problem(model)
    return model


def random_pairs(count: int, *, seed: int = 0, longest: int = 40) -> list[TokenPair]:
    """Token pairs of all sizes; every third shares the beginning of its responses."""
    draw = random.Random(seed)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, most)))

    pairs = []
    for row in range(count):
        shared = tokens(6) if row % 3 == 0 else ()
        pairs.append(
            TokenPair(row, f"{row:016x}", tokens(20), shared + tokens(longest), shared + tokens(longest), False)
        )
    return pairs


CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(chat_template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Bytes as tokens, and a few special ones: any text goes through it and back."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special[3:],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_folder(path: Path, family: str = "llama", *, tokenizer: bool = True) -> Path:
    """A model folder as users have it."""
    tiny_hf(family).save_pretrained(path)
    if tokenizer:
        tiny_tokenizer().save_pretrained(path)
    return path

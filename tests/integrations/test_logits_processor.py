"""The logit combination inside ``generate``: plain generation at its fixed points, and the naive loop as its rule."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
)

from undertow.errors import ModelError, OptionError
from undertow.integrations.logits import CombinedLogitsProcessor
from undertow.maths.tilt import combine_logits

NEW = 12


def tiny_llama(seed: int, *, vocab: int = 61) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,  # large enough for two seeds to disagree on most tokens
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def tiny_gpt2(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=61,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def policy() -> LlamaForCausalLM:
    return tiny_llama(0)


@pytest.fixture(scope="module")
def reference() -> LlamaForCausalLM:
    return tiny_llama(1)


PROMPT = torch.tensor([[1, 7, 22, 9]])


def generate(model, ids: Tensor, processor: CombinedLogitsProcessor | None = None, **options) -> Tensor:
    options = {"max_new_tokens": NEW, "do_sample": False, "attention_mask": torch.ones_like(ids)} | options
    processors = LogitsProcessorList([] if processor is None else [processor])
    return model.generate(ids, logits_processor=processors, **options)


def naive_greedy(policy, reference, ids: Tensor, a: float, b: float, new: int = NEW) -> Tensor:
    """The rule itself: no cache, one whole forward pass of both models a token."""
    with torch.no_grad():
        for _ in range(new):
            z_p, z_r = (model(ids).logits[:, -1].float() for model in (policy, reference))
            z = combine_logits(z_p, z_r, policy_weight=a, reference_weight=b)
            ids = torch.cat([ids, z.argmax(-1, keepdim=True)], dim=1)
    return ids


def counting(model: LlamaForCausalLM, lengths: list[int]):
    """Notes how many tokens each forward pass of the model gets."""

    def note(module, args, kwargs) -> None:
        lengths.append(kwargs["input_ids"].shape[1])

    return model.register_forward_pre_hook(note, with_kwargs=True)


def test_policy_alone_is_plain_generation_and_never_runs_the_reference(policy, reference) -> None:
    lengths: list[int] = []
    hook = counting(reference, lengths)
    processor = CombinedLogitsProcessor(reference, policy_weight=1.0, reference_weight=0.0)
    assert generate(policy, PROMPT, processor).tolist() == generate(policy, PROMPT).tolist()
    hook.remove()
    assert lengths == []


def test_minus_the_reference_alone_is_the_reference(policy, reference) -> None:
    processor = CombinedLogitsProcessor(reference, policy_weight=0.0, reference_weight=-1.0)
    assert generate(policy, PROMPT, processor).tolist() == generate(reference, PROMPT).tolist()
    assert generate(policy, PROMPT).tolist() != generate(reference, PROMPT).tolist()


@pytest.mark.parametrize("weight", [2.0, 0.5, -1.0])
def test_equal_models_keep_the_plain_distribution(policy, weight: float) -> None:
    processor = CombinedLogitsProcessor(policy, policy_weight=weight, reference_weight=weight - 1)
    options = {"return_dict_in_generate": True, "output_scores": True}
    plain, combined = generate(policy, PROMPT, **options), generate(policy, PROMPT, processor, **options)
    assert combined.sequences.tolist() == plain.sequences.tolist()
    for ours, theirs in zip(combined.scores, plain.scores, strict=True):
        torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(2.0, 1.0), (0.5, -0.5), (1.5, 0.2)])
def test_cached_generation_equals_the_naive_loop(policy, reference, a: float, b: float) -> None:
    lengths: list[int] = []
    hook = counting(reference, lengths)
    processor = CombinedLogitsProcessor(reference, policy_weight=a, reference_weight=b)
    found = generate(policy, PROMPT, processor)
    hook.remove()
    assert found.tolist() == naive_greedy(policy, reference, PROMPT, a, b).tolist()
    assert found.tolist() != generate(policy, PROMPT).tolist()
    assert lengths == [4] + [1] * (NEW - 1)  # the prompt once, then only what is new
    # The same processor serves another prompt: what it remembers is not taken for this one.
    other = torch.tensor([[1, 30, 31]])
    assert generate(policy, other, processor).tolist() == naive_greedy(policy, reference, other, a, b).tolist()


def test_left_padded_prompts_generate_what_each_would_alone(policy, reference) -> None:
    prompts = [[1, 7, 22, 9, 40, 3], [1, 5, 8]]
    alone = [naive_greedy(policy, reference, torch.tensor([p]), 2.0, 1.0)[0, len(p) :].tolist() for p in prompts]
    ids = torch.tensor([prompts[0], [0, 0, 0, *prompts[1]]])
    mask = (ids != 0).long()
    processor = CombinedLogitsProcessor(reference, policy_weight=2.0, reference_weight=1.0, attention_mask=mask)
    assert generate(policy, ids, processor, attention_mask=mask)[:, 6:].tolist() == alone
    blind = CombinedLogitsProcessor(reference, policy_weight=2.0, reference_weight=1.0)
    with pytest.raises(OptionError, match="padding token 0: give the processor the attention_mask"):
        generate(policy, ids, blind, attention_mask=mask)
    with pytest.raises(OptionError, match="for 2 prompts of 6 tokens, the input has 1 rows of 4"):
        generate(policy, PROMPT, processor)


def test_beams_are_followed_when_they_change_places(policy, reference) -> None:
    """Beam search with a cached reference gives what a reference without memory gives, for two prompts at once."""
    ids = torch.tensor([[1, 7, 22, 9], [1, 5, 8, 33]])
    reorders: list[Tensor] = []

    class Watched(CombinedLogitsProcessor):
        def _follow(self, ids: Tensor) -> bool:
            followed = super()._follow(ids)
            if followed and not torch.equal(ids[:, : self._seen.shape[1]], self._seen):
                reorders.append(ids)
            return followed

    class Forgetful(CombinedLogitsProcessor):
        def _follow(self, ids: Tensor) -> bool:
            return False

    weights = {"policy_weight": 2.0, "reference_weight": 1.0}
    options = {"num_beams": 4, "return_dict_in_generate": True, "output_scores": True}
    cached = generate(policy, ids, Watched(reference, **weights), **options)
    naive = generate(policy, ids, Forgetful(reference, **weights), **options)
    assert cached.sequences.tolist() == naive.sequences.tolist()
    torch.testing.assert_close(cached.sequences_scores, naive.sequences_scores, rtol=1e-4, atol=1e-5)
    assert reorders  # the case did occur
    plain = generate(policy, ids, num_beams=4)
    assert cached.sequences.tolist() != plain.tolist()


def test_beams_are_compared_by_the_combined_log_probability(policy, reference) -> None:
    """Without the normaliser of each step, which a greedy choice does not need, beams would be compared wrongly."""
    processor = CombinedLogitsProcessor(reference, policy_weight=2.0, reference_weight=1.0)
    options = {"num_beams": 3, "length_penalty": 0.0, "return_dict_in_generate": True, "output_scores": True}
    found = generate(policy, PROMPT, processor, **options)
    ids = found.sequences
    with torch.no_grad():
        z_p, z_r = (model(ids).logits[:, PROMPT.shape[1] - 1 : -1] for model in (policy, reference))
    logps = combine_logits(z_p, z_r, policy_weight=2.0, reference_weight=1.0).log_softmax(-1)
    summed = logps.gather(-1, ids[:, PROMPT.shape[1] :, None]).sum()
    assert found.sequences_scores.item() == pytest.approx(summed.item(), rel=1e-4)


@pytest.mark.parametrize("family", [tiny_llama, tiny_gpt2])
def test_left_padded_beams_find_what_each_prompt_would_alone(family) -> None:
    """generate repeats each prompt for its beams; GPT-2 has absolute positions, which padding must not move."""
    policy, reference = family(0), family(1)
    prompts = [[1, 7, 22, 9, 40, 3], [1, 5, 8], [1, 60]]
    weights = {"policy_weight": 2.0, "reference_weight": 1.0}
    alone = []
    for prompt in prompts:
        row = torch.tensor([prompt])
        found = generate(policy, row, CombinedLogitsProcessor(reference, **weights), num_beams=3)
        alone.append(found[0, len(prompt) :].tolist())
    ids = torch.tensor([[0] * (6 - len(p)) + p for p in prompts])
    mask = (ids != 0).long()
    processor = CombinedLogitsProcessor(reference, **weights, attention_mask=mask)
    assert generate(policy, ids, processor, attention_mask=mask, num_beams=3)[:, 6:].tolist() == alone


def test_masks_of_other_processors_are_kept(policy, reference) -> None:
    """A token that generate forbids stays forbidden, though A·(−∞) − B·z would lose it at A = 0."""
    processor = CombinedLogitsProcessor(reference, policy_weight=0.0, reference_weight=-1.0)
    free = generate(policy, PROMPT, processor)[0, 4:].tolist()
    forbidden = generate(policy, PROMPT, processor, bad_words_ids=[[free[0]]])[0, 4:].tolist()
    assert free[0] not in forbidden


def test_sampling_draws_from_the_combined_distribution(policy, reference) -> None:
    processor = CombinedLogitsProcessor(reference, policy_weight=2.0, reference_weight=1.0)
    torch.manual_seed(0)
    drawn = generate(policy, PROMPT, processor, do_sample=True, num_return_sequences=4000, max_new_tokens=1, top_k=0)[
        :, -1
    ]
    with torch.no_grad():
        z_p, z_r = (model(PROMPT).logits[0, -1] for model in (policy, reference))
    expected = combine_logits(z_p, z_r, policy_weight=2.0, reference_weight=1.0).softmax(-1)
    shares = torch.bincount(drawn, minlength=len(expected)) / len(drawn)
    # Half the L1 distance of 4000 draws over 61 tokens from their own distribution stays below √(61/4000)/2.
    assert (shares - expected).abs().sum() / 2 < 0.062
    assert (shares - z_p.softmax(-1)).abs().sum() / 2 > 0.2


def test_what_cannot_be_used_is_refused(policy, reference) -> None:
    with pytest.raises(ModelError, match="vocabulary of 50, the policy of 61"):
        generate(
            policy,
            PROMPT,
            CombinedLogitsProcessor(tiny_llama(2, vocab=50), policy_weight=2.0, reference_weight=1.0),
        )
    with pytest.raises(OptionError, match="policy_weight must be a finite number, got nan"):
        CombinedLogitsProcessor(reference, policy_weight=float("nan"), reference_weight=1.0)
    with pytest.raises(ModelError, match=r"call reference\.eval\(\)"):
        CombinedLogitsProcessor(tiny_llama(3).train(), policy_weight=2.0, reference_weight=1.0)


@pytest.mark.model
def test_real_model(smollm2_folder: Path) -> None:
    """SmolLM2-135M-Instruct: its fixed points, and extrapolation from a reference with disturbed weights."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).eval()
    disturbed = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in disturbed.model.layers[-1].parameters():
            parameter += 0.5 * parameter.std() * torch.randn_like(parameter)
    chat = [{"role": "user", "content": "Name three rivers of Europe."}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    few = 5  # whole forward passes of a real model in the naive loop: enough for the models to part ways
    plain = generate(model, ids, max_new_tokens=few)
    theirs = generate(disturbed, ids, max_new_tokens=few)

    def combined(reference, a: float, b: float) -> Tensor:
        processor = CombinedLogitsProcessor(reference, policy_weight=a, reference_weight=b)
        return generate(model, ids, processor, max_new_tokens=few)

    assert theirs.tolist() != plain.tolist()
    assert combined(disturbed, 1.0, 0.0).tolist() == plain.tolist()
    assert combined(model, 2.0, 1.0).tolist() == plain.tolist()
    assert combined(disturbed, 0.0, -1.0).tolist() == theirs.tolist()
    assert combined(disturbed, 2.0, 1.0).tolist() == naive_greedy(model, disturbed, ids, 2.0, 1.0, few).tolist()

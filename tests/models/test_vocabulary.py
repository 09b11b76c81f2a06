"""A tokenizer and a model of different sizes: what fits is loaded, with the right number of rows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from command import run, some_rows, write_jsonl
from tiny import VOCABULARY, tiny_folder, tiny_tokenizer
from undertow.errors import ModelError
from undertow.models.checks import check_same_tokens, relative_difference
from undertow.models.loading import load_config, load_model
from undertow.models.sources import find_model
from undertow.models.vocabulary import vocabulary_size

ADDED = ["<think>", "</think>", "<tool>", "<call>"]
ROWS = VOCABULARY + len(ADDED) + 1  # one row more than there are tokens, as where rows are filled up


@pytest.fixture(scope="module", params=["llama", "llama-tied", "gpt2", "gpt-neox"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp(request.param), request.param)


def larger_tokenizer(path: Path, tokens: list[str]) -> None:
    """The tiny tokenizer, grown to the model's size and by these tokens."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<unused{n}>" for n in range(VOCABULARY - len(tokenizer))])
    tokenizer.add_tokens(tokens)
    assert len(tokenizer) == VOCABULARY + len(tokens)
    tokenizer.save_pretrained(path)


def size(path: Path) -> int | None:
    source = find_model(str(path))
    return vocabulary_size(source, load_config(source))


def adapter_of(base: Path, path: Path, rows: int, **options: object) -> torch.Tensor:
    """An adapter trained after the base was resized to ``rows``; returns its logits on tokens old and new."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(rows)
    names = [name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = {"q_proj", "query_key_value", "dense", "c_attn"} & {*names, "c_attn"}
    if "c_attn" not in str(model):
        layers -= {"c_attn"}
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=sorted(layers), init_lora_weights=False, **options))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
            assert "lora" in name or options or not parameter.requires_grad
    peft.save_pretrained(path)
    larger_tokenizer(path, ADDED)
    with torch.no_grad():
        return peft.eval()(input_ids=torch.tensor([[5, VOCABULARY + 1, 9, VOCABULARY + 3, 20]])).logits


def names_of(base: Path) -> list[str]:
    model = AutoModelForCausalLM.from_pretrained(base)
    wanted = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name.rpartition(".")[2] for name, module in model.named_modules() if module in wanted]


def check_adapter(path: Path, expected: torch.Tensor) -> None:
    model = load_model(str(path), dtype="float32", packed=False)
    ids = torch.tensor([[5, VOCABULARY + 1, 9, VOCABULARY + 3, 20]])
    found = model.head.logits(model.backbone(input_ids=ids).last_hidden_state)
    assert found.shape == expected.shape
    assert relative_difference(found, expected) < 1e-5
    assert model.vocabulary == size(path) == ROWS
    again = load_model(str(path), dtype="float32", packed=False)
    assert model.weights_fingerprint() == again.weights_fingerprint()  # nothing is drawn at random


def test_an_adapter_with_embeddings_of_its_own_size(base: Path, tmp_path: Path) -> None:
    check_adapter(tmp_path, adapter_of(base, tmp_path, ROWS, modules_to_save=names_of(base)))


def test_an_adapter_trained_on_some_new_tokens(base: Path, tmp_path: Path) -> None:
    new = [VOCABULARY + n for n in range(len(ADDED) + 1)]
    check_adapter(tmp_path, adapter_of(base, tmp_path, ROWS, trainable_token_indices={names_of(base)[0]: new}))


def test_an_adapter_of_a_base_that_was_cut(base: Path, tmp_path: Path) -> None:
    """Rows that no token has are sometimes cut off before training."""
    rows = VOCABULARY - 10
    adapter_of_smaller = LoraConfig(r=2, target_modules="all-linear", modules_to_save=names_of(base))
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(rows)
    get_peft_model(model, adapter_of_smaller).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_model(str(tmp_path), dtype="float32", packed=False).vocabulary == size(tmp_path) == rows


def test_new_rows_that_no_file_holds_are_the_mean_of_the_old(base: Path, tmp_path: Path) -> None:
    """Only the trained rows were saved (save_embedding_layers=False): the others must at least not be random."""
    new = [VOCABULARY, VOCABULARY + 2]
    adapter_of(base, tmp_path, ROWS, trainable_token_indices={names_of(base)[0]: new})
    weights = load_file(tmp_path / "adapter_model.safetensors")
    embeddings = tuple(names_of(base))
    save_file(
        {k: v for k, v in weights.items() if "delta" in k or not any(name in k for name in embeddings)},
        tmp_path / "adapter_model.safetensors",
    )
    assert size(tmp_path) == VOCABULARY + 3
    one, two = (load_model(str(tmp_path), dtype="float32", packed=False) for _ in range(2))
    assert one.weights_fingerprint() == two.weights_fingerprint()
    plain = load_model(str(base), dtype="float32", packed=False)
    old, rows = (model.hf.get_input_embeddings().weight for model in (plain, one))
    torch.testing.assert_close(rows[VOCABULARY + 1], old.mean(0))
    assert torch.equal(rows[:VOCABULARY], old)


def test_a_tokenizer_that_knows_more_tokens_than_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gemma 3 and CodeLlama: no row uses them, so every command must work."""
    before, after = tiny_folder(tmp_path / "before"), tiny_folder(tmp_path / "after", "llama-tied")
    larger_tokenizer(before, ADDED)
    larger_tokenizer(after, [])
    assert load_model(str(before), dtype="float32").vocabulary == size(before) == VOCABULARY
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(6))
    options = ("--max-length", 400, "--dtype", "float32", "--quiet")
    scored = run(capsys, "audit", data, "--model", before, "--ref", after, "--out", tmp_path / "scores", *options)
    assert scored[0] == 0, scored[2]
    moved = run(
        capsys, "compare", data, "--before", before, "--after", after, "--out", tmp_path / "moved", *options, "--json"
    )
    assert moved[0] == 0, moved[2]
    assert json.loads(moved[1].splitlines()[-1])["continuations"]
    trained = run(
        *(capsys, "train", data, "--model", before, "--out", tmp_path / "run", *options, "--max-steps", 1),
        *("--track-every", 1, "--watch", "yes=Yes,Sure", "--json"),
    )
    assert trained[0] == 0, trained[2]


def test_the_configuration_tells_where_no_weights_are_at_hand(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    source, config = find_model(str(folder)), load_config(find_model(str(folder)))
    config.vocab_size = 999
    assert vocabulary_size(source, config) == VOCABULARY  # what is in the file
    assert vocabulary_size(find_model("some/hub-id"), config) == 999
    unknown = SimpleNamespace(get_text_config=SimpleNamespace)
    assert vocabulary_size(find_model("some/hub-id"), unknown) is None


def test_tokens_without_a_row_do_no_harm_others_do() -> None:
    ours, more = tiny_tokenizer(), tiny_tokenizer()
    more.add_tokens(ADDED)
    for one, two in ((ours, more), (more, ours)):
        check_same_tokens(one, two, "--ref x", whose="the audited model's", vocabulary=len(ours))
        for rows in (len(ours) + 1, None):
            with pytest.raises(ModelError, match="--ref x: its tokenizer has another vocabulary"):
                check_same_tokens(one, two, "--ref x", whose="the audited model's", vocabulary=rows)


def test_models_of_different_sizes_are_told_apart_before_they_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tiny_folder(tmp_path / "before"), tmp_path / "after"
    adapter_of(before, after, ROWS, modules_to_save=["embed_tokens", "lm_head"])
    monkeypatch.setattr("undertow.comparing.checkpoints.load_model", lambda *a, **k: pytest.fail("weights were loaded"))
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(2))
    code, _, err = run(
        *(capsys, "compare", data, "--before", before, "--after", after, "--out", tmp_path / "o"),
        *("--max-length", 400),
    )
    assert code == 2
    assert f"unembedding matrix has {ROWS} rows" in " ".join(err.split())
    assert not (tmp_path / "o").exists()


def test_a_watched_word_that_the_model_has_no_row_for_is_refused(tmp_path: Path, capsys) -> None:
    folder = tiny_folder(tmp_path / "model")
    larger_tokenizer(folder, ADDED)
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(4))
    code, _, err = run(
        *(capsys, "train", data, "--model", folder, "--out", tmp_path / "run", "--max-length", 400),
        *("--watch", "thought=Hm,<think>"),
    )
    assert code == 2
    assert "--watch thought: the model has no row for the token '<think>'" in " ".join(err.split())

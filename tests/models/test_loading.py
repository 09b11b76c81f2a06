"""The model argument: what can be loaded gives the right states; what cannot is refused with the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tiny import tiny_folder, tiny_hf
from undertow.errors import InputError, ModelError, OptionError
from undertow.models import device
from undertow.models.checks import relative_difference
from undertow.models.loading import check_max_length, load_config, load_model, load_tokenizer
from undertow.models.sources import find_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_saved_folder_is_loaded_with_its_weights(folder: Path) -> None:
    model = load_model(str(folder), dtype="float32")
    saved = load_file(folder / "model.safetensors")
    assert torch.equal(model.head.weight, saved["lm_head.weight"])
    assert (model.attention, model.attention_note) == ("tree", None)
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())


def test_dtype_changes_the_weights_type(folder: Path) -> None:
    assert load_model(str(folder), dtype="bfloat16").head.weight.dtype == torch.bfloat16


def test_weights_fingerprint_follows_the_weights_only(folder: Path) -> None:
    model, again = (load_model(str(folder), dtype="float32") for _ in range(2))
    assert model.weights_fingerprint() == again.weights_fingerprint()
    with torch.no_grad():
        again.head.weight[3, 3] += 1e-3
    assert model.weights_fingerprint() != again.weights_fingerprint()


def test_adapter_folder_is_merged_into_its_base(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    peft = get_peft_model(
        tiny_hf("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    peft.peft_config["default"].base_model_name_or_path = str(folder)
    peft.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype="float32")
    ids = torch.tensor([[5, 9, 14, 20]])
    with torch.no_grad():
        expected = peft.eval()(input_ids=ids).logits
        plain = load_model(str(folder), dtype="float32", packed=False).hf(input_ids=ids).logits
        found = model.head.logits(model.backbone(input_ids=ids, trees=_whole(ids)).last_hidden_state)
    assert relative_difference(found, expected) < 1e-5
    assert relative_difference(plain, expected) > 1e-3  # the adapter does something


def _whole(ids: torch.Tensor):
    from undertow.data.tokens.packing import Tree

    return (Tree((0, ids.shape[1]), ()),)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "no usable tokenizer.*save_pretrained"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b""),
            r"model.safetensors is not a whole safetensors file \(0 b",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "not a whole safetensors file"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
            "not a whole safetensors file",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pickle checkpoint only.*save_pretrained",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "no .safetensors weights"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "no usable configuration|no usable tokenizer"),
        (lambda f: (f / "config.json").write_text('{"model_type": "nonsense"}'), "no usable"),
    ],
)
def test_a_damaged_folder_is_refused(copy: Path, damage, message: str) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=message) as error:
        load_model(str(copy))
    assert str(copy) in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.gguf", b"GGML....", "not a GGUF file"),
        ("model.gguf", b"GGUF" + b"\0" * 40, "no usable"),
        ("model.pt", b"x", "a pickle checkpoint"),
        ("model.txt", b"x", "not a .gguf file"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path / name))


def test_what_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or folder"):
        find_model("./nowhere")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "./nowhere"}))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match="not a whole safetensors"):
        find_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no base model"):
        find_model(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="can the Hub be reached"):
        load_tokenizer(find_model("nobody/nothing"))


@pytest.mark.parametrize("wrong", ["nan", "inf"])
def test_broken_weights_are_named(copy: Path, wrong: str) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] = float(wrong)
    weights["model.embed_tokens.weight"][9] = float(wrong)  # a row that no probe need hit
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="not finite") as error:
        load_model(str(copy))
    kind = {"nan": "NaN", "inf": "infinite"}[wrong]
    assert f"model.embed_tokens.weight (32 {kind} of 9,600 numbers)" in str(error.value)
    assert f"model.layers.2.mlp.up_proj.weight (1 {kind} of 1,536 numbers)" in str(error.value)


def test_max_length_beyond_the_positions(folder: Path) -> None:
    source = find_model(str(folder))
    config = load_config(source)
    check_max_length(source, config, 512)
    with pytest.raises(ModelError, match="--max-length 513 is beyond the 512 positions.*--max-length 512"):
        check_max_length(source, config, 513)


def test_remote_code_is_not_run(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "code.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    with pytest.raises(InputError):
        load_model(str(copy))
    assert not list(copy.rglob("ran"))


def test_dtype_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "multiplies_bfloat16", lambda _, native=native: native)
        assert device.choose_dtype("auto", cpu) == expected
        assert device.choose_dtype("float32", cpu) == torch.float32
        assert device.choose_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(OptionError, match="--dtype float8"):
        device.choose_dtype("float8", cpu)


def test_tests_can_force_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for forced, native in (("1", True), ("0", False)):
        monkeypatch.setenv(device.FORCED, forced)
        assert device.multiplies_bfloat16(torch.device("cpu")) is native
    monkeypatch.setenv(device.FORCED, "yes")
    with pytest.raises(OptionError, match="UNDERTOW_NATIVE_BFLOAT16=yes: expected 0 or 1"):
        device.multiplies_bfloat16(torch.device("cpu"))


def test_device_rule() -> None:
    with pytest.raises(OptionError, match="--device tpu: expected one of auto"):
        device.choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="--device cuda: this machine has none"):
            device.choose_device("cuda")

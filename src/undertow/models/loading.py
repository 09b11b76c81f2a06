"""Loading a model and its tokenizer, with errors that say what came and the way out."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)

from undertow.errors import ModelError
from undertow.models.checks import check_finite, check_head, check_same_tokens, tree_attention_problem
from undertow.models.device import choose_device, choose_dtype
from undertow.models.families import find_backbone, find_head, longest_input
from undertow.models.model import Model
from undertow.models.sources import ModelSource, find_model
from undertow.models.vocabulary import adapter_rows, resize_vocabulary, vocabulary_size


def load_model(
    name: str | ModelSource,
    *,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    packed: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
    config: PretrainedConfig | None = None,
) -> Model:
    """Load a causal language model for scoring, and check once that its hidden embeddings are what they must be.

    Args:
        name: a Hub id, a folder saved by ``save_pretrained``, a PEFT adapter folder, a ``.gguf`` file, or ``demo``; or
            what ``find_model`` made of it.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``float32``, ``bfloat16``, or ``auto`` (see :func:`undertow.models.device.choose_dtype`). What an audit
            says of signs holds in float32; ranks by CHES hold in bfloat16 too.
        trust_remote_code: run code that comes with the model.
        packed: use packed rows where the family can take them; False scores one sequence at a time.
        tokenizer: one that is loaded already (reading one out of a GGUF file takes seconds).
        config: likewise.

    Raises:
        ModelError: the model cannot be found, read or scored; the message says why and what to do.
    """
    source = name if isinstance(name, ModelSource) else find_model(name)
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    tokenizer = tokenizer or load_tokenizer(source, trust_remote_code=trust_remote_code)
    hf = load_weights(source, dtype=kind, config=config, trust_remote_code=trust_remote_code)
    hf = hf.to(where).eval().requires_grad_(False)
    check_finite(hf, source.name)
    model = Model(source.name, hf, tokenizer, find_backbone(hf), find_head(hf), where, kind)
    check_head(model)
    model.attention_note = tree_attention_problem(model) if packed else "packed rows were turned off"
    return model


def load_tokenizer(source: ModelSource, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model (an adapter's own where it has one), without loading weights."""
    places = [str(source.adapter), source.location] if source.adapter else [source.location]
    if source.adapter and not (source.adapter / "tokenizer_config.json").is_file():
        places = places[1:]
    with (
        _plain_errors(source, "tokenizer", "Save it beside the model: tokenizer.save_pretrained(FOLDER)."),
        quiet_transformers(),
    ):
        arguments = source.arguments if places[0] == source.location else {}
        return AutoTokenizer.from_pretrained(places[0], trust_remote_code=trust_remote_code, **arguments)


def load_weights(
    source: ModelSource, *, dtype: torch.dtype, config: PretrainedConfig | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model itself, from safetensors or GGUF only; a PEFT adapter is merged into its base.

    An adapter that was trained after tokens were added has rows for them: the base gets as many first.
    """
    arguments = {"dtype": dtype, "trust_remote_code": trust_remote_code, **source.arguments}
    if not source.gguf:
        arguments["use_safetensors"] = True
    if config is not None:
        arguments["config"] = config
    with (
        _plain_errors(source, "weights", "Give a Hub id, a folder of safetensors weights, or a .gguf file."),
        quiet_transformers(),
    ):
        model = AutoModelForCausalLM.from_pretrained(source.location, **arguments)
    if source.gguf:
        _forget_quantisation(model)
    if source.adapter is not None:
        from peft import PeftModel  # an import of seconds that most runs do not need

        with _plain_errors(source, "adapter", "It must fit its base model."), quiet_transformers():
            before = len(model.get_input_embeddings().weight)
            rows = adapter_rows(source.adapter, before)
            if rows and rows != before:
                resize_vocabulary(model, rows)
            model = PeftModel.from_pretrained(model, str(source.adapter)).merge_and_unload()
    return model


def _forget_quantisation(model: PreTrainedModel) -> None:
    """What was read from GGUF is dequantised, yet still marked as quantised, which trainers refuse."""
    model.is_quantized = False
    for holder, name in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if hasattr(holder, name):
            delattr(holder, name)


def load_config(source: ModelSource, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The model's configuration, without its weights."""
    with _plain_errors(source, "configuration", "Expected what save_pretrained writes."), quiet_transformers():
        return AutoConfig.from_pretrained(source.location, trust_remote_code=trust_remote_code, **source.arguments)


def check_max_length(source: ModelSource, config: PretrainedConfig, max_length: int) -> None:
    """Refuse ``--max-length`` beyond the positions the model was made for, before its weights are loaded."""
    limit = longest_input(config)
    if limit is not None and max_length > limit:
        raise ModelError(
            f"--max-length {max_length} is beyond the {limit} positions that {source.name} was made for; "
            f"give --max-length {limit} or less."
        )


def shared_vocabulary(
    source: ModelSource, config: PretrainedConfig, companion: ModelSource | None, *, trust_remote_code: bool = False
) -> int | None:
    """For how many token ids both of two models have rows, as far as their files tell; None where they do not."""
    found = [vocabulary_size(source, config)]
    if companion and not companion.gguf:  # reading a GGUF file for its configuration takes seconds
        found.append(vocabulary_size(companion, load_config(companion, trust_remote_code=trust_remote_code)))
    return min((rows for rows in found if rows is not None), default=None)


def check_companion(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    *,
    named: str,
    whose: str,
    max_length: int,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """Refuse a second model that would read other tokens than the first, or fewer, before its weights are loaded.

    Args:
        source: the second model.
        tokenizer: the first one's.
        named: how the user named the second, as in ``--ref base``.
        whose: the first, as in "the audited model's".
        max_length: tokens that both must be able to read.
        trust_remote_code: run code that comes with the model.

    Returns:
        The second model's own tokenizer.
    """
    config = load_config(source, trust_remote_code=trust_remote_code)
    check_max_length(source, config, max_length)
    theirs = load_tokenizer(source, trust_remote_code=trust_remote_code)
    check_same_tokens(tokenizer, theirs, named, whose=whose, vocabulary=vocabulary_size(source, config))
    return theirs


@contextlib.contextmanager
def _plain_errors(source: ModelSource, what: str, way_out: str) -> Iterator[None]:
    """Turn what a library raises for a broken model into one error that names the model, the part and the way out."""
    try:
        yield
    except ModelError:
        raise
    except ImportError as error:
        install = "For GGUF: pip install 'undertow[demo]'."
        raise ModelError(f"{source.typed}: {_first_line(error)} {install}") from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        hub = "" if source.local else " Is the name right, and can the Hub be reached? A local folder works offline."
        raise ModelError(f"{source.typed}: no usable {what}: {_first_line(error)} {way_out}{hub}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Transformers' own notes and progress bars, off while we load: ours say what matters."""
    logging: Any = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gguf: Any = modeling_gguf_pytorch_utils  # draws a bar that no setting of transformers reaches
    bar = gguf.tqdm
    gguf.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

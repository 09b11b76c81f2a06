"""The names of options: what other libraries call them, and the nearest right word for a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SAME = {"optimizer": "optimiser"}
"""Other spellings that are taken as they are."""

ELSEWHERE = {
    "learning_rate": "lr",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "optim": "optimiser",
    "lr_scheduler_type": "schedule",
    "scheduler": "schedule",
    "warmup_ratio": "warmup_steps",
    "warmup": "warmup_steps",
    "loss_type": "loss",
    "model_name_or_path": "model",
    "ref_model": "ref",
    "ref_model_name_or_path": "ref",
    "reference": "ref",
    "bf16": "dtype",
    "fp16": "dtype",
    "torch_dtype": "dtype",
    "output_dir": "out",
    "dataset_name": "data",
    "dataset_split": "split",
    "dataset_config": "name",
    "logging_steps": "log_every",
    "save_steps": "save_every",
    "eval_steps": "track_every",
    "save_total_limit": "keep_checkpoints",
    "lora_rank": "lora_r",
    "max_seq_length": "max_length",
    "cutoff_len": "max_length",
    "data_seed": "seed",
}
"""What TRL, transformers and their like call an option, and what it is called here."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The option that was probably meant by a name that none has, or None.

    >>> nearest("learning-rate", ["loss", "lr"])
    'lr'
    >>> nearest("los", ["loss", "lr"])
    'loss'
    """
    known, asked = list(known), name.replace("-", "_").lower()
    meant = SAME.get(asked) or ELSEWHERE.get(asked)
    if meant in known:
        return meant
    close = get_close_matches(asked, known, n=1)
    return close[0] if close else None

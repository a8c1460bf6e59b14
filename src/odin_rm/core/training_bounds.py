"""The numbers that settings of transformers' and TRL's training arguments may have, in one table.

Their own checks let most of these through: a run begins, and stops with a traceback, or does something else than it was
asked. Ours are made before anything is written, for every command that trains.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import Bounds, flag_of

_COUNT, _NOT_NEGATIVE, _POSITIVE = Bounds(at_least=1), Bounds(at_least=0), Bounds(above=0)
_SEED = Bounds(at_least=0, below=2**32)  # of numpy, which is the narrowest
_SHARE, _DECAY = Bounds(at_least=0, at_most=1), Bounds(at_least=0, below=1)

TRAINING_BOUNDS: dict[str, Bounds] = {
    # length of the run, batches
    "num_train_epochs": _POSITIVE,
    "max_steps": Bounds(at_least=1, also=-1),
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT,
    # optimiser
    "learning_rate": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _DECAY,
    "adam_beta2": _DECAY,
    "adam_epsilon": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "label_smoothing_factor": _DECAY,
    "lora_alpha": _POSITIVE,
    # evaluation, logs and checkpoints: a number of steps, or below 1 a share of all
    "logging_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "eval_delay": _NOT_NEGATIVE,
    "save_total_limit": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    # chance and the machine
    "seed": _SEED,
    "data_seed": _SEED,
    "num_proc": _COUNT,
    "dataset_num_proc": _COUNT,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "dataloader_prefetch_factor": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "local_rank": Bounds(at_least=-1),
    # TRL's losses
    "beta": _POSITIVE,
    "label_smoothing": Bounds(at_least=0, below=0.5),
    "ld_alpha": _SHARE,
    "f_alpha_divergence_coef": Bounds(),
    "discopop_tau": _POSITIVE,
    "loss_weights": Bounds(),
    "router_aux_loss_coef": _NOT_NEGATIVE,
    "pad_to_multiple_of": _COUNT,
}


def check_training_numbers(config: Any) -> None:
    """Hold a config's inherited numbers against the table; ``None`` and words stay, each number of a list counts.

    Args:
        config: a dataclass on ``TrainingArguments``; before its own ``__post_init__`` looks at it.

    Raises:
        ConfigError: a number outside its bounds.
    """
    for item in dataclasses.fields(config):
        bounds = TRAINING_BOUNDS.get(item.name)
        value: Any = getattr(config, item.name, None)
        if bounds is None or "bounds" in item.metadata:
            continue
        if item.name == "num_train_epochs" and value == value and value >= 0 and _counts(config):
            continue
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if not bounds.holds(number):
                raise ConfigError(f"must be {bounds}, it is {number}", where=f"--{flag_of(item)}")


def _counts(config: Any) -> bool:
    """Whether the number of steps counts and that of epochs does not."""
    steps = getattr(config, "max_steps", -1)
    return isinstance(steps, int) and steps > 0

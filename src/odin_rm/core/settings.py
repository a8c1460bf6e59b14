"""Checks that the settings of every run share; errors name the flag."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from odin_rm.core.errors import ConfigError

# Fields of TrainingArguments that do not decide the weights: they may differ between the run that wrote a checkpoint
# and the one that goes on from it.
# fmt: off
NOT_TRAJECTORY = frozenset([
    "accelerator_config", "activation_checkpointing", "activation_checkpointing_kwargs", "attn_implementation",
    "cache_dir", "dataloader_in_order", "dataloader_multiprocessing_context", "dataloader_num_workers",
    "dataloader_pin_memory", "dataloader_prefetch_factor", "dataset", "ddp_backend", "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout", "debug",
    "deepspeed_plugin", "disable_tqdm", "distributed_state", "enable_jit_checkpoint", "eval_dataset", "eval_delay",
    "eval_on_start", "eval_steps", "eval_strategy", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "greater_is_better", "hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy",
    "hub_token", "ignore_data_skip", "load_best_model_at_end", "local_rank", "log_level", "log_level_replica",
    "log_on_each_node", "logging_first_step", "logging_steps", "logging_strategy", "metric_for_best_model",
    "columns", "num_proc", "num_train_epochs_total", "on_bad_row", "output_dir", "overwrite_output_dir",
    "project", "push_to_hub", "report_to", "restore_callback_states_from_checkpoint", "resume_from_checkpoint",
    "run_name", "save_on_each_node", "save_only_model", "save_steps", "save_strategy", "save_total_limit",
    "skip_memory_metrics", "torch_empty_cache_steps", "trackio_bucket_id", "trackio_space_id",
    "trackio_static_space_id", "use_cpu",
])
# fmt: on


def trajectory(config: Any, left_out: Collection[str] = ()) -> dict[str, Any]:
    """The settings that decide the weights, as plain values, for comparing a checkpoint with a run.

    Args:
        config: a dataclass.
        left_out: further fields that do not decide the weights.
    """
    names = [item.name for item in fields(config) if item.name not in NOT_TRAJECTORY and item.name not in left_out]
    return {name: to_json_types(getattr(config, name)) for name in names}


def to_json_types(value: Any) -> Any:
    """``value`` made of JSON types; what has none is its text."""
    value = getattr(value, "value", value)
    if isinstance(value, dict):
        return {str(key): to_json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [to_json_types(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def non_default_fields(config: Any, names: Collection[str]) -> list[str]:
    """Those of the named fields whose value is not the default, in the order of the dataclass."""
    found = []
    for item in fields(config):
        if item.name in names:
            factory: Any = item.default_factory
            default = item.default if item.default is not MISSING else factory()
            value = getattr(config, item.name)
            if value != default and str(getattr(value, "value", value)) != str(getattr(default, "value", default)):
                found.append(item.name)
    return found


def refuse_idle(config: Any, refused: Mapping[str, str], command: str) -> None:
    """Refuse fields that would do nothing.

    Args:
        config: a dataclass.
        refused: field names, each with what to do instead.
        command: what the user calls, for the message.

    Raises:
        ConfigError: one of them is set to something else than its default.
    """
    for name in non_default_fields(config, refused):
        fix = refused[name]
        raise ConfigError(f"has no effect in {command}", where=f"--{name}", fix=f"{fix[0].upper()}{fix[1:]}.")


def one_of(name: str, value: Any, allowed: Collection[str]) -> None:
    """Raise :class:`ConfigError` unless the value of the flag is one of the allowed."""
    if value not in allowed:
        raise ConfigError(f"must be one of {', '.join(allowed)}, it is {value!r}", where=f"--{name}")


def at_least(name: str, value: float, low: float) -> None:
    """Raise :class:`ConfigError` unless the value of the flag is a finite number of at least ``low``."""
    if not low <= value < math.inf:  # NaN fails every comparison
        raise ConfigError(f"must be at least {low}, it is {value}", where=f"--{name}")

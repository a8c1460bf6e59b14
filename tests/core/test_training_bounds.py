"""Numbers of transformers' and TRL's training arguments: each has bounds, held before anything else."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from odin_rm.cli.config import parse_config
from odin_rm.core.errors import ConfigError
from odin_rm.core.options import Bounds
from odin_rm.core.training_bounds import TRAINING_BOUNDS
from odin_rm.reward.config import RewardConfig
from odin_rm.workflows.policy.dpo import DPORunConfig
from odin_rm.workflows.policy.sft import SFTRunConfig

CONFIGS = {"reward": RewardConfig, "sft": SFTRunConfig, "dpo": DPORunConfig}


@pytest.mark.parametrize("command", CONFIGS)
def test_every_number_that_a_trainer_takes_has_bounds(command):
    config = CONFIGS[command]
    hints = typing.get_type_hints(config)
    numbers = [
        item.name
        for item in dataclasses.fields(config)
        if item.init and item.name not in config.refused and {"int", "float"} & _words(hints[item.name])
    ]
    assert len(numbers) > 20
    without = [
        name
        for name in numbers
        if name not in TRAINING_BOUNDS and "bounds" not in config.__dataclass_fields__[name].metadata
    ]
    assert without == []


def _words(hint: typing.Any) -> set[str]:
    return {word for arm in (hint, *typing.get_args(hint)) for word in [getattr(arm, "__name__", "")]} | {
        getattr(inner, "__name__", "") for arm in typing.get_args(hint) for inner in typing.get_args(arm)
    }


@pytest.mark.parametrize("command", CONFIGS)
@pytest.mark.parametrize(
    ("flag", "values"),
    {
        "seed": ["-1", "100000000000000000000"],
        "data_seed": ["-1"],
        "adam_beta1": ["2", "1", "-0.1", "nan"],
        "adam_beta2": ["1"],
        "adam_epsilon": ["-1"],
        "learning_rate": ["nan", "-1", "inf"],
        "weight_decay": ["-1", "nan"],
        "warmup_steps": ["-1", "nan"],
        "max_grad_norm": ["-1"],
        "dataloader_num_workers": ["-1"],
        "save_steps": ["0", "-1", "nan"],
        "max_steps": ["0", "-2"],
        "num_train_epochs": ["nan", "-1"],
        "logging_steps": ["-1", "0", "inf"],
        "eval_steps": ["0"],
        "save_total_limit": ["0"],
        "eval_delay": ["-1"],
        "ddp_timeout": ["0"],
        "lora_alpha": ["0"],
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_outside_their_bounds_are_one_line_and_leave_no_folder(command, flag, values, tmp_path):
    for value in values:
        argv = ["--model", "m", "--dataset", "d", "--output", str(tmp_path / "run"), "--use_cpu", f"--{flag}", value]
        with pytest.raises(ConfigError, match=rf"^--{flag}: must be .*, it is ") as caught:
            parse_config(CONFIGS[command], argv, command)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("dpo", "beta", "0"),
        ("dpo", "label_smoothing", "0.5"),
        ("dpo", "ld_alpha", "1.5"),
        ("dpo", "metric_for_best_model", "nope"),
        ("sft", "metric_for_best_model", "nope"),
        ("sft", "per_device_train_batch_size", "0"),
        ("sft", "gradient_accumulation_steps", "0"),
        ("dpo", "per_device_eval_batch_size", "-1"),
        ("reward", "num_proc", "0"),
    ],
)
def test_what_one_command_takes(command, flag, value, tmp_path):
    argv = ["--model", "m", "--dataset", "d", "--output", str(tmp_path / "run"), "--use_cpu", f"--{flag}", value]
    with pytest.raises(ConfigError, match=rf"--{flag}: must be "):
        parse_config(CONFIGS[command], argv, command)


def test_the_signs_that_mean_something_else_pass(tmp_path):
    words = ["--model", "m", "--dataset", "d", "--output", str(tmp_path), "--use_cpu", "--max_steps", "-1"]
    assert parse_config(SFTRunConfig, words, "sft").max_steps == -1
    steps = ["--max_steps", "5", "--num_train_epochs", "0", "--save_steps", "0.5", "--eval_steps", "0.1"]
    assert parse_config(SFTRunConfig, words[:-2] + steps, "sft").save_steps == 0.5
    assert str(Bounds(at_least=1, also=-1)) == "at least 1, or -1"

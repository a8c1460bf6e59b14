"""Help is made from descriptions that import nothing heavy, and says what the parser takes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing
from typing import Any

import pytest
import yaml
from transformers import TrainingArguments
from trl import DPOConfig, SFTConfig

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.cli.config import parse_config
from odin_rm.cli.main import main
from odin_rm.cli.parser import ConfigParser, own_fields, stock_base
from odin_rm.core.errors import ConfigError
from odin_rm.core.options import CPU_PRODUCTS, DTYPES, LAYOUTS, TREE_ATTENTION, flag_of, old_flags
from odin_rm.core.shared_options import TrainerOptions
from odin_rm.fast.tree_kernels import KERNELS
from odin_rm.model import scoring
from tests.imports import loaded_by

TRAINERS = {"reward": TrainingArguments, "sft": SFTConfig, "dpo": DPOConfig}
# Our own defaults of settings that the libraries have too; every other one that we describe has theirs.
OURS = {
    "bf16",
    "ddp_find_unused_parameters",
    "gradient_checkpointing",
    "logging_nan_inf_filter",
    "logging_steps",
    "max_length",
    "report_to",
    "save_total_limit",
}


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 0
    return capsys.readouterr().out


HELP = """
from odin_rm.cli.config import parse_config
from odin_rm.cli.main import main
try:
    main([{name!r}, "--help"])
except SystemExit as stop:
    assert stop.code == 0
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(name: str) -> None:
    assert loaded_by(HELP.format(name=name)) == set()


def test_the_check_of_imports_can_fail() -> None:
    assert loaded_by("import scipy") == {"scipy"}


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("score", set()),
        ("export", set()),
        ("judge", set()),
        ("sweep", set()),
        ("study", {"scipy"}),
        ("generate", set()),
        ("win-rate", {"scipy"}),
        ("audit", {"scipy"}),
    ],
)
def test_a_command_imports_only_what_it_uses(name: str, used: set[str]) -> None:
    """Loading a command and its config; torch comes when a model does."""
    about = COMMANDS[name]
    assert loaded_by(f"from odin_rm.cli.commands import load\nload({about.config!r})\nload({about.run!r})") <= used


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_parser_are_of_the_same_settings(name: str) -> None:
    """The light description has every field that is ours, of the same type, default and metadata as the real config."""
    about = COMMANDS[name]
    config, light = load(about.config), load(about.options)
    ours, described = own_fields(config), own_fields(light)
    assert [item.name for item in ours] == [item.name for item in described]
    hints, light_hints = typing.get_type_hints(config), typing.get_type_hints(light)
    for real, told in zip(ours, described, strict=True):
        assert hints[real.name] == light_hints[told.name]
        assert (real.default, dict(real.metadata)) == (told.default, dict(told.metadata)), real.name
    helps = [ConfigParser(cls, name, inherited=False).format_help() for cls in (config, light)]
    assert helps[0] == helps[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_of_ours_is_in_the_help_unless_it_is_refused(name: str, capsys) -> None:
    text = shown(capsys, name, "--help")
    config = load(COMMANDS[name].config)
    fields = [item for item in own_fields(config) if "instead" not in item.metadata]
    words = {f.name: flag_of(f).upper() if f.metadata.get("positional") else f"--{flag_of(f)}" for f in fields}
    missing = [item.name for item in fields if f"\n  {words[item.name]}" not in text]
    assert missing == [item.name for item in fields if item.name in getattr(config, "refused", {})]
    assert "\n  --config FILE.yaml" in text


@pytest.mark.parametrize("name", TRAINERS)
def test_help_all_adds_what_is_inherited_and_leaves_out_what_is_refused(name: str, capsys) -> None:
    short, whole = shown(capsys, name, "--help"), shown(capsys, name, "--help", "all")
    assert shown(capsys, "help", name, "all") == whole
    assert shown(capsys, "help", name) == short
    config = load(COMMANDS[name].config)
    ours = {item.name for item in own_fields(config)}
    inherited = {item.name for item in dataclasses.fields(config) if item.init} - ours
    assert {field for field in inherited if f"\n  --{field} " in whole + " "} == inherited - set(config.refused)
    assert [field for field in inherited if f"\n  --{field} " in short] == []
    assert [field for field in config.refused if f"\n  --{field} " in whole] == []
    first, *rest = whole.split(f"\noptions of {'trl' if name != 'reward' else 'transformers'}.")
    assert len(rest) == 1
    listed = [item for item in own_fields(config) if item.name not in config.refused and "instead" not in item.metadata]
    assert all(f"\n  --{flag_of(item)}" in first for item in listed)


@pytest.mark.parametrize("name", TRAINERS)
def test_settings_of_the_libraries_that_we_describe_keep_their_defaults(name: str) -> None:
    theirs = {item.name: item.default for item in dataclasses.fields(TRAINERS[name])}
    ours = {item.name: item.default for item in own_fields(load(COMMANDS[name].config)) if item.name in theirs}
    differing = {field for field, default in ours.items() if default != theirs[field]}
    own_choice = OURS | ({"learning_rate", "lr_scheduler_type", "warmup_steps"} if name == "reward" else set())
    assert differing <= own_choice
    assert {item.name for item in dataclasses.fields(TrainerOptions)} <= theirs.keys()


PRINTS_ONLY = {"doctor", "cache", "completion", "serve"}
NAMES = {
    "output_dir": "output",
    "overwrite_output_dir": "overwrite",
    "overwrite_output": "overwrite",
    "model_dtype": "dtype",
    "torch_dtype": "dtype",
    "api_key_file": "token_file",
    "gradient_checkpointing": "activation_checkpointing",
}
"""Old spellings and what every command says instead."""


@pytest.mark.parametrize("name", COMMANDS)
def test_one_thing_has_one_name_in_every_command(name: str, capsys) -> None:
    text = shown(capsys, name, "--help")
    assert [old for old in NAMES if f"\n  --{old} " in text + " "] == []
    assert ("--output" in text) == (name not in PRINTS_ONLY)
    assert "\n  --quiet " in text
    assert "\n  --verbose " in text
    for item in own_fields(load(COMMANDS[name].config)):
        assert {NAMES[old] for old in old_flags(item)} <= {flag_of(item)}
        assert item.name not in NAMES or "instead" in item.metadata or flag_of(item) == NAMES[item.name]


def test_old_spellings_work_and_the_new_one_is_named(capsys, tmp_path) -> None:
    argv = [
        "--output_dir",
        "a",
        "--model_dtype=bfloat16",
        "--overwrite-output-dir",
        "--gradient_checkpointing",
        "false",
    ]
    config = parse_config(load(COMMANDS["reward"].config), [*argv, "--use_cpu"], "reward")
    assert (config.output_dir, config.model_dtype, config.overwrite_output_dir) == ("a", "bfloat16", True)
    assert config.gradient_checkpointing is False
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "odin-rm reward: note: --model_dtype is called --dtype now",
        "odin-rm reward: note: --overwrite-output-dir is called --overwrite now",
        "odin-rm reward: note: --gradient_checkpointing is called --activation_checkpointing now",
    ]
    # transformers itself says --output_dir, and its arguments are taken by their own names.
    new = parse_config(load(COMMANDS["reward"].config), ["--output", "a", "--use_cpu", "--no_overwrite"][:3], "reward")
    assert new.output_dir == "a"
    assert capsys.readouterr().err == ""


def test_old_keys_of_a_file_work_and_are_not_mixed_with_new_ones(capsys, tmp_path) -> None:
    file = tmp_path / "audit.yaml"
    audit = load(COMMANDS["audit"].config)
    argv = ["--config", str(file), "--model", "m", "--dataset", "d"]
    file.write_text("output: o\ntorch_dtype: bfloat16\noverwrite_output_dir: true\n")
    config = parse_config(audit, argv, "audit")
    assert (config.output, config.dtype, config.overwrite_output_dir) == ("o", "bfloat16", True)
    assert capsys.readouterr().err.splitlines() == [
        "odin-rm audit: note: torch_dtype is called dtype now",
    ]
    file.write_text("output: o\ntorch_dtype: bfloat16\ndtype: float16\n")
    with pytest.raises(ConfigError, match=r"'dtype' and another name of it are both given. Give dtype alone"):
        parse_config(audit, argv, "audit")
    file.write_text("output: o\ntorch_dtyp: bfloat16\n")
    with pytest.raises(ConfigError, match=r"unknown key 'torch_dtyp'. Did you mean dtype"):
        parse_config(audit, argv, "audit")
    with pytest.raises(ConfigError, match=r"unknown flag --overwrte. Did you mean --overwrite"):
        parse_config(audit, ["--overwrte"], "audit")


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("audit", ["--model", "m", "--dataset", "d", "--output", "o", "--overwrite"]),
        ("judge", ["--candidate", "a", "--baseline", "b", "--judge", "j", "--output", "o", "--overwrite"]),
    ],
)
def test_the_settings_that_are_written_are_read_again_without_a_note(
    name: str, argv: list[str], capsys, tmp_path
) -> None:
    config = parse_config(load(COMMANDS[name].config), argv, name)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(dataclasses.asdict(config)))
    assert parse_config(load(COMMANDS[name].config), ["--config", str(file)], name) == config
    assert capsys.readouterr().err == ""


def test_choices_are_the_names_of_what_there_is() -> None:
    assert ("auto", *KERNELS) == TREE_ATTENTION
    assert tuple(scoring.DTYPES) == DTYPES
    assert LAYOUTS == ("tree", "packed", "padded", "single")
    assert CPU_PRODUCTS[0] == "auto"


@pytest.mark.parametrize("argv", [["help"], ["--help"], ["-h"]])
def test_help_alone_lists_the_commands(argv: list[str], capsys) -> None:
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []


def test_help_on_a_command_that_does_not_exist(capsys) -> None:
    assert main(["help", "rewards"]) == 2
    assert "Did you mean 'reward'?" in capsys.readouterr().err


def test_the_package_is_the_command_too() -> None:
    done = subprocess.run([sys.executable, "-m", "odin_rm", "help", "score"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: odin-rm score --model M --input F --output G [options]\n")


@pytest.mark.parametrize("name", TRAINERS)
def test_inherited_flags_are_read_as_the_libraries_parser_reads_them(name: str) -> None:
    """Ours takes over fields that the libraries have; what a flag's text becomes must not change by that."""
    from transformers import HfArgumentParser

    base: Any = stock_base(load(COMMANDS[name].config))
    theirs, ours = HfArgumentParser(base), ConfigParser(load(COMMANDS[name].config), name)
    words = {"num_train_epochs": "2", "max_steps": "7", "eval_strategy": "steps", "eval_steps": "0.5", "seed": "3"}
    words |= {"save_steps": "4", "bf16": "true", "activation_checkpointing": "yes", "resume_from_checkpoint": "true"}
    words |= {
        "optim": "sgd",
        "lr_scheduler_kwargs": '{"a": 1}',
        "fsdp": "true",
        "label_names": "x",
        "debug": "underflow_overflow",
    }
    words |= {
        "debug": "underflow_overflow",
        "use_cpu": "no",
        "max_grad_norm": "0.5",
        "load_best_model_at_end": "1",
        "hub_strategy": "end",
    }
    argv = [part for field, word in words.items() for part in (f"--{field}", word)]
    read = vars(theirs.parse_known_args(argv)[0])
    values = ours.flag_values(argv)
    assert values == {field: read[field] for field in words}
    assert ours.flag_values(["--bf16", "--no_average_tokens_across_devices"]) == {
        "bf16": True,
        "average_tokens_across_devices": False,
    }

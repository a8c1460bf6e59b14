"""Trackers are refused by name, with the package that is missing."""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from odin_rm.cli.config import parse_config
from odin_rm.core import trackers
from odin_rm.core.errors import ConfigError
from odin_rm.core.trackers import BY_ACCELERATE, BY_TRANSFORMERS, check_trackers
from odin_rm.reward.config import RewardConfig
from odin_rm.runs.run_folder import resolved_yaml


def test_the_names_are_those_of_the_libraries() -> None:
    assert set(BY_TRANSFORMERS) == set(INTEGRATION_TO_CALLBACK)
    assert set(BY_ACCELERATE) == set(LOGGER_TYPE_TO_CLASS)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def only(*modules: str) -> None:
        monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None) if name in modules else None)

    return only


def test_the_package_is_named(installed: Callable[..., None]) -> None:
    installed("wandb")
    expected = "--report_to: tensorboard needs the package 'tensorboard', which is not installed. "
    with pytest.raises(ConfigError) as raised:
        check_trackers("wandb, tensorboard", BY_TRANSFORMERS)
    assert str(raised.value) == expected + "Install it with: pip install tensorboard"
    with pytest.raises(ConfigError, match="pip install azureml-mlflow"):
        check_trackers(["azure_ml"], BY_TRANSFORMERS)


@pytest.mark.parametrize("module", ["tensorboard", "tensorboardX"])
def test_either_package_of_tensorboard_will_do(installed: Callable[..., None], module: str) -> None:
    installed(module)
    assert check_trackers("tensorboard", BY_ACCELERATE) == ["tensorboard"]


@pytest.mark.parametrize("nothing", [None, "", "none", [], ["none"]])
def test_no_tracker(nothing: str | list[str] | None) -> None:
    assert check_trackers(nothing, BY_TRANSFORMERS) == []


def test_a_tracker_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"there is no tracker 'tensorbord'. Did you mean tensorboard"):
        check_trackers("tensorbord", BY_TRANSFORMERS)
    with pytest.raises(ConfigError, match=r"there is no tracker 'zzz'. Use some of aim, clearml"):
        check_trackers("zzz", BY_ACCELERATE)


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("reward", []),
        ("sft", []),
        ("dpo", []),
        ("rl", ["--reward", "r", "--prompts", "p"]),
        ("rl", ["--reward", "r", "--prompts", "p", "--algorithm", "grpo"]),
    ],
)
def test_every_trainer_asks(installed: Callable[..., None], command: str, more: list[str]) -> None:
    from odin_rm.cli.commands import COMMANDS, load

    installed()
    argv = ["--model", "m", "--output", "o", "--use_cpu", "--report_to", "tensorboard", *more]
    argv += [] if command == "rl" else ["--dataset", "d"]
    with pytest.raises(ConfigError, match="Install it with: pip install tensorboard"):
        parse_config(load(COMMANDS[command].config), argv, command)


def test_several_trackers_are_written_as_they_are_given(installed: Callable[..., None]) -> None:
    installed("wandb", "mlflow")
    config = RewardConfig(output_dir="o", use_cpu=True, report_to="wandb,mlflow")
    assert config.report_to == ["wandb", "mlflow"]
    assert "\nreport_to: wandb,mlflow\n" in resolved_yaml(config, ())

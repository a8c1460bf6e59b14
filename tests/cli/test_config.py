"""Flags and YAML: same names, flags win, nothing unknown or mistyped passes."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml
from transformers import TrainingArguments

from odin_rm.cli.config import parse_config
from odin_rm.cli.config_file import convert
from odin_rm.core.errors import ConfigError, ModelError

made: list[object] = []


@dataclass
class Small:
    """A config of every kind of field."""

    model: str = field(default="", metadata={"help": "The model.", "required": True})
    rate: float = field(default=0.5, metadata={"help": "A share, 50 % by default."})
    count: int = field(default=3, metadata={"help": "How many."})
    loud: bool = field(default=False, metadata={"help": "Say more."})
    safe: bool = field(default=True, metadata={"help": "Take care."})
    column: int | None = field(default=None, metadata={"help": "Which column."})
    names: list[str] = field(default_factory=list, metadata={"help": "Several names."})
    policy: Literal["drop", "error"] = field(default="drop", metadata={"help": "What to do."})
    colour: str = field(default="red", metadata={"help": "Its colour.", "choices": ["red", "blue"]})

    def __post_init__(self) -> None:
        made.append(self)
        if self.count < 0:
            raise ValueError("count must not\nbe negative")
        if self.count == 99:
            raise ModelError("is broken", where="model")


@dataclass
class Training(TrainingArguments):
    """A config over TrainingArguments."""

    flavour: str = field(default="plain", metadata={"help": "The flavour."})


@pytest.fixture
def config_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


def parse(*argv: str) -> Small:
    return parse_config(Small, ["--model", "m", *argv], "score")


def message(*argv: str, config_class: type = Small) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(config_class, list(argv), "score")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_kind_of_flag():
    config = parse(
        *["--rate", "1e-5", "--count=7", "--loud", "--no_safe", "--column", "1", "--names", "a", "b"],
        *["--policy", "error", "--colour", "blue"],
    )
    assert config == Small("m", 1e-5, 7, True, False, 1, ["a", "b"], "error", "blue")


def test_defaults_are_the_classes_own():
    assert parse() == Small("m")


def test_hyphens_and_explicit_booleans():
    assert parse_config(Training, ["--output-dir", "x", "--loss-type", "y"][:2], "score").output_dir == "x"
    assert parse("--safe", "false", "--loud", "true") == Small("m", safe=False, loud=True)


def test_yaml_takes_the_same_names_and_flags_win(config_file):
    path = config_file(
        "model: m\nrate: 1e-5\ncount: 1e2\nloud: yes\nsafe: 'off'\ncolumn: null\nnames: [a, b]\npolicy: error\n"
    )
    config = parse_config(Small, ["--config", path, "--count", "5"], "score")
    assert config == Small("m", 1e-5, 5, True, False, None, ["a", "b"], "error")
    assert isinstance(config.rate, float)  # YAML reads 1e-5 as text
    assert parse_config(Small, [f"--config={path}"], "score").count == 100
    assert parse_config(Small, ["--config", path, "--safe", "--policy", "drop"], "score").safe is True


def test_an_empty_config_file_says_nothing(config_file):
    assert parse("--config", config_file("# only a comment\n")) == Small("m")


def test_the_config_is_made_exactly_once(config_file):
    made.clear()
    parse("--config", config_file("count: 4\n"), "--loud")
    assert len(made) == 1


@pytest.mark.parametrize(
    ("typed", "meant"), [("--modle", "--model"), ("--polcy=drop", "--policy"), ("--colour-", "--colour")]
)
def test_unknown_flags_suggest_the_nearest(typed, meant):
    # The required --model is missing too, but the typo is what the user needs to hear.
    assert message(typed, "x") == f"unknown flag {typed.split('=')[0]}. Did you mean {meant}?"


def test_abbreviated_flags_are_unknown():
    assert "unknown flag --cou" in message("--model", "m", "--cou", "3")


def test_unknown_keys_suggest_the_nearest(config_file):
    path = config_file("model: m\nrat: 3\n")
    assert message("--config", path) == f"{path}: unknown key 'rat'. Did you mean rate?"
    assert "--help" in message("--config", config_file("zzzzz: 3\n"))
    assert "unknown key 'config'" in message("--config", config_file("config: other.yaml\n"))


def test_missing_and_stray_values():
    assert message() == "missing --model. Give it as a flag or in --config; see odin-rm score --help."
    assert message("--model") == "--model: expected one argument. See odin-rm score --help."
    assert "unexpected value 'stray'" in message("--model", "m", "stray")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--rate", "fast"), ("--count", "1.5"), ("--loud", "maybe"), ("--policy", "x"), ("--colour", "x")],
)
def test_flags_of_the_wrong_type_are_named(flag, value):
    line = message("--model", "m", flag, value)
    assert line.startswith(f"{flag}: ")
    assert value in line or flag == "--loud"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate", "fast"),
        ("rate", "true"),
        ("rate", "[1]"),
        ("count", "1.5"),
        ("count", "null"),
        ("loud", "maybe"),
        ("loud", "3"),
        ("model", "[a]"),
        ("model", "true"),
        ("names", "[[a]]"),
        ("policy", "x"),
        ("colour", "green"),
        ("column", "two"),
    ],
)
def test_keys_of_the_wrong_type_are_named(config_file, key, value):
    path = config_file(f"{key}: {value}\n")
    assert message("--model", "m", "--config", path).startswith(f"{path}: {key}: must be ")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: b: c\n", "line 1: is not valid YAML"),
        ("count: 1\nrate: 1\ncount: 2\n", "'count' is given twice"),
        ("- a\n- b\n", "does not hold names and values"),
        ("just text", "does not hold names and values"),
        ("1: 2\n", "does not hold names and values"),
        ("model: !!python/object:os.system x\n", "not valid YAML"),
        ("\tcount: 1\n", "not valid YAML"),
    ],
)
def test_broken_config_files(config_file, text, word):
    assert word in message("--model", "m", "--config", config_file(text))


def test_missing_and_binary_config_files(tmp_path):
    assert "no such config file" in message("--config", str(tmp_path / "none.yaml"))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in message("--config", str(tmp_path / "b.yaml"))
    assert "cannot be read" in message("--config", str(tmp_path))


def test_what_the_class_refuses_is_one_line():
    assert message("--model", "m", "--count", "-1").startswith("count must not be negative")
    with pytest.raises(ModelError, match="is broken"):
        parse("--count", "99")


def test_help_lists_every_field_with_its_text_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(Small, ["--help"], "score")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for item in dataclasses.fields(Small):
        assert f"--{item.name}" in text
        assert item.metadata["help"] in text
    assert "(default: 0.5)" in text
    assert "example: odin-rm score" in text


def test_help_lists_all_training_arguments_after_our_own(capsys):
    with pytest.raises(SystemExit):
        parse_config(Training, ["--help", "all"], "reward")
    text = capsys.readouterr().out
    for item in dataclasses.fields(Training):
        assert f"\n  --{item.name}" in text, item.name
    ours, theirs = text.split("options of transformers.TrainingArguments")
    assert "--flavour" in ours
    assert "--learning_rate" in theirs


def test_training_arguments_get_exactly_what_was_given(tmp_path):
    """Reading flags must not disturb a default: the parser alone would turn some ``"no"`` into ``False``."""
    given = parse_config(Training, ["--output_dir", str(tmp_path), "--learning_rate", "2e-5"], "reward")
    direct = Training(output_dir=str(tmp_path), learning_rate=2e-5)
    differing = {
        item.name: (getattr(given, item.name), getattr(direct, item.name))
        for item in dataclasses.fields(Training)
        if repr(getattr(given, item.name)) != repr(getattr(direct, item.name))
    }
    assert differing == {}


def test_training_arguments_from_yaml(config_file, tmp_path):
    path = config_file(
        yaml.safe_dump(
            {"output_dir": str(tmp_path), "lr_scheduler_kwargs": {"num_cycles": 2}, "save_strategy": "epoch"}
        )
        + "learning_rate: 1e-5\nlr_scheduler_type: linear\nlogging_steps: 5\nreport_to: none\n"
    )
    config = parse_config(Training, ["--config", path], "reward")
    assert config.learning_rate == 1e-5
    assert config.lr_scheduler_kwargs == {"num_cycles": 2}
    assert (config.lr_scheduler_type, config.save_strategy, config.logging_steps) == ("linear", "epoch", 5)
    line = message("--config", config_file("lr_scheduler_type: liner\n"), config_class=Training)
    assert "lr_scheduler_type: must be one of linear, cosine" in line


class Kind(enum.Enum):
    ONE = "one"


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("1e-5", float, 1e-5),
        (2, float, 2.0),
        (1e3, int, 1000),
        ("7", int, 7),
        (2**60 + 1, int, 2**60 + 1),  # not by way of a float
        (7, str, "7"),
        ("one", Kind, "one"),
        ("one", Kind | str, "one"),
        ("text", str | float, "text"),
        (0.5, str | float, 0.5),
        (False, str | Literal[False] | None, False),
        (None, int | None, None),
        ("a", list[str], ["a"]),
        ({"a": 1}, dict[str, Any] | str | None, {"a": 1}),
        ("file.json", dict[str, Any] | str | None, "file.json"),
    ],
)
def test_convert_gives_the_type_asked_for(value, hint, expected):
    got = convert(value, hint)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("nan?", float),
        (True, int),
        (1.5, int),
        (float("inf"), int),
        ([], str),
        ("two", Kind),
        ("two", Kind | str),
        (1, dict),
    ],
)
def test_convert_refuses_what_cannot_be_meant(value, hint):
    with pytest.raises(ValueError, match="must be"):
        convert(value, hint)

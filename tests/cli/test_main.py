"""The front door: help, versions, unknown commands, and errors as exit codes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types

import pytest

import odin_rm
from odin_rm.cli.commands import COMMANDS, load
from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError, DataError, RunInterrupted
from tests.imports import loaded_by

SCORE = ["score", "--model", "m", "--input", "i", "--output", "o"]


@pytest.fixture
def fake_command(monkeypatch):
    """Replace ``odin-rm score`` by a function."""

    def install(run):
        monkeypatch.setitem(sys.modules, "fake", types.SimpleNamespace(run=run))
        monkeypatch.setitem(COMMANDS, "score", dataclasses.replace(COMMANDS["score"], run="fake:run"))

    return install


def test_help_lists_every_command_once(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in COMMANDS.items():
        assert [line for line in lines if line.split()[:1] == [name]] == [f"  {name:<10}  {command.summary}"]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"odin-rm {odin_rm.__version__}\n"


def test_no_command_shows_the_help_and_is_the_users_error(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"), [("rewards", "reward"), ("quick-start", "quickstart"), ("exprot", "export")]
)
def test_unknown_command_suggests_the_nearest(capsys, typed, meant):
    assert main([typed, "--help"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"odin-rm: error: unknown command '{typed}'. Did you mean '{meant}'?\n"
    assert captured.out == ""


def test_unknown_command_like_nothing_lists_all(capsys):
    assert main(["zzz"]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_are_instant(flag):
    code = f"from odin_rm.cli.main import main\nassert main([{flag!r}]) == 0"
    assert loaded_by(code, ("torch", "transformers", "datasets", "pandas", "numpy", "yaml")) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_config_and_a_function_that_takes_it(name):
    about = COMMANDS[name]
    config, run = load(about.config), load(about.run)
    assert dataclasses.is_dataclass(config)
    assert issubclass(config, load(about.options))
    assert f"``odin-rm {name}``" in config.__doc__
    assert run.__annotations__["config"] == config.__name__
    assert about.summary.endswith(".")
    assert "\n" not in about.summary


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_help_lists_every_field_of_its_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    flags = {word for word in (COMMANDS[name].usage + " " + COMMANDS[name].example).split() if word.startswith("--")}
    for flag in flags:
        assert f"\n  {flag}" in text, flag


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_refuses_an_unknown_flag_in_one_line(name, capsys):
    assert main([name, "--no_such_flag", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"odin-rm {name}: error: unknown flag --no_such_flag")
    assert error.count("\n") == 1


def test_arguments_reach_the_command_and_its_code_comes_back(fake_command):
    seen = []
    fake_command(lambda config: seen.append((config.model, config.input, config.output)))
    assert main(SCORE) == 0
    assert seen == [("m", "i", "o")]
    fake_command(lambda config: 7)
    assert main(SCORE) == 7


def raiser(error):
    def run(config):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            DataError("no such file", where="a.jsonl", fix="Check the path."),
            2,
            "error: a.jsonl: no such file. Check the",
        ),
        (ConfigError("bad\nvalue", where="--x"), 2, "error: --x: bad value"),
        (RunInterrupted("saved at step 3", where="runs/a"), 130, "interrupted: runs/a: saved at step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_the_users_errors_are_one_line_and_a_code(fake_command, capsys, error, code, line):
    fake_command(raiser(error))
    assert main(SCORE) == code
    shown = capsys.readouterr().err
    assert shown.startswith(f"odin-rm score: {line}")
    assert shown.count("\n") == 1


def test_our_own_errors_show_a_traceback_and_code_1(fake_command, capsys):
    fake_command(raiser(RuntimeError("oops")))
    assert main(SCORE) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "oops" in shown


TALKS = """
import odin_rm.cli.score
from odin_rm.cli.main import main
odin_rm.cli.score.run = lambda config: print("word")
raise SystemExit(main("score --model m --input i --output o".split()))
"""


def test_output_that_nobody_reads_is_no_bug() -> None:
    process = subprocess.Popen(
        ["bash", "-c", 'read -r; exec "$0" -c "$1"', sys.executable, TALKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdin is not None
    process.stdout.close()  # before the first word is written
    process.stdin.write("now\n")
    process.stdin.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141

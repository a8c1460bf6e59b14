"""The last line of each command: a command line that the real parser takes."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.cli.main import main
from odin_rm.cli.next_steps import AFTER
from odin_rm.cli.parser import ConfigParser, own_fields
from odin_rm.core.options import flag_of

GIVEN = {
    "quickstart": {"output": "q"},
    "reward": {"output_dir": "r", "dataset": "t.jsonl", "eval_dataset": None, "dry_run": False},
    "pairs": {"output": "p.jsonl"},
    "score": {"model": "m"},
    "audit": {"model": None, "compare": ["a", "b"], "scores": None},
    "probe": {"model": "m", "dataset": "d.jsonl"},
    "best-of-n": {"output": "b"},
    "calibrate": {"model": "m", "dataset": "d.jsonl", "scores": None, "output": None, "fold": False},
    "export": {"output": "e"},
    "sft": {"output_dir": "s", "dataset": "d.jsonl"},
    "dpo": {"output_dir": "d"},
    "rl": {"output_dir": "p", "prompts": "x.jsonl"},
    "generate": {"output": "g.json"},
    "judge": {"output": "j", "dry_run": False},
    "win-rate": {"output": "w.json"},
    "evaluate": {"output": "v"},
    "sweep": {"output": "s", "command": "rl"},
    "pareto": {"output": "f", "runs": ["v"]},
    "doctor": {"json": False},
}


def next_of(name: str, **changes: Any) -> list[str]:
    return AFTER[name](SimpleNamespace(**(GIVEN.get(name, {"output": "r"}) | changes)))


def test_every_command_has_an_entry() -> None:
    assert AFTER.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", GIVEN)
def test_the_line_is_one_that_the_parser_takes(command: str) -> None:
    program, name, *argv = next_of(command)
    assert program == "odin-rm"
    parser = ConfigParser(load(COMMANDS[name].options), name, inherited=False)
    parser.refuse_unknown_flags(argv)
    values = parser.flag_values(argv)
    assert {f"--{flag_of(item)}" for item in _required(name)} <= set(argv)
    assert len(values) == len(argv) // 2


def _required(name: str) -> list[Any]:
    fields = own_fields(load(COMMANDS[name].options))
    missing = dataclasses.MISSING
    return [f for f in fields if (f.default is missing and f.default_factory is missing) or f.metadata.get("required")]


@pytest.mark.parametrize(
    ("command", "changes", "line"),
    [
        ("reward", {}, "odin-rm audit --model r/model --dataset HELD_OUT.jsonl --output r/audit"),
        ("reward", {"eval_dataset": "v.jsonl"}, "odin-rm audit --model r/model --dataset v.jsonl --output r/audit"),
        ("reward", {"dry_run": True}, ""),
        ("rl", {}, "odin-rm generate --model p --prompts x.jsonl --output p/outputs.json"),
        ("judge", {}, "odin-rm win-rate --annotations j --output j/win_rate.json"),
        ("sweep", {}, "odin-rm evaluate --runs s --baseline BASELINE.json --judge JUDGE --output evaluation"),
        ("sweep", {"command": "reward"}, "odin-rm report --runs s --output report.html"),
        ("evaluate", {}, "odin-rm pareto --runs v --output v/fronts"),
        ("rivals", {}, "python -m webbrowser r/report.html"),
        ("audit", {"scores": "s", "output": "o"}, "python -m webbrowser o/report.html"),
        ("probe", {}, "odin-rm audit --model m --dataset d.jsonl --output audit"),
        ("best-of-n", {}, "odin-rm sft --model POLICY --dataset b/chosen.jsonl --output runs/sft"),
        ("audit", {}, "odin-rm reward --model BACKBONE --dataset TRAIN.jsonl --output runs/odin"),
    ],
)
def test_lines_have_the_paths_of_the_command(command: str, changes: dict[str, Any], line: str) -> None:
    assert shlex.join(next_of(command, **changes)) == line


def test_an_audit_of_a_model_of_ours_leads_to_its_export(shop: Path) -> None:
    words = next_of("audit", model=str(shop / "ours"), compare=["someone/theirs"])
    assert words == ["odin-rm", "export", "--model", str(shop / "ours"), "--output", "exported"]


def test_a_study_without_a_rating_has_nothing_to_rate(tmp_path: Path) -> None:
    config = SimpleNamespace(results=None, output=str(tmp_path))
    assert AFTER["study"](config) == []
    (tmp_path / "annotations.json").write_text("[]")
    assert AFTER["study"](config)[:2] == ["odin-rm", "win-rate"]


def test_the_line_is_the_last_that_a_command_says_unless_it_is_quiet(room: Path, arguments, capsys) -> None:
    assert main(arguments("score")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("next: odin-rm audit --model ")
    assert sum(line.startswith("next: ") for line in lines) == 1
    assert main([*arguments("score", output="out/again.jsonl"), "--quiet"]) == 0
    assert "next:" not in capsys.readouterr().out


def test_a_command_that_fails_says_nothing_of_the_next(room: Path, arguments, capsys) -> None:
    assert main(arguments("score", input="missing.jsonl")) == 2
    assert "next:" not in capsys.readouterr().out


def test_verbose_says_time_and_memory(room: Path, arguments, capsys) -> None:
    assert main([*arguments("score"), "--verbose"]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("odin-rm score: 0:")
    assert last.endswith(" MiB of memory")


def test_quiet_and_verbose_do_not_go_together(room: Path, arguments, capsys) -> None:
    assert main([*arguments("score"), "--quiet", "--verbose"]) == 2
    assert capsys.readouterr().err == ("odin-rm score: error: --quiet: does not go with --verbose. Give one of them.\n")

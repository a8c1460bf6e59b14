"""``odin-rm sweep`` from the command line, with a real command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from odin_rm.cli.commands import COMMANDS
from odin_rm.cli.main import main
from odin_rm.cli.sweep import known_fields
from odin_rm.workflows.sweep.run import OUTPUT
from tests.cli.conftest import lines


def test_two_models_of_which_one_is_not_there(room: Path, shop: Path, capfd) -> None:
    (room / "prompts.jsonl").write_bytes(lines([{"prompt": "Plan a trip"}]))
    base = {"prompts": "prompts.jsonl", "output": "{run}/out.json", "max_new_tokens": 4}
    sweep = {"command": "generate", "base": base, "grid": {"model": [str(shop / "base"), "./none"]}}
    (room / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    words = ["sweep", "--config", "sweep.yaml", "--output", "out", "--workers", "2"]
    assert main(words) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    said = [line for line in shown.out.splitlines() if not line.startswith("runs ")]  # how far it is, where it is slow
    assert said[0] == "2 runs of odin-rm generate: 1 done, 1 failed, 0 waiting"
    assert "model=none-" in said[1]
    assert ": odin-rm generate: error: ./none: " in said[1]
    done, failed = json.loads(Path("out/sweep.json").read_text())["runs"]
    (row,) = json.loads(Path("out", done["folder"], "out.json").read_text())
    assert row["instruction"] == "Plan a trip"
    assert not Path("out", failed["folder"]).exists()
    assert "base: 1 responses" in Path("out/state", f"{done['name']}.log").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("command: rl\ngrid: {kl_coeff: [1, 2]}\n", "odin-rm rl has no field 'kl_coeff'"),
        ("command: rll\ngrid: {kl_coef: [1, 2]}\n", "--command: is 'rll'. Use one of: "),
        ("command: rl\n", "there is nothing to vary"),
        ("grid: [1]\n", "sweep.yaml: grid: must be a mapping"),
    ],
)
def test_what_is_refused(room: Path, refuse, content: str, said: str) -> None:
    (room / "sweep.yaml").write_text(content)
    refuse(["sweep", "--config", "sweep.yaml", "--output", "out"], said)


def test_without_ray_the_extra_is_named(room: Path, refuse, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (room / "sweep.yaml").write_text("command: rl\ngrid: {kl_coef: [1, 2]}\n")
    line = ["sweep", "--config", "sweep.yaml", "--output", "out", "--engine", "ray"]
    refuse(line, "pip install '.[ray]'")


@pytest.mark.parametrize("command", [name for name, about in COMMANDS.items() if about.swept])
def test_each_command_has_the_output_field_that_the_sweep_gives_it(command: str) -> None:
    assert OUTPUT in known_fields(command)

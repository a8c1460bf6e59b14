"""Every command that README, docs and examples show is read by the parser that the command has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.cli.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STARTS = r"(?:odin-rm|python -m odin_rm|(?:accelerate|torchrun) .*-m odin_rm\.cli\.main)"
OF_OTHERS = ("ppo.yaml", "sweep.yaml")  # a config of the reader's own


def shown() -> list[tuple[str, list[str]]]:
    """``(page, arguments)`` of each line of code that begins with a command of ours."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = [
            *re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S),
            *re.findall(r"^    \S.*$", text, flags=re.M),
        ]
        for line in "\n".join(blocks).splitlines():
            if match := re.match(rf"\s*{STARTS} (.+)", line):
                words = shlex.split(match[1], comments=True)
                found.append((page.name, words[: words.index(">")] if ">" in words else words))
    return found


@pytest.mark.slow
def test_commands_of_the_pages_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for model in ("runs/vanilla/model", "M"):
        (tmp_path / model).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    read, refused = 0, []
    for page, (name, *arguments) in shown():
        assert name in COMMANDS or name in ("help", "completion"), f"{page}: odin-rm {name}"
        mine = "..." not in arguments and not set(arguments) & set(OF_OTHERS) and "--help" not in arguments
        if name in COMMANDS and mine:
            if "--bf16" in arguments:  # this machine may have no GPU
                arguments += ["--use_cpu", "true"]
            try:
                parse_config(load(COMMANDS[name].config), arguments, name)
            except Exception as error:
                refused.append(f"{page}: odin-rm {name} {shlex.join(arguments)}: {error}")
            read += 1
    assert not refused, "\n".join(refused)
    assert read > 70

"""What the README says, done: its commands in their order, its Python as it stands; the Korean page beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "README.ko.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def test_the_korean_page_has_the_same_commands() -> None:
    assert len(blocks(ENGLISH, "sh")) >= 5
    assert blocks(KOREAN, "sh") == blocks(ENGLISH, "sh")
    assert blocks(KOREAN, "")[:1] == blocks(ENGLISH, "")[:1]
    figures = re.findall(r"\d+\.\d+", ENGLISH.split("## Two commands")[0].split("## Should")[1])
    assert [figure for figure in figures if figure not in KOREAN] == []


def test_the_loss_runs_as_it_stands() -> None:
    (code,) = [block for block in blocks(ENGLISH, "python") if "disentangled_loss" in block]
    names: dict[str, object] = {}
    exec(code, names)
    assert names["quality_R"].grad.isfinite().all()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_walk_from_top_to_bottom(tmp_path: Path) -> None:
    """With the commands of this environment; ``make readme`` does it in a fresh clone and an empty one."""
    here = str(Path(sys.executable).parent)
    command = [sys.executable, str(ROOT / ".ci" / "readme.py"), "--bin", here, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" s  ") == 1 + len(blocks(ENGLISH, "sh")) - 1 + len(blocks(ENGLISH, "python"))
    assert (tmp_path / "report.html").is_file()

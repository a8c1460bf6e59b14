"""What the README says, done: its commands in their order, its Python as it stands; the Korean page beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "README.ko.md").read_text(encoding="utf-8")
NEEDS_A_NETWORK = "Qwen/"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def test_the_korean_page_has_the_same_commands() -> None:
    assert len(blocks(ENGLISH, "sh")) >= 5
    assert blocks(KOREAN, "sh") == blocks(ENGLISH, "sh")
    assert blocks(KOREAN, "")[:1] == blocks(ENGLISH, "")[:1]
    figures = re.findall(r"\d+\.\d+", ENGLISH.split("## Two commands")[0].split("## Should")[1])
    assert [figure for figure in figures if figure not in KOREAN] == []


def test_sentences_of_the_readme_are_short() -> None:
    prose = re.sub(r"^```.*?^```|^\|.*?$|^!\[.*?$", "", ENGLISH, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"\]\([^)]*\)", "]", re.sub(r"^#.*$", "", prose, flags=re.MULTILINE))
    sentences = [s.split() for part in re.split(r"\n\n|\n- ", prose) for s in re.split(r"(?<=[.:?!])\s+", part)]
    lengths = sorted(len(words) for words in sentences if len(words) > 2)
    assert lengths[len(lengths) // 2] < 18
    assert lengths[-1] <= 35
    assert [line for line in ENGLISH.splitlines() if len(line) > 120 and not line.startswith(("|", "!"))] == []


def test_the_loss_runs_as_it_stands() -> None:
    (code,) = [block for block in blocks(ENGLISH, "python") if "disentangled_loss" in block]
    names: dict[str, object] = {}
    exec(code, names)
    assert names["quality_R"].grad.isfinite().all()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_walk_from_top_to_bottom(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src")}

    def run(code: list[str]) -> None:
        done = subprocess.run(code, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{code[-1]}\n{done.stdout}\n{done.stderr}"

    run(["odin-rm", "quickstart", "--output", "quickstart", "--seed", "0"])
    for block in blocks(ENGLISH, "sh"):
        if NEEDS_A_NETWORK not in block:
            run(["bash", "-euc", block])
    (code,) = [block for block in blocks(ENGLISH, "python") if "load_scorer" in block]
    run([sys.executable, "-c", code])
    assert (tmp_path / "report.html").is_file()

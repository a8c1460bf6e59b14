"""The docs site builds without a warning, its links lead somewhere, and no page asks another machine for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from odin_rm.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed; use make test")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.strip() == ""
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    pages = {path.name for path in site.glob("*.html")} - {"404.html"}
    assert len(pages) > 25
    assert {page for page in pages if f'href="{page}"' not in start} == set()


def test_the_page_of_commands_has_every_command_and_no_flag_that_does_nothing(site: Path) -> None:
    text = (site / "settings.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f">odin-rm {name}<" not in text] == []
    assert "--batch_pairs" in text
    assert "--output_dir" not in text


def test_no_page_asks_another_machine(site: Path) -> None:
    asked = {
        (path.name, found)
        for path in site.glob("*.html")
        for found in re.findall(
            r'(?:src=|<link [^>]*rel="stylesheet"[^>]*href=)"?(https?://[^" >]+)', path.read_text(encoding="utf-8")
        )
    }
    assert asked == set()

"""The documents point at things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from odin_rm.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_pictures_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_paper_index_names_real_code_and_tests():
    text = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    for file, symbols in re.findall(r"`([a-z_]+/[a-z_]+\.py)`((?: `\w+`,?)*)", text):
        path = ROOT / "src" / "odin_rm" / file
        assert path.is_file(), file
        for symbol in re.findall(r"`(\w+)`", symbols):
            assert symbol in path.read_text(encoding="utf-8"), f"{file} has no {symbol}"
    for test in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / test).is_file(), test


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_commands_in_the_documents_exist(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE)) <= make_targets()
    assert set(re.findall(r"(?:^|`)odin-rm ([a-z-]+)(?=`| --)", text, flags=re.MULTILINE)) <= set(COMMANDS)


def test_make_targets_run_files_that_exist():
    scripts = re.findall(r"(benchmarks/\w+\.py)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_the_readme_names_only_flags_that_exist(capsys):
    from odin_rm.cli.main import main

    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    used = re.findall(r"^odin-rm (\S+) (.*)$", text, flags=re.MULTILINE)
    assert {command for command, _ in used} >= {"reward", "audit", "score", "export"}
    for command, rest in used:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = capsys.readouterr().out
        for flag in re.findall(r"--\w+", rest):
            assert f"\n  {flag}" in known, f"odin-rm {command} has no {flag}"

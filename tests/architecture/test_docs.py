"""The documents point at things that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from odin_rm.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("", "docs", "src/odin_rm")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
READ_ONCE = [page for page in PAGES if page.name != "evidence.md"]  # which is looked up


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_pictures_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def sentences(page: Path) -> list[list[str]]:
    """The words of each sentence of a page, without code, tables, headings, quotations and the targets of links."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\||!\[|#|>|    ).*$", "", text, flags=re.MULTILINE)
    parts = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", re.sub(r"\]\([^)]*\)", "]", text), flags=re.MULTILINE)
    found = [sentence.split() for part in parts for sentence in re.split(r"(?<=[.:?!])\s+", part)]
    return [words for words in found if len(words) > 2]


@pytest.mark.parametrize("page", READ_ONCE, ids=lambda page: page.name)
def test_sentences_are_read_once(page):
    assert [" ".join(words) for words in sentences(page) if len(words) > 35] == []


@pytest.mark.parametrize("pages", [[ROOT / "README.md"], READ_ONCE], ids=["README", "all"])
def test_half_of_the_sentences_have_less_than_18_words(pages):
    lengths = sorted(len(words) for page in pages for words in sentences(page))
    assert lengths[len(lengths) // 2] < 18


def test_sentences_are_counted(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# No\n\nOne two three four. [Five six](to/a b.md) seven:\n- a b c\n\n```\nno no no no\n```\n| no no no |\n"
    )
    assert sentences(page) == [["One", "two", "three", "four."], ["[Five", "six]", "seven:"], ["a", "b", "c"]]


def test_pages_are_wrapped():
    command = [sys.executable, str(ROOT / ".ci" / "wrap_docs.py"), "--check", *map(str, READ_ONCE)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "", "make format wraps these"


def test_the_paper_index_names_real_code_and_tests():
    text = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    found = re.findall(r"`([a-z_]+/[a-z_]+\.py)`((?: `\w+`,?)*)", text)
    assert len(found) > 20
    for file, symbols in found:
        path = ROOT / file if file.startswith(("benchmarks/", "tests/")) else ROOT / "src" / "odin_rm" / file
        assert path.is_file(), file
        for symbol in re.findall(r"`(\w+)`", symbols):
            assert symbol in path.read_text(encoding="utf-8"), f"{file} has no {symbol}"
    for test in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / test).is_file(), test
    for test, name in re.findall(r"`(tests/[\w/]+\.py)` `(\w+)`", text):
        assert f"def {name}(" in (ROOT / test).read_text(encoding="utf-8"), f"{test} has no {name}"
    elsewhere = re.findall(r"`([\w./]+/)`|\]\(([^):]+)\)", text)
    assert [p for p in sum(elsewhere, ()) if p and not any((ROOT / r / p).exists() for r in ROOTS)] == []


def test_the_paper_index_calls_nothing_missing_that_is_there():
    text = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    missing = [line for line in text.splitlines() if line.endswith("| not yet |")]
    assert [line for line in missing if any(re.search(rf"\b{name}\b", line) for name in COMMANDS)] == []


def test_the_layout_names_every_room_with_its_arrows():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "src" / "odin_rm").glob("*/__init__.py")}
    layout, arrows = re.findall(r"^```\n(src/odin_rm/.*?|cli > .*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^  (\w+)/ ", layout, flags=re.MULTILINE)) == rooms
    assert set(re.findall(r"\w+", arrows)) == rooms


def test_every_row_of_the_paper_index_that_names_code_names_a_check():
    text = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and ".py`" in line]
    assert len(rows) > 12
    assert [row for row in rows if not re.search(r"`tests/|`make ", row.rsplit("|", 2)[1])] == []


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_commands_in_the_documents_exist(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE)) <= make_targets()
    assert set(re.findall(r"(?:^|`)odin-rm ([a-z-]+)(?=`| --)", text, flags=re.MULTILINE)) <= set(COMMANDS)


def test_every_benchmark_has_a_make_target_and_every_target_a_benchmark():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    run = re.findall(r"benchmarks[/.](\w+)(?:\.py)? \$\(ARGS\)", text)
    scripts = [path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__"]
    packages = [path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py")]
    assert sorted(run) == sorted([*scripts, *packages])
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"^  make bench-", shown, flags=re.MULTILINE)) == len(scripts)


def test_the_readme_names_only_flags_that_exist(capsys):
    from odin_rm.cli.main import main

    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    used = re.findall(r"^odin-rm (\S+) (--.*)$", text, flags=re.MULTILINE)
    assert {command for command, _ in used} >= {"reward", "audit", "score", "export"}
    for command, rest in used:
        with pytest.raises(SystemExit):
            main([command, "--help", "all"])
        known = capsys.readouterr().out
        for flag in re.findall(r"--\w+", rest):
            assert f"\n  {flag}" in known, f"odin-rm {command} has no {flag}"


def test_the_guide_to_training_names_only_flags_that_exist_and_all_of_our_own(capsys):
    from odin_rm.cli.main import main
    from odin_rm.core.options import flag_of
    from odin_rm.core.shared_options import TrainerOptions
    from odin_rm.reward.options import RewardOptions

    with pytest.raises(SystemExit):
        main(["reward", "--help", "all"])
    known = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, flags=re.MULTILINE))
    text = (ROOT / "docs" / "reward_training.md").read_text(encoding="utf-8")
    used = set(re.findall(r"--(\w+)", text)) - {"nproc_per_node", "num_processes", "help"}
    assert used <= known
    own = {flag_of(item) for item in fields(RewardOptions)} - {flag_of(item) for item in fields(TrainerOptions)}
    assert own - set(re.findall(r"\w+", text)) == set()

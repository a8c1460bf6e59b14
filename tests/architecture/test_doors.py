"""What may be done in one place only: asking servers, writing to a terminal, opening and parsing files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import odin_rm

SOURCE = Path(odin_rm.__file__).parent


@pytest.mark.parametrize(
    ("pattern", "doors"),
    [
        (r"^\s*(?:import|from) (?:urllib\.request|http\.client|requests|httpx2?|aiohttp)\b", {"core/http.py"}),
        (r"(?<![\w.])print\(|\bprint_exc\(|sys\.std(?:out|err)\.write", {"core/console.py"}),
        (r"^\s*from rich\.console import", {"cli/console.py"}),
    ],
    ids=["network", "terminal", "tables"],
)
def test_each_door_is_the_only_one(pattern, doors):
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found == doors


# ---- files, JSON and YAML: no other module may call what opens or parses them ----------------------------------------

FILE_DOORS = {
    "core/atomic.py": "writes",
    "core/reading.py": "reads whole files",
    "core/rows.py": "reads rows",
    "core/lock.py": "holds locks",
}
ALLOWED = {
    "core/untrusted.py": "JSON from the network, with limits of its own",
    "data/collect.py": "text that this process has packed itself, once for each row",
    "evaluation/judge_template.py": "a file of the package, which may lie in an archive",
    "serve/reward/app.py": "JSON from the network, of bounded size, that refuses NaN",
    "serve/reward/page.py": "files of the package, which may lie in an archive",
    "serve/study/app.py": "files of the package, which may lie in an archive",
}
METHODS = {"read_text", "write_text", "read_bytes", "write_bytes"}
PARSERS = {("json", "loads"), ("json", "load"), ("yaml", "safe_load"), ("yaml", "load"), ("gzip", "open")}


def bare_calls(tree: ast.Module) -> list[tuple[int, str]]:
    """Line and name of each call that belongs behind a door."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id == "open":
            found.append((node.lineno, "open"))
        if isinstance(called, ast.Attribute):
            owner = called.value.id if isinstance(called.value, ast.Name) else ""
            opens = called.attr == "open" and owner not in ("os", "webbrowser")
            if (owner, called.attr) in PARSERS or called.attr in METHODS or opens:
                found.append((node.lineno, f"{owner}.{called.attr}"))
    return found


def test_files_are_opened_behind_one_door():
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        calls = bare_calls(ast.parse(path.read_text(encoding="utf-8")))
        if name not in FILE_DOORS and name not in ALLOWED:
            wrong += [f"{name}:{line} calls {called}" for line, called in calls]
    assert not wrong, f"use odin_rm.core.reading and odin_rm.core.files instead: {wrong}"


def test_the_list_of_exceptions_holds_no_module_without_need():
    for name in ALLOWED:
        path = SOURCE / name
        assert not path.exists() or bare_calls(ast.parse(path.read_text(encoding="utf-8"))), name


def test_bare_calls_are_seen():
    text = "import json\nopen('a')\njson.loads('1')\np.read_text()\np.open('rb')\nread_json(p)\n"
    assert [name for _, name in bare_calls(ast.parse(text))] == ["open", "json.loads", "p.read_text", "p.open"]

"""The shape of the code: import arrows, sizes, names, docstrings."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MOST_LINES_OF_A_FILE = 600
MOST_LINES_OF_A_FUNCTION = 90
AMBIGUOUS = {"reward", "rewards", "logprob", "logprobs"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parsed() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]


def test_the_sources_are_found():
    assert len(SOURCES) > 10


def test_imports_run_one_way_only():
    program = Path(sys.executable).parent / "lint-imports"
    if not program.exists():
        pytest.skip(f"import-linter is not installed beside {Path(sys.executable).name}; use make test")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(tree: ast.Module):
    """The modules of ours that a module imports, wherever in it."""
    modules = {module_name(str(path.relative_to(ROOT))) for path in SOURCES}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("odin_rm"):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def module_name(file: str) -> str:
    return file.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_the_room_of_what_is_fast_has_one_door():
    inside = "odin_rm.fast."
    through_the_wall = [
        (file, name)
        for file, tree in parsed()
        if not module_name(file).startswith("odin_rm.fast")
        for name in imported(tree)
        if name.startswith(inside)
    ]
    assert through_the_wall == []


def test_no_circle_inside_a_room():
    """Imports inside functions count: a circle that is hidden there is two halves of one file."""
    doors = {"odin_rm", "odin_rm.fast"}
    modules = {module_name(file): {*imported(tree)} for file, tree in parsed()}
    graph = {name: (names & modules.keys()) - {name} - doors for name, names in modules.items() if name not in doors}
    assert tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_files_stay_small():
    long = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES_OF_A_FILE} == {}


def test_functions_stay_small():
    long = {
        f"{name}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for name, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, Function) and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    }
    assert long == {}


def public_definitions(body: list[ast.stmt], inside: str = ""):
    for node in body:
        if isinstance(node, (ast.ClassDef, *Function.__args__)) and not node.name.startswith("_"):
            yield f"{inside}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{node.name}.")


def overrides(tree: ast.Module, name: str) -> bool:
    """Whether ``Class.method`` belongs to a class with bases: what it overrides is documented there."""
    if "." not in name:
        return False
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return bool(classes[name.split(".")[0]].bases)


def test_everything_public_says_what_it_is():
    silent = [
        f"{file}:{node.lineno} {name}"
        for file, tree in parsed()
        for name, node in public_definitions(tree.body)
        if ast.get_docstring(node) is None and not overrides(tree, name)
    ]
    assert silent == []


def test_every_module_says_what_it_is():
    silent = [file for file, tree in parsed() if tree.body and ast.get_docstring(tree) is None]
    assert silent == []


def bound_names(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def test_no_reward_without_saying_whose():
    """``quality_``, ``length_``, ``total_``; ``policy_``, ``old_``, ``reference_``: a bare ``reward`` hides a bug."""
    bare = [(str(file), name, line) for file, tree in parsed() for name, line in bound_names(tree) if name in AMBIGUOUS]
    # The flag --reward names a source of rewards, not a number.
    assert [item for item in bare if item[:2] != ("src/odin_rm/rl/config.py", "reward")] == []


def test_the_name_check_can_fail():
    tree = ast.parse("def f(logprobs):\n    reward = 1\n    for rewards in []: pass")
    assert {name for name, _ in bound_names(tree) if name in AMBIGUOUS} == {"logprobs", "reward", "rewards"}

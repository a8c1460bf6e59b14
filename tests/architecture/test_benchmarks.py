"""Benchmarks and examples are not run by the suite, so what they import of the package is looked up without running."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path for top in ("benchmarks", "examples") for path in (ROOT / top).rglob("*.py") if ".venv" not in path.parts
)


def file_of(module: str) -> Path | None:
    """The file of a module of this project; ``None`` for anybody else's."""
    top = ROOT / "src" if module.split(".")[0] == "odin_rm" else ROOT
    path = top.joinpath(*module.split("."))
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """What a module defines or imports at its top, also inside ``if`` and ``try``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # names of a lazy __getattr__
            found.add(node.value)
    return frozenset(found)


def missing(text: str) -> list[str]:
    """Imports from this project that name nothing."""
    absent = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom) or node.level or node.module is None:
            continue
        if node.module.split(".")[0] not in ("odin_rm", "benchmarks"):
            continue
        path = file_of(node.module)
        for alias in node.names:
            inside = path is not None and alias.name in names_in(path)
            if not inside and file_of(f"{node.module}.{alias.name}") is None:
                absent.append(f"{node.module}.{alias.name}")
    return absent


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    assert missing(path.read_text(encoding="utf-8")) == []


def test_the_look_up_can_fail() -> None:
    text = "from odin_rm.reports.blocks import Text, png_bytes\nfrom odin_rm.nowhere import x\nimport numpy"
    assert missing(text) == ["odin_rm.reports.blocks.png_bytes", "odin_rm.nowhere.x"]

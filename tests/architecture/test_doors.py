"""What may be done in one place only: asking servers, writing to a terminal."""

from __future__ import annotations

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

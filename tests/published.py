"""Where the published data files are: a folder beside the checkout, not part of the project."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "public"


def published_path(name: str) -> Path:
    """The file of that name; the test that asks is skipped where it is not there."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"the published file {name} is not beside the checkout (../shared/data/public)")
    return path


def published(name: str) -> list[dict[str, Any]]:
    """The rows of a published file."""
    with gzip.open(published_path(name), "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]

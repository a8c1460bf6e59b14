"""The public cases, copied, with their tiny models built beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path("../shared/cases")


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """A copy of ``../shared/cases`` with ``_models``."""
    if not CASES.is_dir():
        pytest.skip("../shared/cases is not there")
    folder = tmp_path_factory.mktemp("public") / "cases"
    shutil.copytree(CASES, folder)
    if not (folder / "_models").is_dir():
        made = subprocess.run([sys.executable, "_lib/make_models.py"], cwd=folder, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr[-2000:]
    return folder

"""Outputs of two models, and an environment with the fake server's key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from odin_rm.judging import pacing
from odin_rm.workflows.judge.config import JudgeConfig
from tests.judging.clock import ManualClock
from tests.judging.server import KEY


def write_outputs(path: Path, worths: list[int], generator: str) -> Path:
    """A file of answers that state their worth, which the fake judge reads."""
    rows = [
        {"instruction": f"question {k}", "output": f"answer of {generator}, worth {worth}", "generator": generator}
        for k, worth in enumerate(worths)
    ]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a comparison is made: the key is set and pauses are short."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(pacing, "FIRST_PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The time of every judge that is made from here on: it stands still."""
    made = ManualClock()
    monkeypatch.setattr(pacing, "CLOCK", made)
    return made


@pytest.fixture
def make_config(room: Path) -> Callable[..., JudgeConfig]:
    """A comparison of five prompts: the candidate is better on 0 and 1, worse on 2, equal on 3, much better on 4."""
    write_outputs(room / "candidate.json", [8, 6, 3, 5, 9], "new")
    write_outputs(room / "baseline.json", [5, 5, 7, 5, 2], "old")

    def make(**changes: Any) -> JudgeConfig:
        settings: dict[str, Any] = {"judge": "openai:judge-1", "candidate": "candidate.json", "output": "out"}
        return JudgeConfig(**(settings | {"baseline": "baseline.json"} | changes))

    return make


def annotations(folder: str | Path = "out") -> list[dict[str, Any]]:
    return json.loads(Path(folder, "annotations.json").read_text())

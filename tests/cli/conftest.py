"""Small good input for every command, a way to spoil it, and a way to run a command that must refuse it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from odin_rm.cli.main import main
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_tokenizer
from odin_rm.testbed.annotator import Annotator, make_preferences
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World, WorldSettings

Refuse = Callable[..., str]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


PAIRS = [{"prompt": f"question {k}", "chosen": f"good words {k}", "rejected": f"bad {k}"} for k in range(5)]
ANSWERS = [{"prompt": row["prompt"], "response": row["chosen"]} for row in PAIRS]


def with_bad_row(rows: list[dict[str, Any]], **fields: Any) -> bytes:
    """Row 4 with some fields changed; ``None`` takes a field away."""
    bad = {name: value for name, value in (rows[3] | fields).items() if value is not None}
    return lines([*rows[:3], bad, *rows[4:]])


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, a reward model of ours and good data, made once and never written to."""
    folder = tmp_path_factory.mktemp("shop")
    save_tiny_model(folder / "base", 0, hidden=16, layers=1, heads=2)
    torch.manual_seed(0)
    model = RewardModel.from_backbone(folder / "base")
    tokenizer = load_tokenizer(folder / "base")
    model.save_pretrained(folder / "ours", tokenizer=tokenizer)
    world = World(WorldSettings())
    pairs = make_preferences(world, Annotator(world), 24, 0)
    (folder / "pairs.jsonl").write_bytes(lines(pairs))
    (folder / "answers.jsonl").write_bytes(lines(ANSWERS))
    return folder


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a command works; everything in it is compared before and after."""
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def arguments(shop: Path) -> Callable[..., list[str]]:
    """A command line that would work, with parts of it replaced."""

    def make(command: str, **changes: Any) -> list[str]:
        model, pairs = str(shop / "ours"), str(shop / "pairs.jsonl")
        flags: dict[str, dict[str, Any]] = {
            "reward": {"model": str(shop / "base"), "dataset": pairs, "output": "out", "use_cpu": True}
            | {"max_steps": 2, "batch_pairs": 8, "save_strategy": "no"},
            "score": {"model": model, "input": str(shop / "answers.jsonl"), "output": "out/scored.jsonl"},
            "audit": {"model": model, "dataset": pairs, "output": "out", "bootstrap_samples": 10},
            "export": {"model": model, "output": "out"},
            "quickstart": {"output": "out", "pairs": 16, "held_out_pairs": 10},
            "rl": {"model": str(shop / "base"), "reward": model, "prompts": pairs, "output": "out", "use_cpu": True}
            | {"max_steps": 4, "minibatch_size": 4, "max_new_tokens": 4, "learning_rate": 1e-3, "watch_steps": 0},
        }
        given = flags[command] | changes
        return [command] + [word for name, value in given.items() for word in (f"--{name}", str(value))]

    return make


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


@pytest.fixture
def refuse(room: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command that must be refused; the line it said."""

    def run(argv: list[str], *said: str) -> str:
        before = contents(room)
        capfd.readouterr()
        code = main(argv)
        shown = capfd.readouterr()
        assert code == 2, shown.err
        assert shown.err.startswith(f"odin-rm {argv[0]}: error: ")
        assert shown.err.count("\n") == 1
        for part in said:
            assert part in shown.err
        assert contents(room) == before
        return shown.err

    return run

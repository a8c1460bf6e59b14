"""A tiny model and preference files of the testbed, and a way to run the reward workflow on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from odin_rm.reward.config import RewardConfig
from odin_rm.testbed.annotator import Annotator, make_preferences
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World, WorldSettings
from odin_rm.workflows.reward.run import train_reward_model


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    transformers.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("bed")
    world = World(WorldSettings())
    annotator = Annotator(world)
    return {
        "model": save_tiny_model(folder / "model", 0, hidden=32, layers=1, heads=2),
        "train": write_rows(folder / "train.jsonl", make_preferences(world, annotator, 96, 0)),
        "eval": write_rows(folder / "eval.jsonl", make_preferences(world, annotator, 40, 1, split="test")),
    }


@pytest.fixture
def configure(bed: dict[str, Path], tmp_path: Path) -> Callable[..., RewardConfig]:
    def make(name: str = "run", **options: Any) -> RewardConfig:
        settings: dict[str, Any] = {
            "model": str(bed["model"]),
            "dataset": str(bed["train"]),
            "batch_pairs": 16,
            "learning_rate": 1e-3,
            "num_train_epochs": 2,
            "cache_dir": str(tmp_path / "cache"),
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            **options,
        }
        return RewardConfig(output_dir=str(tmp_path / name), **settings)

    return make


@pytest.fixture
def train(configure: Callable[..., RewardConfig]) -> Callable[..., Path]:
    def run(name: str = "run", **options: Any) -> Path:
        return train_reward_model(configure(name, **options))

    return run


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

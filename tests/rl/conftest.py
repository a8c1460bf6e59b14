"""A tiny world to train policies in: prompts, a policy, reward models, and a config that takes seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_tokenizer
from odin_rm.rl.config import RLConfig
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World

MakeConfig = Callable[..., RLConfig]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``policy``, ``odin`` (two heads, with a mean and deviation) and ``prompts.jsonl``; never written to."""
    folder = tmp_path_factory.mktemp("bench")
    save_tiny_model(folder / "policy", 0, hidden=16, layers=1, heads=2)
    torch.manual_seed(1)
    model = RewardModel.from_backbone(folder / "policy")
    model.info = model.info.with_(reward_mean=0.1, reward_std=0.5)
    model.save_pretrained(folder / "odin", tokenizer=load_tokenizer(folder / "policy"))
    rows = [{"prompt": prompt} for prompt in World().prompts()[:24]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def make_config(bench: Path, tmp_path: Path) -> MakeConfig:
    """A config of a few small steps; keyword arguments change fields, ``name`` the run folder."""

    def make(name: str = "run", **changes: Any) -> RLConfig:
        values: dict[str, Any] = {
            "algorithm": "ppo",
            "model": str(bench / "policy"),
            "reward": str(bench / "odin"),
            "prompts": str(bench / "prompts.jsonl"),
            "output_dir": str(tmp_path / name),
            "max_steps": 4,
            "minibatch_size": 4,
            "max_new_tokens": 8,
            "learning_rate": 1e-3,
            "watch_steps": 0,
            "sample_steps": 2,
            "save_steps": 0,
            "use_cpu": True,
        }
        return RLConfig(**(values | changes))

    return make


def check_looks(run: Path) -> None:
    """``watch.jsonl`` has each look once, whatever trained the run, and ``metrics.jsonl`` the same figures."""
    looks = [json.loads(line) for line in (run / "watch.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [look["step"] for look in looks] == [0, 2, 4]
    assert all(math.isfinite(look["kl"]) and isinstance(look["alarms"], list) for look in looks)
    expected = [{"step": look["step"]} | {f"watch_{n}": v for n, v in look.items() if n != "step"} for look in looks]
    for look in expected:
        kinds = [alarm["kind"] for alarm in look.pop("watch_alarms")]
        look |= {"alarms": kinds} if kinds else {}
    assert [row for row in rows if "watch_kl" in row] == expected

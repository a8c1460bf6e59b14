"""What the tests of the policy stages share: tiny runs, their weights, signals in the middle of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from odin_rm.runs import callbacks

SMALL: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-3,
    "max_steps": 6,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
}


def assert_equal_policies(one: Path, other: Path) -> None:
    first, second = (load_file(run / "policy" / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class SignalAt(TrainerCallback):
    """Sends this process a signal when a step begins."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def send_signal_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(callbacks.MetricsFile, "on_step_begin", SignalAt(step).on_step_begin)

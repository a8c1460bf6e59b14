"""What the tests of several processes run in each of them: gradients of fixed experiences, and whole runs.

accelerate refuses FSDP on CPUs, so :func:`fully_sharded` hands it the state that it would make for GPUs; what then runs
is torch's own FSDP2 with accelerate's wrapping, checkpoints and state dicts, over gloo.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from odin_rm.rl.config import RLConfig
from odin_rm.rl.experience import Experience
from odin_rm.rl.records import Rollout
from odin_rm.workflows.rl import own as rl
from odin_rm.workflows.rl.parts import load_parts
from odin_rm.workflows.rl.run import train_policy

ROWS = 8


def fixed_experiences() -> list[Experience]:
    """Rows of uneven lengths; two of them cannot be learnt from, one of which is the longest."""
    rng = np.random.default_rng(0)
    experiences = []
    for row, (prompt, tokens) in enumerate(zip((5, 30, 8, 3, 12, 21, 4, 9), (3, 1, 14, 2, 40, 9, 5, 7), strict=True)):
        ids = rng.integers(4, 200, prompt + tokens).tolist()
        table = {
            name: rng.normal(size=tokens).astype(np.float32)
            for name in ("reference_log_probs", "old_values", "advantages", "returns")
        }
        rollout = Rollout(ids[:prompt], ids[prompt:], True, "")
        old = (-5.5 + 0.3 * rng.normal(size=tokens)).astype(np.float32)
        usable = row not in (4, 6)
        experiences.append(Experience(row, rollout, 1.0, 0.0, 1.0, usable, old_log_probs=old, **table))
    return experiences


def gradient(config: RLConfig) -> dict[str, torch.Tensor]:
    """The gradient that one minibatch of the fixed experiences leaves, each rank having its share, by name."""
    accelerator = rl._accelerator(config)
    trainer = rl.build_trainer(config, load_parts(config, accelerator.device), accelerator, Path("unused"))
    trainer.learner.backward(trainer.ranks.share(fixed_experiences()), 0.1)
    gradients = {}
    for name, parameter in trainer.learner.plain_model.named_parameters():
        if parameter.grad is not None:
            whole: Any = parameter.grad
            gradients[name] = (whole.full_tensor() if hasattr(whole, "full_tensor") else whole).clone().contiguous()
    return gradients


def fully_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workflow's accelerator shard by FSDP2, on CPUs."""

    def sharding(config: RLConfig) -> Accelerator:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            state_dict_type="SHARDED_STATE_DICT",
            cpu_ram_efficient_loading=False,
        )
        accelerator = Accelerator(cpu=True)
        accelerator.state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
        return accelerator

    monkeypatch.setattr(rl, "_accelerator", sharding)


def main(engine: str, work: str) -> None:
    """Do ``work``: a list of ``["gradient" | "train", settings, file]``."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(PartialState, "destroy_process_group", lambda *_: None)  # the end of a run is not ours
    if engine == "fsdp2":
        fully_sharded(monkeypatch)
    for kind, settings, file in json.loads(work):
        config = RLConfig(**settings)
        if kind == "train":
            train_policy(config)
        else:
            whole = gradient(config)
            if torch.distributed.get_rank() == 0:
                save_file(whole, file)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Train a reward model that does not pay for length."""

from __future__ import annotations

from collections.abc import Sequence

from odin_rm.cli.config import parse_config, quiet_transformers
from odin_rm.core.ranks import end_processes, is_main_process


def run(argv: Sequence[str]) -> int:
    """Parse, train, say where the model is."""
    quiet_transformers()
    from odin_rm.reward.config import RewardConfig
    from odin_rm.workflows.train import train_reward_model

    folder = train_reward_model(parse_config(RewardConfig, list(argv), "reward"))
    if is_main_process():
        print(f"Reward model written to {folder / 'model'}")
    end_processes()
    return 0

"""Train a policy on the quality reward by PPO, ReMax, RLOO or GRPO, watched for reward hacking."""

from __future__ import annotations

from collections.abc import Sequence

from odin_rm.cli.config import parse_config, quiet_transformers
from odin_rm.cli.log_lines import shown_log
from odin_rm.core.ranks import end_processes, is_main_process


def run(argv: Sequence[str]) -> int:
    """Parse, train, say where the policy is."""
    quiet_transformers()
    from odin_rm.rl.config import RLConfig
    from odin_rm.workflows.rl import train_policy

    config = parse_config(RLConfig, list(argv), "rl")
    with shown_log():
        folder = train_policy(config)
    if is_main_process():
        print(f"Policy written to {folder / 'policy'}")
    end_processes()
    return 0

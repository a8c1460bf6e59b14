"""Train a policy on preferences without a reward model (direct preference optimisation)."""

from __future__ import annotations

from collections.abc import Sequence

from odin_rm.cli.config import parse_config, quiet_transformers
from odin_rm.cli.log_lines import shown_log
from odin_rm.core.ranks import end_processes, is_main_process


def run(argv: Sequence[str]) -> int:
    """Parse, train, say where the policy is."""
    quiet_transformers()
    from odin_rm.workflows.dpo import DPORunConfig, train_dpo

    config = parse_config(DPORunConfig, list(argv), "dpo")
    with shown_log():
        folder = train_dpo(config)
    if is_main_process():
        print(f"Policy written to {folder / 'policy'}")
    end_processes()
    return 0

"""Fine-tune a policy on demonstrations: prompts and the responses it should give."""

from __future__ import annotations

from collections.abc import Sequence

from odin_rm.cli.config import parse_config, quiet_transformers
from odin_rm.cli.log_lines import shown_log
from odin_rm.core.ranks import end_processes, is_main_process


def run(argv: Sequence[str]) -> int:
    """Parse, train, say where the policy is."""
    quiet_transformers()
    from odin_rm.workflows.sft import SFTRunConfig, train_sft

    config = parse_config(SFTRunConfig, list(argv), "sft")
    with shown_log():
        folder = train_sft(config)
    if is_main_process():
        print(f"Policy written to {folder / 'policy'}")
    end_processes()
    return 0

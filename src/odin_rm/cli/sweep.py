"""Run a command over a grid or random draws of its settings; resumable, failed runs isolated."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

from odin_rm.cli.config import parse_config
from odin_rm.core.errors import ConfigError

CONFIGS = {
    "quickstart": "odin_rm.testbed.experiment:QuickstartConfig",
    "reward": "odin_rm.reward.config:RewardConfig",
    "score": "odin_rm.workflows.score:ScoreConfig",
    "audit": "odin_rm.workflows.audit:AuditConfig",
    "export": "odin_rm.workflows.export:ExportConfig",
    "sft": "odin_rm.workflows.sft:SFTRunConfig",
    "dpo": "odin_rm.workflows.dpo:DPORunConfig",
    "rl": "odin_rm.rl.config:RLConfig",
    "generate": "odin_rm.workflows.generate:GenerateConfig",
    "judge": "odin_rm.workflows.judge:JudgeConfig",
    "win-rate": "odin_rm.workflows.win_rate:WinRateConfig",
    "retention": "odin_rm.workflows.retention:RetentionConfig",
}


def run(argv: Sequence[str]) -> int:
    """Parse, run all, list what failed."""
    from odin_rm.workflows.sweep import SweepConfig, run_sweep

    config = parse_config(SweepConfig, list(argv), "sweep")
    table = run_sweep(config, known_fields(config.command))
    print_table(table)
    print(f"Written to {config.output}")
    return 0


def known_fields(command: str) -> set[str]:
    """The settings that a command takes.

    Raises:
        ConfigError: there is no such command, or none that can be swept.
    """
    if command not in CONFIGS:
        raise ConfigError(f"is '{command}'", where="--command", fix=f"Use one of: {', '.join(CONFIGS)}.")
    module, name = CONFIGS[command].split(":")
    config_class = getattr(importlib.import_module(module), name)
    return {field.name for field in dataclasses.fields(config_class) if field.init}


def print_table(table: dict[str, Any]) -> None:
    """Counts, and each failed run with the line by which it ended."""
    counts = ", ".join(f"{table[status]:,} {status}" for status in ("done", "failed", "waiting"))
    print(f"{len(table['runs']):,} runs of odin-rm {table['command']}: {counts}")
    for row in table["runs"]:
        if row["status"] == "failed":
            print(f"  {row['name']}: {row['error']}")

"""Run a command over a grid or random draws of its settings; resumable, failed runs isolated."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.core.console import say
from odin_rm.core.errors import ConfigError
from odin_rm.core.options import flag_of, old_flags

if TYPE_CHECKING:
    from odin_rm.workflows.sweep.config import SweepConfig


def run(config: SweepConfig) -> None:
    """Run all, list what failed."""
    from odin_rm.workflows.sweep.run import run_sweep

    table = run_sweep(config, known_fields(config.command))
    print_table(table)
    say(f"Written to {config.output}")


def known_fields(command: str) -> set[str]:
    """The settings that a command takes.

    Raises:
        ConfigError: there is no such command, or none that can be swept.
    """
    swept = {name: about for name, about in COMMANDS.items() if about.swept}
    if command not in swept:
        raise ConfigError(f"is '{command}'", where="--command", fix=f"Use one of: {', '.join(swept)}.")
    config_class = load(swept[command].config)
    settings = [item for item in dataclasses.fields(config_class) if item.init]
    return {name for item in settings for name in (flag_of(item), *old_flags(item))}


def print_table(table: dict[str, Any]) -> None:
    """Counts, and each failed run with the line by which it ended."""
    counts = ", ".join(f"{table[status]:,} {status}" for status in ("done", "failed", "waiting"))
    say(f"{len(table['runs']):,} runs of odin-rm {table['command']}: {counts}")
    for row in table["runs"]:
        if row["status"] == "failed":
            say(f"  {row['name']}: {row['error']}")

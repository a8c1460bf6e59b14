"""What training has cost: MMLU, BBH, DROP, TruthfulQA or other benchmarks before and after, paired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odin_rm.core.console import remark, say
from odin_rm.core.hub import quiet_transformers

if TYPE_CHECKING:
    from odin_rm.workflows.retention.config import RetentionConfig


def run(config: RetentionConfig) -> None:
    """Measure, print the table."""
    quiet_transformers()
    from odin_rm.workflows.retention.run import run_retention

    print_table(run_retention(config, remark))
    say(f"Written to {config.output}")


def print_table(content: dict[str, Any]) -> None:
    """Tasks and groups, not the single tasks of groups."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole
    from odin_rm.reports.retention_table import retention_table

    table = retention_table(content)
    shown = Table(caption=table.caption, caption_justify="left")
    for column in table.columns:
        shown.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for row in table.rows:
        cells = [table.cell(value, k)["main"] for k, value in enumerate(row)]
        shown.add_row(*cells[:3], *(cell.replace(" (", "\n(", 1) for cell in cells[3:]))
    PlainConsole().print(shown)

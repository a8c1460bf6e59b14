"""Objectives beside each other on the same frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from odin_rm.core.console import say

if TYPE_CHECKING:
    from odin_rm.workflows.rivals.config import RivalsConfig


def run(config: RivalsConfig) -> None:
    """Train, measure, print the main table of each data set."""
    from odin_rm.cli.pareto import print_table
    from odin_rm.reports.rivals_page import tables_of
    from odin_rm.workflows.rivals.run import run_rivals

    content = run_rivals(config, say)
    for name in content["datasets"]:
        print_table(tables_of(content, name)[0])
    say(f"The report: {config.output}/report.html")

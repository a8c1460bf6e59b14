"""Audit reward models for length bias: figures with intervals, plots, one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odin_rm.evaluation.audit import AuditResult
    from odin_rm.workflows.audit.config import AuditConfig


def run(config: AuditConfig) -> None:
    """Audit, print the table."""
    from odin_rm.workflows.audit.run import run_audit

    results = run_audit(config)
    print_table(results, Path(config.output))


def print_table(results: Sequence[AuditResult], folder: Path) -> None:
    """Every figure with its interval, models side by side; then the finding, the rows behind it, where the page is."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole
    from odin_rm.reports.audit_report import audit_headline, figures_table
    from odin_rm.reports.audit_rows import row_lines

    content = figures_table(results)
    table = Table(title=f"Audit on {results[0].dataset} (95 % intervals)", title_justify="left")
    for column in content.columns:
        table.add_column(column, justify="left" if column == content.columns[0] else "right")
    for row in content.rows:
        cells = [content.cell(value, k) for k, value in enumerate(row)]
        table.add_row(*(c["main"] + (f" ({c['interval']})" if c["interval"] else "") for c in cells))
    console = PlainConsole()
    console.print(table)
    console.print(audit_headline(results), markup=False, highlight=False)
    for line in ["", *row_lines(results)]:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(f"\nThe report: {folder / 'report.html'}", soft_wrap=True, markup=False)

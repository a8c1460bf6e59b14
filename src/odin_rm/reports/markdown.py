"""A table of the page as Markdown."""

from __future__ import annotations

from odin_rm.core.untrusted import markdown_text
from odin_rm.reports.blocks import Table


def markdown_table(table: Table) -> str:
    """The caption, the table with intervals in brackets, and its note."""
    head = [_cell(column) for column in table.columns]
    lines = [markdown_text(table.caption), "", _row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for row in table.rows:
        lines.append(_row([_cell(cell_text(table, value, k)) for k, value in enumerate(row)]))
    return "\n".join([*lines, *(["", markdown_text(table.note)] if table.note else [])]) + "\n"


def cell_text(table: Table, value: object, column: int) -> str:
    """A cell on one line: the value and its interval in brackets."""
    cell = table.cell(value, column)
    return f"{cell['main']} ({cell['interval']})" if cell["interval"] else cell["main"]


def _cell(text: str) -> str:
    return markdown_text(text)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"

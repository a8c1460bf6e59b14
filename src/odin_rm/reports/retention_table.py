"""The before/after table of benchmarks, as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odin_rm.core.untrusted import markdown_text
from odin_rm.reports.blocks import DASH, Table, format_number
from odin_rm.reports.latex import latex_table

DIGITS = 4


def retention_table(content: Mapping[str, Any], *, parts: bool = False) -> Table:
    """One row per task and metric: each model's figure, then what changed.

    Args:
        content: of ``retention.json``.
        parts: also the single tasks of groups.
    """
    names = [model["name"] for model in content["models"]]
    columns = ["task", "metric", "questions", *names, *(f"{name} {DASH} {names[0]}" for name in names[1:])]
    rows = []
    for row in content["tasks"]:
        if row["part"] and not parts:
            continue
        figures = {model["model"]: model for model in row["models"]}
        changes = {change["model"]: change for change in row["differences"]}
        metric = row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"
        if row["higher_is_better"] is False:
            metric += ", lower is better"
        cells = [_figure(figures.get(name)) for name in names] + [_change(changes.get(name)) for name in names[1:]]
        rows.append([row["task"], metric, row["questions"], *cells])
    limit = content["settings"]["limit"]
    version = content["harness"]["version"]
    first = "" if limit is None else f" The first {limit:,} questions of each task only."
    caption = (
        f"Benchmarks by lm-eval {version}: value ± standard error (95 % interval). Differences are "
        f"paired by question unless marked unpaired; p is two-sided and not corrected for the number of rows.{first}"
    )
    return Table(caption, columns, rows, digits=DIGITS)


def retention_markdown(content: Mapping[str, Any]) -> str:
    """The table without and, where there are groups, with their single tasks."""
    text = _markdown(retention_table(content))
    if any(row["part"] for row in content["tasks"]):
        text += "\nWith the single tasks of groups:\n\n" + _markdown(
            retention_table(content, parts=True), caption=False
        )
    return text


def retention_latex(content: Mapping[str, Any]) -> str:
    """The table for the ``booktabs`` package."""
    return latex_table(retention_table(content))


def _markdown(table: Table, *, caption: bool = True) -> str:
    lines = [markdown_text(table.caption), ""] if caption else []
    lines += [_line(table.columns), "|" + "---|" * len(table.columns)]
    lines += [_line([table.cell(value, k)["main"] for k, value in enumerate(row)]) for row in table.rows]
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    return "| " + " | ".join(markdown_text(str(cell)) for cell in cells) + " |"


def _figure(figure: Mapping[str, Any] | None) -> str | None:
    if figure is None:
        return None
    text = format_number(figure["value"], DIGITS)
    if figure["standard_error"] is not None:
        text += f" ± {format_number(figure['standard_error'], DIGITS)}"
    if figure["low"] is not None:
        text += f" ({format_number(figure['low'], DIGITS)} to {format_number(figure['high'], DIGITS)})"
    return text


def _change(change: Mapping[str, Any] | None) -> str | None:
    text = _figure(change)
    if change is None or text is None:
        return None
    if change["value"] > 0:
        text = f"+{text}"
    return f"{text}, p = {change['p_value']:.3f}" if change["paired"] else f"{text}, unpaired"

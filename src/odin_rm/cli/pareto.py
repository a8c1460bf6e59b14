"""Fronts of score against length over many runs: intervals, matched lengths, the paper's figures."""

from __future__ import annotations

from typing import Any

from odin_rm.core.console import say
from odin_rm.workflows.pareto.config import ParetoConfig

MOST_COMPARISONS = 10
WIDTH_OF_A_FILE = 150


def run(config: ParetoConfig) -> None:
    """Compute, print the tables."""
    from odin_rm.workflows.pareto.run import run_pareto

    content = run_pareto(config)
    if content:
        print_fronts(content)
    say(f"Written to {config.output}")


def print_fronts(content: dict[str, Any]) -> None:
    """What was compared, the arms, every two of them, and what could not be computed."""
    resampled = content["resampled"]
    unit = f"{resampled['prompts']:,} prompts" if resampled["unit"] == "prompts" else resampled["unit"]
    judge = f", judged by {content['judge']}" if content["judge"] else ""
    say(f"{len(content['points']):,} runs, {content['score']}{judge}; intervals resample {unit}")
    for table in content["shown"].tables()[:-1]:  # the runs are in the files
        print_table(table)
    reference = content["reference_point"]
    say(
        f"Hypervolume: below {reference['length']:,.1f} {content['length_unit']} ({reference['length_from']}), "
        f"above a score of {reference['score']:.4g} ({reference['score_from']})"
    )
    for sentence in content["not_computed"]:
        say(f"  {sentence}")
    if content["left_out"]:
        say("Left out: " + "; ".join(f"{count:,} {reason}" for reason, count in content["left_out"].items()))


def print_table(table: Any) -> None:
    """A table of the report on the console, its first rows where there are many."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole
    from odin_rm.reports.markdown import cell_text

    shown = Table(title=table.caption, title_justify="left")
    for k, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if k == 0 else "right", overflow="fold")
    for row in table.rows[:MOST_COMPARISONS]:
        shown.add_row(*(cell_text(table, value, k) for k, value in enumerate(row)))
    console = PlainConsole()
    if not console.is_terminal:
        console.width = WIDTH_OF_A_FILE
    console.print(shown)
    if len(table.rows) > MOST_COMPARISONS:
        say(f"  and {len(table.rows) - MOST_COMPARISONS:,} more rows, in the files")

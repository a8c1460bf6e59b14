"""Many policies against one baseline: responses, judgements and win rates of each; cached and resumable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odin_rm.core.console import say
from odin_rm.core.hub import quiet_transformers

if TYPE_CHECKING:
    from odin_rm.workflows.evaluate.config import EvaluateConfig


def run(config: EvaluateConfig) -> None:
    """Evaluate, print the table."""
    quiet_transformers()
    from odin_rm.workflows.evaluate.run import run_evaluate

    content = run_evaluate(config)
    print_table(content)
    say(f"Written to {config.output}")


def print_table(content: dict[str, Any]) -> None:
    """A run per row, the highest win score first; then what was left out and why."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole

    title = f"Against {content['baseline']} on {content['prompts']:,} prompts, judged by {content['judge']}"
    table = Table(title=f"{title} (95 % intervals; a win score of 50 is a tie)", title_justify="left")
    table.add_column("run", overflow="fold")
    for name in ("arm", "win score", "win rate (%)", "mean length"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    done = [row for row in content["runs"] if row["status"] == "done"]
    for row in sorted(done, key=lambda row: -row["win_score"]["value"]):
        figures = (row["win_score"], row["win_rate"], row["mean_tokens"])
        table.add_row(row["name"], row["arm"] or "-", *map(_cell, figures))
    PlainConsole().print(table)
    for row in content["runs"]:
        if row["status"] == "failed":
            say(f"  {row['name']}: {row['error']}")
    for reason, count in content["left_out"].items():
        say(f"Left out: {count:,} {reason}")


def _cell(figure: dict[str, Any]) -> str:
    if figure["low"] is None:
        return f"{figure['value']:.1f}"
    return f"{figure['value']:.1f} ({figure['low']:.1f} to {figure['high']:.1f})"

"""Best-of-N from stored scores or by a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odin_rm.core.console import say

if TYPE_CHECKING:
    from odin_rm.workflows.best_of_n.config import BestOfNConfig


def run(config: BestOfNConfig) -> None:
    """Compute, print the table."""
    from odin_rm.workflows.best_of_n.run import run_best_of_n

    print_table(run_best_of_n(config))
    say(f"The report: {config.output}/report.html")


def print_table(content: dict[str, Any]) -> None:
    """One column for each N."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole

    table = Table(title=f"Best-of-N over {content['prompts']:,} prompts", title_justify="left")
    table.add_column("")
    for n in content["n"]:
        table.add_column(f"N = {n}", justify="right")
    rows = {"KL (nats)": content["kl"], "proxy": content["proxy"]}
    if content["gold"] is not None:
        rows["gold"] = content["gold"]
    rows |= {content["units"][name]["words"]: values for name, values in content["attributes"].items()}
    for name, values in rows.items():
        table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in values))
    PlainConsole().print(table)
    if content["prompts_left_out"]:
        say(f"{content['prompts_left_out']:,} prompts have too few responses and are left out")

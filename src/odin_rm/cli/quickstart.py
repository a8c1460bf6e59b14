"""The whole story on the embedded testbed: train, audit and compare, in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from odin_rm.cli.config import parse_config, quiet_transformers

if TYPE_CHECKING:
    from odin_rm.evaluation.records import Figure
    from odin_rm.testbed.experiment import Arm

_ROWS = {
    "pearson": "Pearson of reward with length",
    "spearman": "Spearman of reward with length",
    "kendall": "Kendall of reward with length",
    "true_quality_agreement": "agreement with the true quality",
    "accuracy": "accuracy on the annotator's choices",
    "accuracy_chosen_longer": "  where the chosen one is longer",
    "accuracy_chosen_shorter": "  where the chosen one is shorter",
    "information_beyond_length": "information beyond length, bits per pair",
}


def run(argv: Sequence[str]) -> int:
    """Parse, run, print the table."""
    quiet_transformers()
    from odin_rm.testbed.experiment import QuickstartConfig, run_quickstart

    config = parse_config(QuickstartConfig, list(argv), "quickstart")
    arms = run_quickstart(config, say=lambda line: print(line, flush=True))
    print_table(arms, Path(config.output))
    return 0


def print_table(arms: dict[str, Arm], folder: Path) -> None:
    """The figures of all arms side by side, with their 95 % intervals."""
    from rich.console import Console
    from rich.table import Table

    pairs = next(iter(arms.values())).audit.pairs
    table = Table(title=f"Two reward models on {pairs} held-out pairs (95 % intervals)", title_justify="left")
    table.add_column("")
    for name in arms:
        table.add_column(name, justify="right")
    for figure, label in _ROWS.items():
        table.add_row(label, *(_cell(arm.audit[figure]) for arm in arms.values()))
    console = Console()
    console.print(table)
    console.print(f"The report: {folder / 'report.html'}\nThe figures: {folder / 'summary.json'}", soft_wrap=True)


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "undefined"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"

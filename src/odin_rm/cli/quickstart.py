"""The whole story on the embedded testbed: train, audit and compare, in minutes on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from odin_rm.core.console import remark, say
from odin_rm.core.hub import quiet_transformers

if TYPE_CHECKING:
    from odin_rm.evaluation.records import Figure
    from odin_rm.testbed.experiment import Arm
    from odin_rm.testbed.quickstart_config import QuickstartConfig
    from odin_rm.testbed.rl_figures import ArmFigures

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


def run(config: QuickstartConfig) -> None:
    """Run, print the tables."""
    quiet_transformers()
    from odin_rm.testbed.experiment import run_quickstart
    from odin_rm.testbed.world_story import longer_is_better_words

    story = run_quickstart(config, say=remark)
    print_audits(story.arms)
    say(longer_is_better_words(story.longer_is_better))
    if story.figures:
        print_policies(story.figures)
    folder = Path(config.output)
    say(f"The report: {folder / 'report.html'}\nThe figures: {folder / 'summary.json'}")


def print_policies(figures: dict[str, ArmFigures]) -> None:
    """Each reward's policies: means over the runs, with intervals where there are several."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole

    table = Table(title="What policies make of the rewards (means over runs, 95 % intervals)", title_justify="left")
    table.add_column("reward")
    for name in ("runs", "mean tokens", "times the optimum's", "true quality", "win score"):
        table.add_column(name, justify="right")
    for arm, f in figures.items():
        means = (f.mean_tokens, f.length_ratio, f.true_quality, f.win_score)
        table.add_row(arm, str(f.runs), *(_cell(figure, digits=2) for figure in means))
    PlainConsole().print(table)


def print_audits(arms: dict[str, Arm]) -> None:
    """The figures of both reward models side by side, with their 95 % intervals."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole

    pairs = next(iter(arms.values())).audit.pairs
    table = Table(title=f"Two reward models on {pairs} held-out pairs (95 % intervals)", title_justify="left")
    table.add_column("")
    for name in arms:
        table.add_column(name, justify="right")
    for figure, label in _ROWS.items():
        table.add_row(label, *(_cell(arm.audit[figure]) for arm in arms.values()))
    PlainConsole().print(table)


def _cell(figure: Figure, digits: int = 3) -> str:
    if figure.value is None:
        return "undefined"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.{digits}f}"
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"

"""Fronts: every run as a point of length and score, and what each arm attains with responses no longer than that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from odin_rm.evaluation.records import RunPoint
from odin_rm.reports.blocks import Table
from odin_rm.reports.chart import Chart, Series
from odin_rm.reports.dominance import dominance_figure
from odin_rm.reports.front_tables import arms_table, comparisons_table
from odin_rm.reports.fronts import Band, run_words, runs_by_arm
from odin_rm.reports.recipes import main_fronts
from odin_rm.results.records import Fronts, Sweep


def front_chart(fronts: Fronts, file: str) -> Chart:
    """The runs of each arm and its front with its band, a step line to the longest run of all."""
    bands: dict[str, Band] = {}
    if fronts.summary is not None:
        grid = np.array(fronts.summary.grid, dtype=np.float64)
        held = {arm: content["band"] for arm, content in fronts.summary.arms.items()}
        bands = {arm: Band(grid, figures) for arm, figures in held.items() if len(figures) == len(grid)}
    figure = main_fronts(
        fronts.points, length_label=fronts.length, score_label=fronts.score, bands=bands, file=file,
        marks=[RunPoint(name, length, score, name) for name, (length, score) in fronts.marks.items()],
        lengths=fronts.lengths, title=f"{fronts.name}: {fronts.score} against length",
    )  # fmt: skip
    (chart,) = figure.charts
    caption = (
        "Every run as a point; the line of an arm is the best score among its runs that are no longer. Further up and "
        f"to the left is better. {chart.note}"
    )
    return replace(chart, caption=caption.strip(), note="")


def dominance_chart(fronts: Fronts, file: str) -> Chart | None:
    """The probability that one front is the higher one, at each length; of ``pareto.json`` with several arms."""
    found = fronts.summary
    if found is None:
        return None
    title = f"{fronts.name}: which front is higher"
    figure = dominance_figure(found.grid, found.comparisons, length_label=fronts.length, file=file, title=title)
    return None if figure is None else figure.charts[0]


def front_tables(fronts: Fronts, number: int) -> list[Table]:
    """What ``pareto.json`` says of arms and of pairs of arms."""
    found = fronts.summary
    if found is None:
        return []
    digits = 1 if found.score in ("win_score", "win_rate") else 3
    content = {"arms": found.arms, "comparisons": found.comparisons}
    words = found.score.replace("_", " ")
    arms = arms_table(content, found.matched, score=words, unit=found.unit, digits=digits)
    tables = [replace(arms, file=f"fronts_{number}")]
    if found.comparisons:
        pairs = comparisons_table(content, found.matched, unit=found.unit, digits=digits)
        tables.append(replace(pairs, file=f"front_pairs_{number}"))
    return [replace(table, caption=f"{fronts.name}: {table.caption[0].lower()}{table.caption[1:]}") for table in tables]


def sweep_chart(sweep: Sweep, file: str) -> Chart | None:
    """The policies of a sweep: quality by their own reward against length."""
    if not sweep.points:
        return None
    return Chart(
        file,
        f"{sweep.name}: quality reward against length",
        "mean response tokens",
        "quality reward",
        [Series(arm, *_columns(points), words=[run_words(p) for p in points], style="points")
         for arm, points in runs_by_arm(sweep.points).items()],
        "Each finished run by its last look. Rewards of different models have different units; compare within one.",
        f"Scatter plot of {len(sweep.points)} runs: quality reward against mean response tokens.",
    )  # fmt: skip


def _columns(points: Sequence[RunPoint]) -> tuple[list[float], list[float]]:
    return [p.mean_length for p in points], [p.score for p in points]

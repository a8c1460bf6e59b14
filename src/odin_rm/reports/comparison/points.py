"""Fronts: every run as a point of length and score, and what each arm attains with responses no longer than that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from odin_rm.evaluation.pareto import RunPoints, attained_score, pareto_front
from odin_rm.evaluation.records import RunPoint
from odin_rm.reports.blocks import Table
from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.reports.front_tables import arms_table, comparisons_table
from odin_rm.results.records import Fronts, Sweep


def front_chart(fronts: Fronts, file: str) -> Chart:
    """The runs of each arm and its front with its band, a step line to the longest run of all."""
    series = [one for arm, runs in by_arm(fronts.points).items() for one in _arm(arm, runs, fronts)]
    for name, (length, score) in fronts.marks.items():
        series.append(Series(name, [length], [score], style="points", second=True))
    told = "; ".join(f"{arm}: {_front_words(points)}" for arm, points in by_arm(fronts.points).items())
    bands = any(one.band for one in series)
    return Chart(
        file,
        f"{fronts.name}: {fronts.score} against length",
        fronts.length,
        fronts.score,
        series,
        "Every run as a point; the line of an arm is the best score among its runs that are no longer. Further up and "
        f"to the left is better.{' Bands: 95 % intervals of the fronts.' if bands else ''}",
        f"Scatter plot of {fronts.score} against {fronts.length}. Fronts: {told}.",
        digits=2,
        marks=[Mark(length, name, "x") for name, length in fronts.lengths.items()],
    )


def dominance_chart(fronts: Fronts, file: str) -> Chart | None:
    """The probability that one front is the higher one, at each length; of ``pareto.json`` with several arms."""
    found = fronts.summary
    if found is None or not found.comparisons:
        return None
    series = [
        Series(f"{pair['first']} above {pair['second']}", found.grid, pair["dominance"]) for pair in found.comparisons
    ]
    return Chart(
        file,
        f"{fronts.name}: which front is higher",
        fronts.length,
        "probability",
        series,
        "The probability that an arm attains more than another with responses no longer, over resamples. No line where "
        "an arm attains nothing yet.",
        f"Line chart of the probability that one front is higher, for {len(series)} pairs of arms.",
        percent=True,
        marks=(Mark(0.5, "even"),),
    )


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
        [Series(arm, *_columns(points), words=[_words(p) for p in points], style="points")
         for arm, points in by_arm(sweep.points).items()],
        "Each finished run by its last look. Rewards of different models have different units; compare within one.",
        f"Scatter plot of {len(sweep.points)} runs: quality reward against mean response tokens.",
    )  # fmt: skip


def by_arm(points: Sequence[RunPoint]) -> dict[str, list[RunPoint]]:
    """The runs of each arm, arms in order of appearance."""
    arms: dict[str, list[RunPoint]] = {}
    for point in points:
        arms.setdefault(point.arm, []).append(point)
    return arms


def _arm(arm: str, runs: Sequence[RunPoint], fronts: Fronts) -> list[Series]:
    """The runs of an arm and its front: exact steps, with the band of the last length of the grid before each."""
    sides: dict[str, Any] = {}
    if any(p.score_low is not None for p in runs):
        sides = {"low": [p.score_low for p in runs], "high": [p.score_high for p in runs]}
    cloud = Series(arm, *_columns(runs), words=[_words(p) for p in runs], style="points", **sides)
    columns = RunPoints(*_columns(runs))  # type: ignore[arg-type]
    steps = np.r_[columns.length_N[pareto_front(columns)], max(p.mean_length for p in fronts.points)]
    grid = np.array(fronts.summary.grid if fronts.summary else [], dtype=np.float64)
    figures = fronts.summary.arms[arm]["band"] if fronts.summary and arm in fronts.summary.arms else []
    band: dict[str, Any] = {}
    if len(figures) == len(grid) and any(figure.low is not None for figure in figures):
        steps = np.unique(np.r_[steps, grid[(grid >= steps[0]) & (grid <= steps[-1])]])
        at = np.maximum(np.searchsorted(grid, steps, side="right") - 1, 0)
        band = {side: [getattr(figures[k], side) for k in at] for side in ("low", "high")} | {"band": True}
    attained = attained_score(columns, steps)
    front = Series(f"{arm}: front", steps.tolist(), attained.tolist(), group=arm, style="steps", follows=True, **band)
    return [cloud, front]


def _columns(points: Sequence[RunPoint]) -> tuple[list[float], list[float]]:
    return [p.mean_length for p in points], [p.score for p in points]


def _words(point: RunPoint) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in point.settings.items() if value is not None)
    return ", ".join(part for part in (point.name, point.algorithm, settings) if part)[:240]


def _front_words(points: Sequence[RunPoint]) -> str:
    columns = RunPoints(*_columns(points))  # type: ignore[arg-type]
    front = pareto_front(columns)
    return ", ".join(f"{columns.score_N[k]:.2f} at {columns.length_N[k]:.0f}" for k in front)

"""Fronts: every run as a point of length and score, and what each arm attains with responses no longer than that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from odin_rm.evaluation.pareto import RunPoints, attained_score, pareto_front
from odin_rm.evaluation.records import RunPoint
from odin_rm.reports.chart import Chart, Series
from odin_rm.reports.comparison.records import Fronts, Sweep


def front_chart(fronts: Fronts, file: str) -> Chart:
    """The runs of each arm and its front, a step line to the longest run of all."""
    series = _arms(fronts.points)
    for name, (length, score) in fronts.marks.items():
        series.append(Series(name, [length], [score], style="points", second=True))
    told = "; ".join(f"{arm}: {_front_words(points)}" for arm, points in by_arm(fronts.points).items())
    return Chart(
        file,
        f"{fronts.name}: {fronts.score} against length",
        fronts.length,
        fronts.score,
        series,
        "Every run as a point; the line of an arm is the best score among its runs that are no longer. Further up and "
        "to the left is better.",
        f"Scatter plot of {fronts.score} against {fronts.length}. Fronts: {told}.",
        digits=2,
    )


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


def _arms(points: Sequence[RunPoint]) -> list[Series]:
    longest = max(point.mean_length for point in points)
    series = []
    for arm, runs in by_arm(points).items():
        with_interval = any(p.score_low is not None for p in runs)
        sides: Mapping[str, list[float | None]] = (
            {"low": [p.score_low for p in runs], "high": [p.score_high for p in runs]} if with_interval else {}
        )
        series.append(Series(arm, *_columns(runs), words=[_words(p) for p in runs], style="points", **sides))
        columns = RunPoints(*_columns(runs))  # type: ignore[arg-type]
        steps = np.r_[columns.length_N[pareto_front(columns)], longest]
        attained = attained_score(columns, steps)
        series.append(
            Series(f"{arm}: front", steps.tolist(), attained.tolist(), group=arm, style="steps", follows=True)
        )
    return series


def _columns(points: Sequence[RunPoint]) -> tuple[list[float], list[float]]:
    return [p.mean_length for p in points], [p.score for p in points]


def _words(point: RunPoint) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in point.settings.items() if value is not None)
    return ", ".join(part for part in (point.name, point.algorithm, settings) if part)[:240]


def _front_words(points: Sequence[RunPoint]) -> str:
    columns = RunPoints(*_columns(points))  # type: ignore[arg-type]
    front = pareto_front(columns)
    return ", ".join(f"{columns.score_N[k]:.2f} at {columns.length_N[k]:.0f}" for k in front)

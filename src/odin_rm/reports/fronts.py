"""What figures of fronts are made of: runs as points, fronts as step lines with bands, single policies as stars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from odin_rm.evaluation.pareto import RunPoints, attained_score, pareto_front
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.reports.blocks import format_number
from odin_rm.reports.chart import Chart, Mark, Series

EDGE_SHARE = 0.06
"""Room beside the outermost points, as a share of their range."""
ALGORITHM_NAMES = {"ppo": "PPO", "remax": "ReMax", "rloo": "RLOO", "grpo": "GRPO", "dpo": "DPO", "sft": "SFT"}
BANDS_NOTE = (
    "Bands: 95 % intervals of the fronts. Where runs are resampled, some are missing each time and a front can only "
    "come out lower, so its band lies under its line."
)
MOST_BANDS, MOST_INTERVALS = 5, 40
"""Arms and runs up to which a figure shows intervals; beyond that they hide what they belong to."""


@dataclass(frozen=True)
class Panels:
    """A figure of one chart or of several side by side, and what it shows.

    Attributes:
        charts: the panels; they share their axes.
        data: what is shown, ready for JSON.
        alt: what a reader who cannot see it needs to know.
    """

    charts: Sequence[Chart]
    data: dict[str, Any]
    alt: str


@dataclass(frozen=True)
class Band:
    """The front of an arm at each of some lengths with its interval.

    Attributes:
        length_M: lengths.
        figures: the front there, undefined where it attains nothing.
    """

    length_M: np.ndarray
    figures: Sequence[Figure]


@dataclass(frozen=True)
class FrontAxes:
    """What all panels of a figure share.

    Attributes:
        length_label, score_label: of the axes, with their units.
        marks: single policies that are compared with and are no part of a front, by their ``name``.
        lengths: lengths to mark by a vertical line, by name.
    """

    length_label: str
    score_label: str
    marks: Sequence[RunPoint] = ()
    lengths: Mapping[str, float] = field(default_factory=dict)

    def limits(self, points: Sequence[RunPoint]) -> tuple[float, float]:
        """Limits of the length axis that leave room beside the outermost of ``points`` and of what is marked."""
        return _limits([*(p.mean_length for p in (*points, *self.marks)), *self.lengths.values()])

    def score_limits(self, points: Sequence[RunPoint]) -> tuple[float, float]:
        """The same of the score axis."""
        return _limits([p.score for p in (*points, *self.marks)])


def front_panel(
    axes: FrontAxes,
    groups: Mapping[str, Sequence[RunPoint]],
    limits: tuple[float, float],
    *,
    file: str,
    title: str = "",
    caption: str = "",
    bands: Mapping[str, Band] | None = None,
    places: Mapping[str, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Chart:
    """Every run of some groups as a point, and what each group attains at each length as a step line.

    Args:
        axes: what is shared with the other panels.
        groups: runs by the group's name. Groups are told apart by colour and marker, algorithms by the filling.
        limits: of the length axis; the fronts go on to the right one.
        file, title, caption: of the chart.
        bands: intervals of the fronts by group.
        places: of each group on the scale from dark to light, where groups have an order.
        y_range: limits of the score axis.
    """
    bands = bands if bands and len(bands) <= MOST_BANDS else {}
    every = [point for runs in groups.values() for point in runs]
    algorithms = list(dict.fromkeys(point.algorithm for point in every if point.algorithm))
    series = []
    for name, runs in groups.items():
        look: dict[str, Any] = {"group": name, "place": None if places is None else places[name]}
        shown = algorithms if len(algorithms) > 1 else [""]
        clouds = {a: [p for p in runs if not a or (p.algorithm or algorithms[0]) == a] for a in shown}
        clouds = {a: held for a, held in clouds.items() if held}
        for k, (algorithm, held) in enumerate(clouds.items()):
            words = f"{name}, {ALGORITHM_NAMES.get(algorithm, algorithm)}" if algorithm else name
            variant = algorithms.index(algorithm) if algorithm else 0
            series.append(_cloud(held, words, variant, len(every) <= MOST_INTERVALS, look))
            if k == 0:
                series.append(_front(runs, f"{name}: front", limits[1], bands.get(name), look))
    for mark in axes.marks:
        series.append(Series(mark.name, [mark.mean_length], [mark.score], style="points", star=True))
    fronts = {name: front_rows(runs) for name, runs in groups.items()}
    return Chart(
        file, title, axes.length_label, axes.score_label, series, caption,
        f"Scatter plot of {axes.score_label} against {axes.length_label}. {front_words(fronts)}", digits=2,
        marks=[Mark(length, f"{name} ({length:,.0f})", "x") for name, length in axes.lengths.items()],
        x_range=limits, y_range=y_range, note=BANDS_NOTE if any(one.band for one in series) else "",
    )  # fmt: skip


def front_rows(runs: Sequence[RunPoint]) -> list[dict[str, Any]]:
    """The runs on the front, by ``name``, ``length`` and ``score``."""
    return [
        {"name": runs[k].name, "length": runs[k].mean_length, "score": runs[k].score}
        for k in pareto_front(run_points(runs))
    ]


def front_words(fronts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Fronts in a sentence: ``Front of odin: 0.61 at 38, 0.72 at 51.``"""
    parts = [
        f"{name}: " + ", ".join(f"{format_number(float(r['score']), 2)} at {r['length']:.0f}" for r in rows)
        for name, rows in fronts.items()
    ]
    return "Front of " + "; ".join(parts) + "."


def run_points(points: Sequence[RunPoint]) -> RunPoints:
    """The columns of some runs, as :mod:`odin_rm.evaluation.pareto` takes them."""
    return RunPoints(np.array([p.mean_length for p in points]), np.array([p.score for p in points]))


def runs_by_arm(points: Sequence[RunPoint]) -> dict[str, list[RunPoint]]:
    """The runs of each arm, arms in order of appearance."""
    arms: dict[str, list[RunPoint]] = {}
    for point in points:
        arms.setdefault(point.arm, []).append(point)
    return arms


def run_words(point: RunPoint) -> str:
    """A run for reading point by point: its name, algorithm and settings."""
    settings = ", ".join(f"{name} {value}" for name, value in point.settings.items() if value is not None)
    return ", ".join(part for part in (point.name, point.algorithm, settings) if part)[:240]


def _cloud(runs: Sequence[RunPoint], name: str, variant: int, intervals: bool, look: Mapping[str, Any]) -> Series:
    sides: dict[str, Any] = {}
    if intervals and any(p.score_low is not None for p in runs):
        sides |= {"low": [p.score_low for p in runs], "high": [p.score_high for p in runs]}
    if intervals and any(p.length_low is not None for p in runs):
        sides |= {"x_low": [p.length_low for p in runs], "x_high": [p.length_high for p in runs]}
    x, y, words = [p.mean_length for p in runs], [p.score for p in runs], [run_words(p) for p in runs]
    return Series(name, x, y, words=words, style="points", variant=variant, **sides, **look)


def _front(runs: Sequence[RunPoint], name: str, right: float, band: Band | None, look: Mapping[str, Any]) -> Series:
    """Exact steps, with the band of the last length of the grid before each."""
    columns = run_points(runs)
    steps = np.unique(np.r_[columns.length_N[pareto_front(columns)], right])
    sides: dict[str, Any] = {}
    if band is not None and any(figure.low is not None for figure in band.figures):
        grid = np.asarray(band.length_M, dtype=np.float64)
        steps = np.unique(np.r_[steps, grid[(grid >= steps[0]) & (grid <= steps[-1])]])
        at = np.searchsorted(grid, steps, side="right") - 1
        sides = {side: [getattr(band.figures[k], side) if k >= 0 else None for k in at] for side in ("low", "high")}
        sides["band"] = True
    attained = attained_score(columns, steps)
    return Series(name, steps.tolist(), attained.tolist(), style="steps", follows=True, **sides, **look)


def _limits(values: Iterable[float]) -> tuple[float, float]:
    column = np.array(list(values), dtype=np.float64)
    span = float(column.max() - column.min())
    pad = EDGE_SHARE * (span if span > 0 else max(1.0, abs(float(column.max()))))
    return float(column.min()) - pad, float(column.max()) + pad

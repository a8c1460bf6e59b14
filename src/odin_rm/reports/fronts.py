"""What figures of fronts are made of: runs as points, fronts as step lines, bands, marks, one legend above them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from odin_rm.evaluation.pareto import RunPoints, attained_score, pareto_front
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.reports.style import GREY, INK, new_canvas, shorten

EDGE_SHARE = 0.06
"""Room beside the outermost points, as a share of their range."""
FILLS = ("full", "none", "left", "bottom")
"""How the marker is filled, by algorithm."""
ALGORITHM_NAMES = {"ppo": "PPO", "remax": "ReMax", "rloo": "RLOO", "grpo": "GRPO", "dpo": "DPO", "sft": "SFT"}
MOST_COLUMNS, HANDLE_CHARACTERS, CHARACTERS_PER_INCH = 4, 8, 12.5
"""Of a legend in its font: most columns, what a handle takes, what fits."""
_DASHES = ((0, (4, 2)), (0, (1, 2)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows.

    Attributes:
        canvas: the matplotlib figure.
        data: what was drawn, ready for JSON.
        alt: what a reader who cannot see it needs to know.
    """

    canvas: Canvas
    data: dict[str, Any]
    alt: str


@dataclass(frozen=True)
class Look:
    """What tells groups of runs apart.

    Attributes:
        colours, markers: of each group by name.
        algorithms: in the order of :data:`FILLS`.
    """

    colours: Mapping[str, str]
    markers: Mapping[str, str]
    algorithms: Sequence[str]


def length_limits(points: Sequence[RunPoint], others: Iterable[float] = ()) -> tuple[float, float]:
    """Limits of the length axis that leave room beside the outermost run.

    Args:
        points: the runs.
        others: further lengths that must be seen.
    """
    lengths = np.array([*(point.mean_length for point in points), *others])
    pad = EDGE_SHARE * max(float(lengths.max() - lengths.min()), 1.0)
    return float(lengths.min()) - pad, float(lengths.max()) + pad


def panel_grid(count: int, *, height: float = 3.6) -> tuple[Canvas, list[Axes]]:
    """Axes in rows of up to three with common limits; places that stay empty are hidden.

    Args:
        count: panels.
        height: inches of a row.
    """
    columns = min(count, 2 if count in (2, 4) else 3)
    rows = math.ceil(count / columns)
    width = {1: 6.4, 2: 9.0}.get(columns, 11.0)
    canvas, axes = new_canvas(rows, columns, width=width, height=1.0 + height * rows)
    for k, axis in enumerate(axes[1:], start=1):
        axis.sharex(axes[0])
        axis.sharey(axes[0])
        axis.tick_params(labelleft=k % columns == 0)
    for axis in axes[count:]:
        axis.set_axis_off()
    return canvas, axes


def draw_front(axis: Axes, points: RunPoints, right: float, colour: str) -> None:
    """The step line of what some runs attain, from the shortest of them to ``right``."""
    steps = np.r_[points.length_N[pareto_front(points)], right]
    axis.plot(steps, attained_score(points, steps), color=colour, drawstyle="steps-post", zorder=3)


def draw_band(axis: Axes, length_M: np.ndarray, figures: Sequence[Figure], colour: str) -> None:
    """The interval of a front, where it has one."""
    low, high = (
        np.array([np.nan if (bound := getattr(f, side)) is None else bound for f in figures], dtype=np.float64)
        for side in ("low", "high")
    )
    axis.fill_between(length_M, low, high, step="post", color=colour, alpha=0.16, linewidth=0, zorder=1)


def draw_runs(
    axis: Axes,
    runs: Sequence[RunPoint],
    colour: str,
    marker: str,
    algorithms: Sequence[str] = (),
    intervals: bool = True,
) -> None:
    """Runs as points with the intervals that they have.

    Args:
        axis: where.
        runs: of one group.
        colour, marker: of the group.
        algorithms: all algorithms of the figure; each has its own filling.
        intervals: whether they are shown.
    """
    for run in runs:
        place = (run.mean_length, run.score)
        if intervals and run.score_low is not None and run.score_high is not None:
            axis.vlines(place[0], run.score_low, run.score_high, color=colour, alpha=0.45, linewidth=1.0, zorder=2)
        if intervals and run.length_low is not None and run.length_high is not None:
            axis.hlines(place[1], run.length_low, run.length_high, color=colour, alpha=0.45, linewidth=1.0, zorder=2)
        fill = FILLS[algorithms.index(run.algorithm) % len(FILLS)] if run.algorithm in algorithms else "full"
        axis.plot(*place, color=colour, marker=marker, zorder=4, **_marker_style(fill))


def draw_marks(
    axis: Axes, marks: Sequence[RunPoint], lengths: Mapping[str, float], limits: tuple[float, float]
) -> None:
    """Single policies as named stars, lengths as vertical lines.

    Args:
        axis: where.
        marks, lengths: what to draw.
        limits: of the length axis; a name stands on the side where there is room.
    """
    for mark in marks:
        place = (mark.mean_length, mark.score)
        right = mark.mean_length > sum(limits) / 2
        axis.plot(*place, color=INK, marker="*", markersize=12, linestyle="none", zorder=5)
        axis.annotate(
            mark.name, place, xytext=(-9 if right else 9, -4), textcoords="offset points", fontsize=9, color=INK,
            ha="right" if right else "left", zorder=5,
        )  # fmt: skip
    for length, dashes in zip(lengths.values(), _DASHES * len(lengths), strict=False):
        axis.axvline(length, color=GREY, linewidth=1.2, linestyle=dashes, zorder=1)


def legend_above(canvas: Canvas, look: Look, lengths: Mapping[str, float], band_label: str = "") -> None:
    """One legend above all panels, where it covers no point; bands and vertical lines are named there too."""
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker=look.markers[name], markersize=6, label=shorten(name, 36))
        for name, colour in look.colours.items()
    ]
    if len(look.algorithms) > 1:
        for k, name in enumerate(look.algorithms):
            style = _marker_style(FILLS[k % len(FILLS)])
            handles.append(Line2D([], [], color=INK, marker="o", label=ALGORITHM_NAMES.get(name, name), **style))
    for (name, length), dashes in zip(lengths.items(), _DASHES * len(lengths), strict=False):
        label = f"{name} ({length:,.0f})"
        handles.append(Line2D([], [], color=GREY, linewidth=1.2, linestyle=dashes, label=label))
    if band_label:
        handles.append(Patch(facecolor=GREY, alpha=0.3, linewidth=0, label=band_label))
    columns = legend_columns([str(handle.get_label()) for handle in handles], float(canvas.get_figwidth()))
    canvas.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=9)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit side by side; it is filled column by column.

    Args:
        labels: the entries.
        width: inches of the figure.
    """
    for columns in range(min(len(labels), MOST_COLUMNS), 1, -1):
        rows = -(-len(labels) // columns)
        parts = [labels[start : start + rows] for start in range(0, len(labels), rows)]
        if sum(max(map(len, part)) + HANDLE_CHARACTERS for part in parts) <= CHARACTERS_PER_INCH * width:
            return columns
    return 1


def _marker_style(fill: str) -> dict:
    return {"fillstyle": fill, "markerfacecoloralt": "white", "markersize": 6.5, "linestyle": "none"}

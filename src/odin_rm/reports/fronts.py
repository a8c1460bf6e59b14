"""The figure of fronts: every run as a point of length and score, and what each arm attains as a step line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from odin_rm.evaluation.pareto import RunPoints, attained_score, pareto_front
from odin_rm.reports.plots import shorten
from odin_rm.reports.style import GREY, INK, model_colours, model_markers, new_canvas, styled

EDGE_SHARE = 0.06
"""Room beside the outermost points, as a share of their range."""


@dataclass(frozen=True)
class Landmarks:
    """What a figure of fronts shows besides the runs.

    Attributes:
        points: single policies by name, as ``(length, score)``: the starting policy, DPO.
        lengths: vertical lines by name: the length that the optimum needs.
        hollow: for an arm, which of its runs are drawn hollow (a second algorithm).
        hollow_label: what a hollow point means, with what a filled one means.
    """

    points: Mapping[str, tuple[float, float]]
    lengths: Mapping[str, float]
    hollow: Mapping[str, Sequence[bool]]
    hollow_label: tuple[str, str] = ("", "")


def score_against_length(
    arms: Mapping[str, RunPoints], landmarks: Landmarks, *, score_label: str, length_label: str
) -> Canvas:
    """Runs as points, the front of each arm as the step line of what it attains at each length.

    Args:
        arms: the runs by arm.
        landmarks: what else to show.
        score_label, length_label: of the axes, with their units.
    """
    colours, markers = model_colours(list(arms)), model_markers(list(arms))
    low, high = _length_limits(arms, landmarks)
    with styled():
        canvas, (axis,) = new_canvas(width=8.6, height=5.2)
        for name, points in arms.items():
            hollow = np.asarray(landmarks.hollow.get(name, np.zeros(len(points))), dtype=bool)
            style = {"color": colours[name], "marker": markers[name], "markersize": 6.5, "linestyle": "none"}
            axis.plot(points.length_N[~hollow], points.score_N[~hollow], zorder=4, **style)
            axis.plot(points.length_N[hollow], points.score_N[hollow], zorder=4, markerfacecolor="white", **style)
            front = points.length_N[pareto_front(points)]
            steps = np.r_[front, high]
            axis.plot(steps, attained_score(points, steps), color=colours[name], drawstyle="steps-post", zorder=3)
        for name, (length, score) in landmarks.points.items():
            axis.plot([length], [score], color=INK, marker="*", markersize=12, linestyle="none", zorder=5)
            axis.annotate(name, (length, score), xytext=(9, -4), textcoords="offset points", fontsize=9, color=INK)
        for name, length in landmarks.lengths.items():
            axis.axvline(length, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
            axis.annotate(
                name, (length, 1.0), xycoords=("data", "axes fraction"), xytext=(-4, -4), textcoords="offset points",
                ha="right", va="top", fontsize=8.5, color=GREY,
            )  # fmt: skip
        axis.set_xlim(low, high)
        axis.set_xlabel(length_label)
        axis.set_ylabel(score_label)
        _legend(axis, arms, colours, markers, landmarks)
    return canvas


def _length_limits(arms: Mapping[str, RunPoints], landmarks: Landmarks) -> tuple[float, float]:
    lengths = np.concatenate(
        [
            *(points.length_N for points in arms.values()),
            [length for length, _ in landmarks.points.values()],
            list(landmarks.lengths.values()),
        ]
    )
    pad = EDGE_SHARE * max(float(lengths.max() - lengths.min()), 1.0)
    return float(lengths.min()) - pad, float(lengths.max()) + pad


def _legend(
    axis: Axes,
    arms: Mapping[str, RunPoints],
    colours: Mapping[str, str],
    markers: Mapping[str, str],
    landmarks: Landmarks,
) -> None:
    handles = [Line2D([], [], color=colours[n], marker=markers[n], markersize=6, label=shorten(n)) for n in arms]
    if any(np.any(flags) for flags in landmarks.hollow.values()):
        filled, hollow = landmarks.hollow_label
        style = {"color": INK, "marker": "o", "markersize": 6, "linestyle": "none"}
        handles += [Line2D([], [], label=filled, **style), Line2D([], [], label=hollow, mfc="white", **style)]
    axis.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=max(1, min(len(handles), 4)), fontsize=9,
        borderaxespad=0.2,
    )  # fmt: skip

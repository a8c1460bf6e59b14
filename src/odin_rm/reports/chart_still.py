"""A chart as a still picture, for paper, for readers without scripts, and as files beside the page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from odin_rm.reports.blocks import picture_bytes, png_bytes
from odin_rm.reports.chart import Chart, Series
from odin_rm.reports.style import GREY, INK, new_canvas, shorten, styled

WIDTH, HEIGHT = 6.6, 4.0
LEGEND_COLUMNS = 3
LEGEND_CHARACTERS = 66
"""Letters of a legend's line, beyond which it would widen the canvas at the cost of the axes."""
BAR_ROOM = 0.8
DASHES = (0, (4, 2))
MOST_MARKED = 25
"""Points of a line up to which each one has a marker."""


def draw_still(chart: Chart, colours: Mapping[str, str], markers: Mapping[str, str]) -> Canvas:
    """The chart as a matplotlib figure.

    Args:
        chart: what to draw.
        colours, markers: of each owner.
    """
    with styled():
        shown = list(chart.series)
        names = [one.name for one in shown if not one.follows]
        entries = len(names)
        columns = _legend_columns(names)
        rows = -(-entries // columns)
        canvas, (axis,) = new_canvas(width=WIDTH, height=HEIGHT + 0.2 * max(0, rows - 1))
        for number, one in enumerate(shown):
            _draw(axis, chart, one, number, colours[one.owner], markers[one.owner])
        _marks(axis, chart)
        _axes(axis, chart)
        if entries > 1:
            axis.legend(
                loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, fontsize=8.5,
                borderaxespad=0.2,
            )  # fmt: skip
    return canvas


def _legend_columns(names: list[str]) -> int:
    """As many columns as fit: each as wide as the longest name and its sample of a line."""
    widest = max(map(len, names), default=0) + 6
    return max(1, min(len(names), LEGEND_COLUMNS, LEGEND_CHARACTERS // widest))


def still_files(canvas: Canvas) -> tuple[bytes, bytes]:
    """The picture as PNG and as SVG, the same bytes for the same picture."""
    with matplotlib.rc_context({"svg.hashsalt": "odin-rm", "svg.fonttype": "path"}):
        drawing = picture_bytes(canvas, format="svg", metadata={"Date": None, "Creator": None})
    return png_bytes(canvas), drawing


def _draw(axis: Axes, chart: Chart, one: Series, number: int, colour: str, marker: str) -> None:
    categories = chart.categories
    y = np.array([np.nan if v is None else v for v in one.y], dtype=np.float64)
    sides = [np.array([np.nan if v is None else v for v in side], dtype=np.float64) for side in (one.low, one.high)]
    if categories:
        room = BAR_ROOM if one.style == "bars" else 0.4
        width = room / len(chart.series)
        offset = (number - (len(chart.series) - 1) / 2) * width
        x = np.array([categories.index(str(name)) for name in one.x], dtype=np.float64) + offset
    else:
        width, x = 0.0, np.array(one.x, dtype=np.float64)
    label = None if one.follows else shorten(one.name, 40)
    if len(sides[0]) and one.band:
        axis.fill_between(
            x, *sides, color=colour, alpha=0.18, linewidth=0, step="post" if one.style == "steps" else None
        )
    elif len(sides[0]):
        known = np.isfinite(y) & np.isfinite(sides[0]) & np.isfinite(sides[1])
        # The value can lie a hair outside a percentile interval; a negative bar is an error in matplotlib.
        error = np.maximum([y[known] - sides[0][known], sides[1][known] - y[known]], 0)
        ink = INK if one.style == "bars" else colour
        axis.errorbar(x[known], y[known], yerr=error, fmt="none", ecolor=ink, elinewidth=1.3, capsize=2, zorder=4)
    if one.style == "bars":
        axis.bar(x, y, 0.92 * width, color=colour, label=label, alpha=0.5 if one.second else 1.0)
        return
    look = {"color": colour, "label": label, "zorder": 3}
    hollow = {"markerfacecolor": "white"} if one.second else {}
    if one.style == "points":
        dense = len(x) > 60
        size, alpha = (3.0, 0.45) if dense else (6.0, 1.0)
        axis.plot(
            x, y, linestyle="none", marker=marker, markersize=size, alpha=alpha, rasterized=dense, **look, **hollow
        )
        return
    if len(x) <= MOST_MARKED and one.style != "steps":
        look |= {"marker": marker, "markersize": 4}
    axis.plot(
        x, y, linestyle=DASHES if one.second else "-",
        drawstyle="steps-post" if one.style == "steps" else "default", **look, **hollow,
    )  # fmt: skip


def _marks(axis: Axes, chart: Chart) -> None:
    for mark in chart.marks:
        line = axis.axvline if mark.axis == "x" else axis.axhline
        line(mark.at, color=GREY, linewidth=1.0, linestyle=DASHES, zorder=3)
        where = {"xycoords": ("data", "axes fraction")} if mark.axis == "x" else {"xycoords": ("axes fraction", "data")}
        place = (mark.at, 1.0) if mark.axis == "x" else (1.0, mark.at)
        axis.annotate(
            mark.label, place, xytext=(-3, -3) if mark.axis == "x" else (-3, 3), textcoords="offset points",
            ha="right", va="top" if mark.axis == "x" else "bottom", fontsize=8, color=GREY, **where,
        )  # fmt: skip


def _axes(axis: Axes, chart: Chart) -> None:
    categories = chart.categories
    if categories:
        size = 9 if len(categories) <= 6 else 7.5
        axis.set_xticks(range(len(categories)), [textwrap.fill(name, 14) for name in categories], fontsize=size)
        axis.set_xlim(-0.6, len(categories) - 0.4)
        axis.grid(axis="x", visible=False)
    if chart.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel(chart.x_label)
    axis.set_ylabel(chart.y_label)

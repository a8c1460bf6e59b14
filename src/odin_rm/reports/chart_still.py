"""A chart as a still picture, for paper, for readers without scripts, and as files beside the page."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from odin_rm.reports.blocks import MINUS
from odin_rm.reports.chart import Chart, Series, palette
from odin_rm.reports.style import DPI, GREY, INK, new_canvas, shorten, styled

WIDTH, HEIGHT = 6.6, 4.0
PANEL_WIDTH, PANEL_HEIGHT = {1: 6.6, 2: 9.0, 3: 11.0}, 3.4
"""Inches: of the figure by its columns of panels, and of a row of panels."""
ROW_HEIGHT = 0.27
"""Inches that a category takes where categories stand below each other."""
LEGEND_COLUMNS = 4
HANDLE_CHARACTERS, CHARACTERS_PER_INCH = 8, 12.5
"""Of a legend in its font: what a sample of a line takes, what fits."""
NOTE_CHARACTERS = 115
"""Of small print, in one line of a single picture."""
BAR_ROOM = 0.8
DASHES = (0, (4, 2))
FILLS = ("full", "none", "left", "bottom")
"""How markers are filled, by the variant of a series."""
MOST_MARKED = 25
"""Points of a line up to which each one has a marker."""
STRETCH = "#e8edf2"


def draw_still(chart: Chart, colours: Mapping[str, str], markers: Mapping[str, str]) -> Canvas:
    """The chart as a matplotlib figure.

    Args:
        chart: what to draw.
        colours, markers: of each owner.
    """
    height = 1.3 + ROW_HEIGHT * len(chart.categories) * _rows_each(chart) if chart.sideways else HEIGHT
    note = textwrap.wrap(chart.note, NOTE_CHARACTERS)
    with styled():
        more = 0.2 * (_legend_rows([chart], WIDTH) - 1) + 0.14 * len(note)
        canvas, (axis,) = new_canvas(width=WIDTH, height=height + more)
        _panel(axis, chart, colours, markers)
        axis.set_xlabel(_axis_labels(chart)[0])
        axis.set_ylabel(_axis_labels(chart)[1])
        if note:
            canvas.supxlabel("\n".join(note), x=0.01, ha="left", fontsize=7.5, color=GREY)
        _legend(canvas, [chart])
    return canvas


def draw_panels(charts: Sequence[Chart]) -> Canvas:
    """Charts that share their axes as panels of one figure, each under its title, with one legend above.

    Args:
        charts: the panels, in rows of up to three.
    """
    colours, markers = palette(charts)
    if len(charts) == 1 and not charts[0].title:
        return draw_still(charts[0], colours, markers)
    columns = min(len(charts), 2 if len(charts) in (2, 4) else 3)
    rows, width = math.ceil(len(charts) / columns), PANEL_WIDTH[columns]
    with styled():
        legend = 0.2 * _legend_rows(charts, width)
        canvas, axes = new_canvas(rows, columns, width=width, height=0.8 + legend + PANEL_HEIGHT * rows)
        for k, axis in enumerate(axes):
            if k >= len(charts):
                axis.set_axis_off()
                continue
            if k:
                axis.sharex(axes[0])
                axis.sharey(axes[0])
            _panel(axis, charts[k], colours, markers)
            axis.tick_params(labelleft=k % columns == 0)
            axis.set_title("\n".join(shorten(line, 40) for line in charts[k].title.splitlines()), fontsize=9.5)
        x_label, y_label = _axis_labels(charts[0])
        canvas.supxlabel(x_label, fontsize=10)
        canvas.supylabel(y_label, fontsize=10)
        _legend(canvas, charts)
    return canvas


def still_files(canvas: Canvas) -> tuple[bytes, bytes]:
    """The picture as PNG and as SVG, the same bytes for the same picture."""
    with matplotlib.rc_context({"svg.hashsalt": "odin-rm", "svg.fonttype": "path"}):
        drawing = _picture(canvas, format="svg", metadata={"Date": None, "Creator": None})
    return png_bytes(canvas), drawing


def png_bytes(canvas: Canvas) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    return _picture(canvas, format="png", dpi=DPI, metadata={"Software": None})


def _picture(canvas: Canvas, **settings: Any) -> bytes:
    """The figure as a file, by the settings of matplotlib's ``savefig``.

    A character that the font lacks is drawn as a box. matplotlib's warning of it would say the character itself, which
    in a name may be one that moves a terminal's cursor.
    """
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*missing from font")
        canvas.savefig(stream, **settings)
    return stream.getvalue()


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit side by side; it is filled column by column.

    Args:
        labels: the entries.
        width: inches of the figure.
    """
    for columns in range(min(len(labels), LEGEND_COLUMNS), 1, -1):
        rows = -(-len(labels) // columns)
        parts = [labels[start : start + rows] for start in range(0, len(labels), rows)]
        if sum(max(map(len, part)) + HANDLE_CHARACTERS for part in parts) <= CHARACTERS_PER_INCH * width:
            return columns
    return 1


def _names(charts: Sequence[Chart]) -> list[str]:
    """The legend's entries; a star has its name beside it."""
    shown = [one for chart in charts for one in chart.series if not one.follows and not one.star]
    return list(dict.fromkeys(shorten(one.name, 40) for one in shown))


def _legend_rows(charts: Sequence[Chart], width: float) -> int:
    names = _names(charts)
    return -(-len(names) // legend_columns(names, width))


def _legend(canvas: Canvas, charts: Sequence[Chart]) -> None:
    """One legend above everything, where it covers no point; none for a single entry without panels."""
    names = _names(charts)
    if len(names) + len(charts) < 3:
        return
    handles: dict[str, object] = {}
    for axis in canvas.axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    columns = legend_columns(names, float(canvas.get_figwidth()))
    canvas.legend([handles[n] for n in names], names, loc="outside upper left", ncols=columns, fontsize=8.5)


def _rows_each(chart: Chart) -> float:
    """How much higher than one point a category is: its series stand below each other."""
    return max(1.0, 0.6 * len({one.owner for one in chart.series}))


def _panel(axis: Axes, chart: Chart, colours: Mapping[str, str], markers: Mapping[str, str]) -> None:
    for number, one in enumerate(chart.series):
        _draw(axis, chart, one, number, INK if one.star else colours[one.owner], markers[one.owner])
    _marks(axis, chart)
    _axes(axis, chart)


def _draw(axis: Axes, chart: Chart, one: Series, number: int, colour: str, marker: str) -> None:
    y = _column(one.y)
    sides = [_column(side) for side in (one.low, one.high)]
    x, width = _along(chart, one, number)
    label = None if one.follows or one.star else shorten(one.name, 40)
    if len(sides[0]) and one.band:
        step = "post" if one.style == "steps" else None
        axis.fill_between(x, *sides, color=colour, alpha=0.18, linewidth=0, step=step)
    elif len(sides[0]):
        _interval(axis, x, y, sides, INK if one.style == "bars" else colour, across=chart.sideways)
    if len(one.x_low):
        _interval(axis, y, x, [_column(side) for side in (one.x_low, one.x_high)], colour, across=True)
    if one.style == "bars":
        bar = axis.barh if chart.sideways else axis.bar
        bar(x, y, 0.92 * width, color=colour, label=label, alpha=0.5 if one.variant else 1.0)
        return
    across, up = (y, x) if chart.sideways else (x, y)
    look: dict[str, Any] = {"color": colour, "label": label, "zorder": 3}
    filling = {"fillstyle": FILLS[one.variant % len(FILLS)], "markerfacecoloralt": "white"}
    if one.style == "points":
        dense = len(x) > 60
        size, alpha = (3.0, 0.45) if dense else (11.0 if one.star else 6.0, 1.0)
        axis.plot(
            across, up, linestyle="none", marker=marker, markersize=size, alpha=alpha, rasterized=dense, **look,
            **filling,
        )  # fmt: skip
        if one.star:
            _name_beside(axis, chart, one)
        return
    if len(x) <= MOST_MARKED and one.style != "steps":
        look |= {"marker": marker, "markersize": 4} | filling
    axis.plot(
        across, up, linestyle=DASHES if one.variant else "-",
        drawstyle="steps-post" if one.style == "steps" else "default", **look,
    )  # fmt: skip


def _column(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _along(chart: Chart, one: Series, number: int) -> tuple[np.ndarray, float]:
    """Where points stand along the axis of ``x``, and the width of a bar: series share the room of a category."""
    categories = chart.categories
    if not categories:
        return np.array(one.x, dtype=np.float64), 0.0
    # Points of one owner stand on one another; bars beside each other.
    rows = list(dict.fromkeys(s.owner if chart.sideways and s.style == "points" else str(k)
                              for k, s in enumerate(chart.series)))  # fmt: skip
    own = one.owner if chart.sideways and one.style == "points" else str(number)
    width = (BAR_ROOM if one.style == "bars" else 0.5 if chart.sideways else 0.4) / len(rows)
    offset = (rows.index(own) - (len(rows) - 1) / 2) * width
    return np.array([categories.index(str(name)) for name in one.x], dtype=np.float64) + offset, width


def _interval(axis: Axes, x: np.ndarray, y: np.ndarray, sides: Sequence[np.ndarray], ink: str, *, across: bool) -> None:
    """Whiskers of ``y``, drawn from left to right where ``across``."""
    known = np.isfinite(y) & np.isfinite(sides[0]) & np.isfinite(sides[1])
    # The value can lie a hair outside a percentile interval; a negative bar is an error in matplotlib.
    error = np.maximum([y[known] - sides[0][known], sides[1][known] - y[known]], 0)
    style = {"fmt": "none", "ecolor": ink, "elinewidth": 1.3, "capsize": 2, "zorder": 4}
    if across:
        axis.errorbar(y[known], x[known], xerr=error, **style)
    else:
        axis.errorbar(x[known], y[known], yerr=error, **style)


def _name_beside(axis: Axes, chart: Chart, one: Series) -> None:
    """A star's name, on the side where there is room."""
    place = (float(one.x[-1]), one.y[-1])
    right = chart.on_the_right(place[0])
    axis.annotate(
        one.name, place, xytext=(-9 if right else 9, -4), textcoords="offset points", fontsize=8.5, color=INK,
        ha="right" if right else "left", zorder=5,
    )  # fmt: skip


def _marks(axis: Axes, chart: Chart) -> None:
    for mark in chart.marks:
        upright = (mark.axis == "x") != chart.sideways
        if mark.until is not None:
            (axis.axvspan if upright else axis.axhspan)(mark.at, mark.until, color=STRETCH, zorder=0)
        else:
            line = axis.axvline if upright else axis.axhline
            line(mark.at, color=GREY, linewidth=1.0, linestyle=DASHES, zorder=1)
        if not mark.label:
            continue
        where = {"xycoords": ("data", "axes fraction")} if upright else {"xycoords": ("axes fraction", "data")}
        place = (mark.at, 1.0) if upright else (1.0, mark.at)
        left = upright and mark.axis == "x" and not chart.on_the_right(mark.at)
        axis.annotate(
            mark.label, place, xytext=(3 if left else -3, -3 if upright else 3), textcoords="offset points",
            ha="left" if left else "right", va="top" if upright else "bottom", fontsize=8, color=GREY, **where,
        )  # fmt: skip


def _axis_labels(chart: Chart) -> tuple[str, str]:
    """Below and beside the picture."""
    return (chart.y_label, chart.x_label) if chart.sideways else (chart.x_label, chart.y_label)


def _axes(axis: Axes, chart: Chart) -> None:
    categories = chart.categories
    if categories and chart.sideways:
        axis.set_yticks(range(len(categories)), [shorten(name, 40) for name in categories])
        axis.set_ylim(len(categories) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
    elif categories:
        size = 9 if len(categories) <= 6 else 7.5
        axis.set_xticks(range(len(categories)), [textwrap.fill(name, 14) for name in categories], fontsize=size)
        axis.set_xlim(-0.6, len(categories) - 0.4)
        axis.grid(axis="x", visible=False)
    values = axis.xaxis if chart.sideways else axis.yaxis
    if chart.percent:
        values.set_major_formatter(PercentFormatter(1.0))
    elif chart.sideways:
        values.set_major_formatter(lambda value, _: f"{value:g}".replace("-", MINUS))
    if chart.x_range is not None:
        (axis.set_ylim if chart.sideways else axis.set_xlim)(*chart.x_range)
    if chart.y_range is not None:
        (axis.set_xlim if chart.sideways else axis.set_ylim)(*chart.y_range)

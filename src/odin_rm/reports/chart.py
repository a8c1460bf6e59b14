"""A figure as data: series with intervals, drawn once as a still picture and once to be zoomed and read point by point.

``chart_still`` draws it with matplotlib (PNG, SVG, paper), ``chart_live`` describes it to plotly (the page). Both show
the same points, and :func:`numbers_table` lists them for readers who see neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from odin_rm.evaluation.records import Figure
from odin_rm.reports.blocks import Table, format_number
from odin_rm.reports.style import BLACK, COLOURS, MARKERS, model_colours, shade

Style = Literal["line", "points", "steps", "bars"]
Item = TypeVar("Item")

MOST_POINTS = 1500
"""Points of a series that are drawn; more are thinned evenly."""
MOST_ROWS = 40
"""Rows of a series in the table of numbers."""


@dataclass(frozen=True)
class Series:
    """One line, cloud or row of bars.

    Attributes:
        name: in the legend.
        x: numbers, or names of categories (the same in every series of the chart).
        y: numbers; NaN and ``None`` leave a gap.
        low, high: 95 % interval of each point, ``None`` where a point has none; empty without intervals.
        words: what a point is, for hovering and reading aloud; empty takes the numbers alone.
        group: whose colour it has; empty stands for ``name``.
        style: how it is drawn.
        band: draw the interval as a band instead of bars.
        variant: tells series of one group apart: 0 solid, 1 dashed and hollow, 2 and 3 half filled.
        follows: belongs to the series before it: shown and hidden with it, without an entry in the legend.
        x_low, x_high: 95 % interval of each point along ``x``; empty without.
        place: from 0 to 1, on a scale of colours from dark to light, where the series have an order; ``None`` takes
            the colour of its group.
        star: a single thing to compare with, not one of the rivals: a star in the colour of the text, with its name
            beside it.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    words: Sequence[str] = ()
    group: str = ""
    style: Style = "line"
    band: bool = False
    variant: int = 0
    follows: bool = False
    x_low: Sequence[float | None] = ()
    x_high: Sequence[float | None] = ()
    place: float | None = None
    star: bool = False

    @property
    def owner(self) -> str:
        """Whose colour it has."""
        return self.group or self.name

    def figure(self, k: int) -> Figure:
        """Point ``k`` with its interval."""
        value = self.y[k]
        low, high = (side[k] if len(side) else None for side in (self.low, self.high))
        known = value is not None and math.isfinite(value)
        return Figure(value, low, high) if known else Figure(None)


@dataclass(frozen=True)
class Mark:
    """A straight line across the chart: chance, the optimum's length, an alarm; or a shaded stretch.

    Attributes:
        at: where, in the unit of its axis.
        label: what it is.
        axis: ``x`` or ``y``, whose value it marks.
        until: the other end of a stretch; ``None`` for a line.
    """

    at: float
    label: str
    axis: Literal["x", "y"] = "y"
    until: float | None = None


@dataclass(frozen=True)
class Chart:
    """A figure of the page, or a panel of one.

    Attributes:
        file: name of its files, without suffix.
        title: a heading, a few words.
        x_label, y_label: of the axes, with their units.
        series: what is shown.
        caption: what to see in it.
        alt: what a reader who cannot see it needs to know, with the numbers.
        percent: ``y`` is a share, shown in percent.
        digits: decimal places of ``y`` where it is read.
        marks: lines across it.
        sideways: categories stand below each other and values run from left to right, for many or long names.
        x_range, y_range: limits of the axes; ``None`` takes those of what is shown. Panels that compare share them.
        note: small print within the still picture, for what a reader without the caption would take for a fault.
    """

    file: str
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    caption: str
    alt: str
    percent: bool = False
    digits: int = 3
    marks: Sequence[Mark] = ()
    sideways: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    note: str = ""
    kind = "chart"

    @property
    def categories(self) -> list[str]:
        """The names along ``x`` in order of appearance; empty where ``x`` is a number."""
        return list(dict.fromkeys(x for one in self.series for x in one.x if isinstance(x, str)))

    def on_the_right(self, x: float) -> bool:
        """Whether ``x`` lies in the right half, so that a label beside it has room on its left."""
        known = [float(place) for one in self.series for place in one.x if not isinstance(place, str)]
        low, high = self.x_range or (min(known, default=x), max(known, default=x))
        return x > (low + high) / 2

    def point_words(self, one: Series, k: int) -> str:
        """Point ``k`` of a series as a line of text."""
        figure = one.figure(k)
        text = f"{one.name}: {self.y_words(figure.value)}"
        if figure.low is not None and figure.high is not None:
            text += f" ({self.y_words(figure.low)} to {self.y_words(figure.high)})"
        x = one.x[k]
        text += f" at {x}" if isinstance(x, str) else f" at {x_words(x)} ({self.x_label})"
        return f"{text}, {one.words[k]}" if len(one.words) else text

    def y_words(self, value: float | None) -> str:
        """A height as text."""
        return format_number(None if value is None else float(value), self.digits, self.percent)


def x_words(value: float) -> str:
    """A number of the ``x`` axis as text: whole numbers whole."""
    return format_number(int(value)) if float(value).is_integer() else format_number(value, 1)


def thin(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    step = (len(items) - 1) / max(1, most - 1)
    return [items[round(k * step)] for k in range(most)]


def thinned(one: Series, most: int = MOST_POINTS) -> Series:
    """The series with at most ``most`` points."""
    kept = thin(range(len(one.x)), most)
    columns = {name: getattr(one, name) for name in ("x", "y", "low", "high", "words", "x_low", "x_high")}
    picked: dict[str, Any] = {n: [column[k] for k in kept] if len(column) else () for n, column in columns.items()}
    return replace(one, **picked)


def numbers_table(chart: Chart) -> Table:
    """The points of a chart as a table, long series thinned."""
    rows = []
    shortened = False
    for one in chart.series:
        shown = thinned(one, MOST_ROWS)
        shortened |= len(shown.x) < len(one.x)
        for k, x in enumerate(shown.x):
            cells = [one.name, x if isinstance(x, str) else x_words(x), shown.figure(k)]
            rows.append([*cells, shown.words[k]] if len(shown.words) else cells)
    width = max((len(row) for row in rows), default=3)
    columns = ["Series", chart.x_label or "Item", chart.y_label, "Point"][:width]
    note = f"Long series are thinned to {MOST_ROWS} points here." if shortened else ""
    filled = [[*row, *[""] * (width - len(row))] for row in rows]
    percent = [chart.y_label] if chart.percent else []
    return Table(f"Numbers: {chart.title}", columns, filled, note, digits=chart.digits, percent=percent)


def palette(charts: Sequence[Chart]) -> tuple[dict[str, str], dict[str, str]]:
    """A colour and a marker for every owner, the same in all charts of a page.

    Two owners of one chart share a colour only where it has more owners than there are colours; then their markers
    differ.
    """
    together: dict[str, set[str]] = {}
    for chart in charts:
        names = list(dict.fromkeys(one.owner for one in chart.series))
        for name in names:
            together.setdefault(name, set()).update(names)
    apart = {one.owner: one for chart in charts for one in chart.series if one.star or one.place is not None}
    favourite = model_colours([name for name in together if name not in apart])
    colours = {name: BLACK if one.star else shade(one.place or 0.0) for name, one in apart.items()}
    markers = {name: "*" for name, one in apart.items() if one.star}
    for name, others in together.items():
        if name in markers:
            continue
        held = [other for other in others if other in markers]
        if name not in colours:
            taken = [colours[other] for other in held]
            colours[name] = min(COLOURS, key=lambda colour: (taken.count(colour), colour != favourite[name]))
        beside = [markers[other] for other in held]
        rivals = {markers[other] for other in held if colours[other] == colours[name]}
        markers[name] = min(MARKERS, key=lambda marker: (marker in rivals, beside.count(marker)))
    return colours, markers

"""A chart as plotly reads it. Names are escaped here: plotly takes a few tags in labels for markup.

Colours are given for light and for dark; ``report.js`` takes the one that fits and everything else of the theme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from odin_rm.evaluation.records import Figure
from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.reports.chart_still import MOST_MARKED
from odin_rm.reports.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW, shade

FEW_CATEGORIES = 4
# The palette is made for white paper; on a dark page its deep colours need more light.
ON_DARK = {
    BLUE: "#4aa8e0",
    VERMILION: "#f08445",
    GREEN: "#35c49a",
    PURPLE: "#dd97bd",
    ORANGE: ORANGE,
    SKY: SKY,
    YELLOW: YELLOW,
    GREY: "#a3acb7",
    BLACK: "#e6e8eb",
}
LONGEST_Y_LABEL = 36
VARIANTS = ("", "-open", "-dot", "-open-dot")
"""What follows a symbol's name, by the variant of a series."""
SYMBOLS = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x",
    "*": "star",
}  # fmt: skip


def describe_live(chart: Chart, colours: Mapping[str, str], markers: Mapping[str, str]) -> dict[str, Any]:
    """``data`` (traces) and ``layout`` for ``Plotly.newPlot``, and ``names``, the entries of the legend; for JSON.

    Each trace carries ``meta``: ``light`` and ``dark`` colour, ``entry`` (the number of its entry in the legend) and
    ``band`` (whether it is the interval of the next trace). ``customdata`` is each point in plain words.

    Args:
        chart: what to draw.
        colours, markers: of each owner.
    """
    traces: list[dict[str, Any]] = []
    names: list[str] = []
    for one in chart.series:
        if not (one.follows and names):
            names.append(one.name)
        light = colours[one.owner]
        dark = ON_DARK.get(light, light) if one.place is None else shade(one.place, dark=True)
        meta = {"light": light, "dark": dark, "entry": len(names) - 1, "band": False}
        if one.band and len(one.low):
            traces.append(_band(one, {**meta, "band": True}))
        traces.append(_trace(chart, one, meta, SYMBOLS[markers[one.owner]]))
    return {"data": traces, "layout": _layout(chart), "names": names}


def _trace(chart: Chart, one: Series, meta: dict[str, Any], symbol: str) -> dict[str, Any]:
    words = [chart.point_words(one, k) for k in range(len(one.x))]
    trace: dict[str, Any] = {
        "type": "bar" if one.style == "bars" else "scatter",
        "name": html.escape(one.name),
        "x": _clean(one.x),
        "y": _clean(one.y),
        "hoverinfo": "text",
        "text": [_folded(text) for text in words],
        "textposition": "none",
        "customdata": words,
        "meta": meta,
        "showlegend": False,
    }
    if len(one.low) and not one.band:
        trace["error_y"] = _whiskers([one.figure(k) for k in range(len(one.x))])
    if len(one.x_low):
        sides = zip(one.x, one.x_low, one.x_high, strict=True)
        trace["error_x"] = _whiskers([Figure(float(x), low, high) for x, low, high in sides])
    if chart.sideways:
        trace["x"], trace["y"] = trace["y"], trace["x"]
        trace |= {"error_x": trace.pop("error_y")} if "error_y" in trace else {}
        # Series of one owner stand on one another; else plotly gives each one a row of its own.
        trace |= {"orientation": "h", "offsetgroup": html.escape(one.owner)}
    if one.style == "bars":
        trace |= {"opacity": 0.5 if one.variant else 1.0}
        return trace
    del trace["textposition"]
    dense = len(one.x) > 60
    lines = one.style != "points"
    marked = len(one.x) <= MOST_MARKED and one.style != "steps"
    trace["mode"] = "markers" if not lines else "lines+markers" if marked else "lines"
    trace["line"] = {"width": 2, "dash": "dash" if one.variant else "solid"}
    trace["line"] |= {"shape": "hv"} if one.style == "steps" else {}
    size = 6 if lines else 5 if dense else 13 if one.star else 9
    trace["marker"] = {"symbol": symbol + VARIANTS[one.variant % len(VARIANTS)], "size": size}
    if dense and not lines:
        trace["marker"]["opacity"] = 0.55
    return trace


def _band(one: Series, meta: dict[str, Any]) -> dict[str, Any]:
    """The interval as one closed shape: along the lower side, and back along the upper one."""
    x, low, high = _clean(one.x), _clean(one.low), _clean(one.high)
    if one.style == "steps":
        x, low, high = _steps(x), _stepped(low), _stepped(high)
    known = [k for k in range(len(x)) if low[k] is not None and high[k] is not None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": html.escape(one.name),
        "x": [x[k] for k in known] + [x[k] for k in reversed(known)],
        "y": [low[k] for k in known] + [high[k] for k in reversed(known)],
        "fill": "toself",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "meta": meta,
        "showlegend": False,
    }


def _steps(x: list[Any]) -> list[Any]:
    return [value for k in range(len(x)) for value in ((x[k], x[k + 1]) if k + 1 < len(x) else (x[k],))]


def _stepped(y: list[Any]) -> list[Any]:
    return [value for k in range(len(y)) for value in ((y[k], y[k]) if k + 1 < len(y) else (y[k],))]


def _layout(chart: Chart) -> dict[str, Any]:
    x_axis: dict[str, Any] = {"title": {"text": html.escape(chart.x_label)}, "automargin": True}
    y_axis: dict[str, Any] = {"title": {"text": _folded(chart.y_label, LONGEST_Y_LABEL)}, "automargin": True}
    layout: dict[str, Any] = {"margin": {"l": 10, "r": 14, "t": 12, "b": 10}, "hovermode": "closest"}
    layout |= {"showlegend": False, "barmode": "group", "uirevision": "kept", "dragmode": "zoom"}
    if chart.categories:
        few = len(chart.categories) <= FEW_CATEGORIES
        wide = 20 if chart.sideways else 14 if few else 9
        names = [html.escape(c) for c in chart.categories]
        x_axis |= {"type": "category", "categoryarray": names, "tickvals": names, "tickfont": {"size": 11}}
        x_axis["ticktext"] = [_folded(c, wide) for c in chart.categories]
        layout |= {"scattermode": "group", "scattergap": 0.5}
    else:
        x_axis["zeroline"] = False
    if chart.percent:
        y_axis["tickformat"] = ".0%"
    for axis, limits in ((x_axis, chart.x_range), (y_axis, chart.y_range)):
        axis |= {} if limits is None else {"range": list(limits)}
    if chart.sideways:
        x_axis |= {} if chart.x_range else {"autorange": "reversed"}
        owners = len({one.owner for one in chart.series})
        layout["height"] = 90 + len(chart.categories) * (14 + 12 * owners)
        x_axis, y_axis = y_axis, x_axis
    layout |= {"xaxis": x_axis, "yaxis": y_axis}
    layout["shapes"] = [_shape(mark, upright=(mark.axis == "x") != chart.sideways) for mark in chart.marks]
    notes = [_note(chart, mark) for mark in chart.marks if mark.label]
    return layout | {"annotations": [*notes, *(_star_name(chart, one) for one in chart.series if one.star)]}


def _shape(mark: Mark, *, upright: bool) -> dict[str, Any]:
    own, other = ("x", "y") if upright else ("y", "x")
    until = mark.at if mark.until is None else mark.until
    shape = {f"{own}ref": own, f"{other}ref": "paper", f"{own}0": mark.at, f"{own}1": until, f"{other}0": 0,
             f"{other}1": 1}  # fmt: skip
    if mark.until is None:
        return {"type": "line", "line": {"width": 1.5, "dash": "dash"}, "layer": "below", **shape}
    return {"type": "rect", "line": {"width": 0}, "opacity": 0.13, "layer": "below", **shape}


def _note(chart: Chart, mark: Mark) -> dict[str, Any]:
    place = {"x": 1, "y": mark.at, "xref": "paper", "yref": "y", "xanchor": "right", "yanchor": "bottom"}
    if (mark.axis == "x") != chart.sideways:
        place = {"x": mark.at, "y": 1, "xref": "x", "yref": "paper", "xanchor": "right", "yanchor": "top"}
        place |= {} if chart.sideways or chart.on_the_right(mark.at) else {"xanchor": "left"}
    return {"text": html.escape(mark.label), "showarrow": False, "font": {"size": 11}, **place}


def _star_name(chart: Chart, one: Series) -> dict[str, Any]:
    side = {"xanchor": "left", "xshift": 9}
    if chart.on_the_right(float(one.x[-1])):
        side = {"xanchor": "right", "xshift": -9}
    place = {"x": _clean(one.x)[-1], "y": _clean(one.y)[-1], **side}
    return {"text": html.escape(one.name), "showarrow": False, "font": {"size": 11}, **place}


def _whiskers(figures: Sequence[Figure]) -> dict[str, Any]:
    arms = [_arms(figure) for figure in figures]
    up, down = [arm[0] for arm in arms], [arm[1] for arm in arms]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.4, "width": 3}


def _arms(figure: Figure) -> tuple[float | None, float | None]:
    if figure.value is None or figure.low is None or figure.high is None:
        return None, None
    return max(0.0, figure.high - figure.value), max(0.0, figure.value - figure.low)


def _clean(values: Any) -> list[Any]:
    """Values for JSON: escaped names, ``None`` for what is no number."""
    out: list[Any] = []
    for value in values:
        if isinstance(value, str):
            out.append(html.escape(value))
        else:
            out.append(None if value is None or not math.isfinite(value) else round(float(value), 9))
    return out


def _folded(text: str, longest: int = 46) -> str:
    """Escaped, with line breaks, so that a long label does not leave the figure."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + len(word) >= longest:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "<br>".join(html.escape(part) for part in [*lines, line])

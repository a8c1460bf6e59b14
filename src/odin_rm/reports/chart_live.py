"""A chart as plotly reads it. Names are escaped here: plotly takes a few tags in labels for markup.

Colours are given for light and for dark; ``report.js`` takes the one that fits and everything else of the theme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

from odin_rm.reports.chart import Chart, Series
from odin_rm.reports.chart_still import MOST_MARKED
from odin_rm.reports.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW

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
        meta: dict[str, Any] = {
            "light": colours[one.owner],
            "dark": ON_DARK.get(colours[one.owner], colours[one.owner]),
        }
        meta |= {"entry": len(names) - 1, "band": False}
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
        up, down = zip(*(_arms(one, k) for k in range(len(one.x))), strict=True) if len(one.x) else ((), ())
        trace["error_y"] = {"type": "data", "symmetric": False, "array": list(up), "arrayminus": list(down),
                            "thickness": 1.4, "width": 3}  # fmt: skip
    if one.style == "bars":
        trace |= {"opacity": 0.5 if one.second else 1.0}
        return trace
    del trace["textposition"]
    dense = len(one.x) > 60
    lines = one.style != "points"
    marked = len(one.x) <= MOST_MARKED and one.style != "steps"
    trace["mode"] = "markers" if not lines else "lines+markers" if marked else "lines"
    trace["line"] = {"width": 2, "dash": "dash" if one.second else "solid"}
    trace["line"] |= {"shape": "hv"} if one.style == "steps" else {}
    trace["marker"] = {"symbol": f"{symbol}-open" if one.second else symbol, "size": 6 if lines else 5 if dense else 9}
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
    y_axis: dict[str, Any] = {"title": {"text": html.escape(chart.y_label)}, "automargin": True}
    if chart.categories:
        wide = 14 if len(chart.categories) <= FEW_CATEGORIES else 9
        x_axis |= {"type": "category", "categoryarray": [html.escape(c) for c in chart.categories]}
        x_axis |= {"tickvals": x_axis["categoryarray"], "ticktext": [_folded(c, wide) for c in chart.categories]}
        x_axis["tickfont"] = {"size": 11}
        layout_mode = {"scattermode": "group", "scattergap": 0.5}
    else:
        layout_mode = {}
        x_axis["zeroline"] = False
    if chart.percent:
        y_axis["tickformat"] = ".0%"
    shapes, notes = [], []
    for mark in chart.marks:
        vertical = mark.axis == "x"
        span = {"xref": "x", "yref": "paper", "x0": mark.at, "x1": mark.at, "y0": 0, "y1": 1}
        if not vertical:
            span = {"xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": mark.at, "y1": mark.at}
        shapes.append({"type": "line", "line": {"width": 1.5, "dash": "dash"}, **span})
        place = {"x": mark.at, "y": 1, "xref": "x", "yref": "paper", "xanchor": "right", "yanchor": "top"}
        if not vertical:
            place = {"x": 1, "y": mark.at, "xref": "paper", "yref": "y", "xanchor": "right", "yanchor": "bottom"}
        if mark.label:
            notes.append({"text": html.escape(mark.label), "showarrow": False, "font": {"size": 11}, **place})
    layout: dict[str, Any] = {"xaxis": x_axis, "yaxis": y_axis, "shapes": shapes, "annotations": notes}
    layout |= {"margin": {"l": 10, "r": 14, "t": 12, "b": 10}, "hovermode": "closest", "showlegend": False}
    layout |= {"barmode": "group", "uirevision": "kept", "dragmode": "zoom"}
    return layout | layout_mode


def _arms(one: Series, k: int) -> tuple[float | None, float | None]:
    figure = one.figure(k)
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

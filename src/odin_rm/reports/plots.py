"""The audit's figures. Each function takes audit results and returns a matplotlib figure; nothing here writes files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from odin_rm.evaluation.audit import CORRELATIONS, AuditResult
from odin_rm.evaluation.records import Figure, ScoredPreferences
from odin_rm.reports.page import MINUS, format_number
from odin_rm.reports.style import FAINT, GREY, INK, model_colours, model_markers, new_canvas, styled

HEXBIN_FROM = 2500
CORRELATION_NAMES = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "kendall": "Kendall τ-b",
    "pearson_within_prompt": "Pearson\nwithin a prompt",
}
ACCURACY_NAMES = {
    "accuracy": "all pairs",
    "accuracy_chosen_longer": "chosen is\nlonger",
    "accuracy_chosen_shorter": "chosen is\nshorter",
    "accuracy_length_balanced": "balanced\n(mean of the two)",
    "accuracy_length_matched": "lengths\nwithin 10 %",
}
NEAR_ZERO = 0.05


def reward_against_length(
    results: Sequence[AuditResult], scored: Sequence[ScoredPreferences | None] | None = None
) -> Canvas:
    """Reward against length, one panel per model and head: the points, the trend over length and its interval.

    Rewards are in deviations of their own head, so that panels compare. Without ``scored`` a panel shows
    the trend only.

    Args:
        results: the audits.
        scored: the scored sets behind them, in the same order.
    """
    points = list(scored) if scored is not None else [None] * len(results)
    colours = model_colours([r.name for r in results])
    panels, columns = _panel_grid(results)
    rows = len(panels) // columns
    with styled():
        width = {1: 6.4, 2: 8.6}.get(columns, 11.0)
        canvas, axes = new_canvas(rows, columns, width=width, height=0.5 + 3.1 * rows)
        ranges = _shared_ranges(results, points)
        for axis, (k, head) in zip(axes, panels, strict=True):
            if not head:
                axis.set_axis_off()
                continue
            _scatter_panel(axis, results[k], points[k], head, colours[results[k].name], ranges)
        canvas.supylabel("reward, in deviations of the head", fontsize=10)
        canvas.supxlabel(f"length ({results[0].length_unit})", fontsize=10)
    return canvas


def _panel_grid(results: Sequence[AuditResult]) -> tuple[list[tuple[int, str]], int]:
    """Panels ``(model, head)`` row by row, an empty head for an empty place, and the number of columns.

    Up to three panels stand in one row; else a model's heads stand below each other.
    """
    there = [(k, head) for k, r in enumerate(results) for head in ("quality", *(["length"] if r.length_head else []))]
    if len(there) <= 3:
        return list(there), len(there)
    columns = min(len(results), 3)
    grid: list[tuple[int, str]] = []
    for start in range(0, len(results), columns):
        for head in ("quality", "length"):
            row = [(k, head if (k, head) in there else "") for k in range(start, start + columns)]
            grid += row if any(name for _, name in row) else []
    return grid, columns


def _shared_ranges(
    results: Sequence[AuditResult], points: Sequence[ScoredPreferences | None]
) -> tuple[float, float] | None:
    """Length limits that hold 99.5 % of all points, so that a few giants do not squeeze the rest."""
    lengths = [np.asarray(p.response_tokens, dtype=np.float64) for p in points if p is not None]
    means = [row["length"] for r in results for rows in r.trend.values() for row in rows]
    low = min([float(x.min()) for x in lengths] + means, default=0.0)
    high = max([float(np.quantile(x, 0.995)) for x in lengths] + means, default=1.0)
    if high <= low:
        return None
    pad = 0.03 * (high - low)
    return low - pad, high + pad


def _scatter_panel(
    axis: Axes,
    result: AuditResult,
    points: ScoredPreferences | None,
    head: str,
    colour: str,
    ranges: tuple[float, float] | None,
) -> None:
    values = None if points is None else (points.quality if head == "quality" else points.length_reward)
    length_R = value_R = np.zeros(0)
    if points is not None and values is not None and np.std(values) > 0:
        length_R, value_R = points.response_tokens, values
    scatter_with_trend(axis, length_R, value_R, result.trend.get(head, []), colour, ranges)
    figure = result["pearson"] if head == "quality" else (result.length_head or {}).get("pearson", Figure(None))
    axis.set_title(f"{shorten(result.name)}\n{head} head, {correlation_words(figure)}", color=INK, fontsize=9.5)


def scatter_with_trend(
    axis: Axes,
    length_R: np.ndarray,
    value_R: np.ndarray,
    trend: Sequence[Mapping[str, Any]],
    colour: str,
    ranges: tuple[float, float] | None,
) -> None:
    """Rewards in deviations against lengths, with the trend over length and its interval.

    Args:
        axis: where.
        length_R, value_R: ``(R,)`` lengths and rewards; empty to show the trend alone.
        trend: rows of ``length``, ``value``, ``low`` and ``high``, as ``reward_trend`` makes them.
        colour: of the trend.
        ranges: limits of the length axis.
    """
    if len(value_R):
        x, y = np.asarray(length_R, dtype=np.float64), (value_R - np.mean(value_R)) / np.std(value_R)
        if len(x) >= HEXBIN_FROM:
            extent = None if ranges is None else (*ranges, -3.6, 3.6)
            axis.hexbin(x, y, gridsize=38, bins="log", cmap="Greys", mincnt=1, linewidths=0, extent=extent, alpha=0.75)
        else:
            alpha = float(np.clip(150 / len(x), 0.15, 0.6))
            axis.scatter(x, y, s=9, color=GREY, alpha=alpha, linewidths=0)
    with_interval = [row for row in trend if row.get("low") is not None and row.get("high") is not None]
    if with_interval:
        bounds = ([row[side] for row in with_interval] for side in ("low", "high"))
        axis.fill_between([row["length"] for row in with_interval], *bounds, color=colour, alpha=0.28, linewidth=0)
    length = [row["length"] for row in trend]
    axis.plot(length, [row["value"] for row in trend], color=colour, marker="o", markersize=4, zorder=3)
    axis.axhline(0, color=INK, linewidth=0.8, zorder=1)
    axis.set_ylim(-3.4, 3.4)
    if ranges is not None:
        axis.set_xlim(*ranges)


def correlation_words(figure: Figure) -> str:
    """``r = 0.52 [0.49, 0.55]``, or that it is undefined."""
    if figure.value is None:
        return "r undefined"
    text = f"r = {format_number(figure.value, 2)}"
    if figure.low is not None and figure.high is not None:
        text += f" [{format_number(figure.low, 2)}, {format_number(figure.high, 2)}]"
    return text


def shorten(name: str, longest: int = 28) -> str:
    """A model's name short enough for a label; its middle goes, since the end often tells versions apart."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def accuracy_by_length_difference(results: Sequence[AuditResult]) -> Canvas:
    """Accuracy in each bin of the relative length difference, beside what picking the longer response would get.

    Args:
        results: audits of one dataset.
    """
    bins = results[0].length_bins
    place = np.arange(len(bins))
    names = [r.name for r in results]
    colours, markers = model_colours(names), model_markers(names)
    with styled():
        canvas, (axis,) = new_canvas(width=8.6, height=4.6)
        baseline = [(k, row["longer_response_baseline_accuracy"]["value"]) for k, row in enumerate(bins)]
        known = [(k, value) for k, value in baseline if value is not None]
        axis.plot(
            [k for k, _ in known], [v for _, v in known], color=GREY, linestyle=(0, (4, 2)), drawstyle="steps-mid",
            label="pick the longer response", zorder=1,
        )  # fmt: skip
        axis.axhline(0.5, color=INK, linewidth=0.8, zorder=1)
        for offset, result in zip(_dodge(len(results), 0.5), results, strict=True):
            figures = [_figure(row["accuracy"]) for row in result.length_bins]
            style: dict[str, Any] = {
                "color": colours[result.name],
                "marker": markers[result.name],
                "label": shorten(result.name),
            }
            _points_with_intervals(axis, place + offset, figures, line=True, **style)
        axis.set_xticks(place, [f"{_two_lines(row['label'])}\nn = {row['pairs']:,}" for row in bins], fontsize=8.5)
        axis.set_xlabel("the chosen response against the rejected one (share of the longer length)")
        axis.set_ylabel("accuracy")
        axis.set_ylim(-0.03, 1.03)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(axis="x", visible=False)
        _legend_above(axis, len(results) + 1)
    return canvas


def correlations_side_by_side(results: Sequence[AuditResult]) -> Canvas:
    """The correlations of quality with length, models side by side, with the band of 0.05 around zero.

    Args:
        results: the audits.
    """
    names = [r.name for r in results]
    colours, markers = model_colours(names), model_markers(names)
    place = np.arange(len(CORRELATIONS))[::-1]
    with styled():
        canvas, (axis,) = new_canvas(width=8.6, height=1.5 + 0.27 * len(CORRELATIONS) * max(2, len(results)))
        axis.axvspan(-NEAR_ZERO, NEAR_ZERO, color="#e8edf2", zorder=0, label=f"within {NEAR_ZERO} of zero")
        axis.axvline(0, color=INK, linewidth=1.0, zorder=1)
        for offset, result in zip(_dodge(len(results), 0.62)[::-1], results, strict=True):
            figures = [result[name] for name in CORRELATIONS]
            style: dict[str, Any] = {
                "color": colours[result.name],
                "marker": markers[result.name],
                "label": shorten(result.name),
            }
            _points_with_intervals(axis, place + offset, figures, horizontal=True, **style)
            for y, figure in zip(place + offset, figures, strict=True):
                if figure.value is not None:
                    edge = figure.value if figure.high is None else figure.high
                    axis.annotate(
                        format_number(figure.value, 2), (edge, y), xytext=(6, 0), textcoords="offset points",
                        va="center", fontsize=8.5, color=INK,
                    )  # fmt: skip
        axis.set_yticks(place, [CORRELATION_NAMES[name] for name in CORRELATIONS])
        axis.set_ylim(-0.6, len(CORRELATIONS) - 0.4)
        low, high = axis.get_xlim()
        axis.set_xlim(min(low, -0.2), min(1.15, max(high, 0.2) + 0.08 * (high - low)))
        axis.set_xlabel(f"correlation of the quality reward with length ({results[0].length_unit})")
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.1f}".replace("-", MINUS))
        _legend_above(axis, len(results) + 1)
    return canvas


def accuracy_decomposition(results: Sequence[AuditResult]) -> Canvas:
    """Accuracy on all pairs, where the chosen is longer or shorter, balanced, and at equal length, per model.

    Args:
        results: the audits.
    """
    names = [r.name for r in results]
    colours = model_colours(names)
    place = np.arange(len(ACCURACY_NAMES))
    width = 0.8 / len(results)
    with styled():
        canvas, (axis,) = new_canvas(width=min(12.0, max(8.6, 3.4 * len(results))), height=4.4)
        for offset, result in zip(_dodge(len(results), 0.8), results, strict=True):
            figures = [result[name] for name in ACCURACY_NAMES]
            heights = [np.nan if f.value is None else f.value for f in figures]
            axis.bar(place + offset, heights, width * 0.92, color=colours[result.name], label=shorten(result.name))
            _points_with_intervals(axis, place + offset, figures, color=INK, marker="", capsize=2)
            for x, figure in zip(place + offset, figures, strict=True):
                top = 0.0 if figure.value is None else max(figure.value, figure.high or 0.0)
                text = "none" if figure.value is None else f"{100 * figure.value:.1f}"
                axis.annotate(
                    text, (x, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8.5, color=INK
                )
        axis.axhline(0.5, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=3, label="chance")
        axis.set_xticks(place, list(ACCURACY_NAMES.values()), fontsize=9)
        axis.set_ylabel("accuracy")
        axis.set_ylim(0, 1.08)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(axis="x", visible=False)
        _legend_above(axis, len(results) + 1)
    return canvas


def _figure(content: dict[str, Any]) -> Figure:
    return Figure(content["value"], content.get("low"), content.get("high"), content.get("why"))


def _style(name: str, colours: dict[str, str], markers: dict[str, str]) -> dict[str, Any]:
    return {"color": colours[name], "marker": markers[name], "label": shorten(name)}


def _dodge(count: int, room: float) -> np.ndarray:
    """Offsets that put ``count`` marks side by side within ``room``."""
    return (np.arange(count) - (count - 1) / 2) * (room / count)


def _two_lines(label: str) -> str:
    return label.replace(" ", "\n", 1).replace("-", "\N{EN DASH}").replace("%", " %")


def _points_with_intervals(
    axis: Axes,
    place: np.ndarray,
    figures: Sequence[Figure],
    *,
    horizontal: bool = False,
    line: bool = False,
    capsize: float = 0,
    **style: Any,
) -> None:
    """Points with interval bars; undefined figures are left out."""
    kept = [(float(p), f) for p, f in zip(place, figures, strict=True) if f.value is not None]
    where = np.array([p for p, _ in kept])
    value = np.array([f.value for _, f in kept], dtype=np.float64)
    low = np.array([f.value if f.low is None else f.low for _, f in kept], dtype=np.float64)
    high = np.array([f.value if f.high is None else f.high for _, f in kept], dtype=np.float64)
    # The value can lie a hair outside a percentile interval; a negative bar is an error in matplotlib.
    error = np.stack([np.maximum(value - low, 0), np.maximum(high - value, 0)]) if len(kept) else None
    draw: Callable[..., Any] = axis.errorbar
    options = {"linestyle": "-" if line else "none", "elinewidth": 1.4, "markersize": 6, "zorder": 4, **style}
    if horizontal:
        draw(value, where, xerr=error, capsize=capsize, **options)
    else:
        draw(where, value, yerr=error, capsize=capsize, **options)


def _legend_above(axis: Axes, entries: int) -> None:
    # Above the axes, where it cannot cover a point.
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=min(entries, 4), borderaxespad=0.2, fontsize=9)
    axis.set_facecolor("white")
    axis.spines["bottom"].set_color(FAINT)

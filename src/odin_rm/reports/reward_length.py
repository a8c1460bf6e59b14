"""Reward against length: a panel per reward model and head, from scored responses or from an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from odin_rm.core.errors import DataError
from odin_rm.evaluation.bootstrap import PromptBootstrap, pearson_statistic
from odin_rm.evaluation.records import Figure
from odin_rm.evaluation.trend import reward_trend
from odin_rm.reports.audit_charts import correlation_words
from odin_rm.reports.blocks import format_number
from odin_rm.reports.fronts import Drawing, panel_grid
from odin_rm.reports.style import GREY, INK, model_colours, shorten, styled

HEXBIN_FROM = 2500


@dataclass(frozen=True)
class HeadScores:
    """What one head of one reward model says of responses.

    Attributes:
        model: the model's name.
        head: ``quality`` or ``length``.
        length_R: ``(R,)`` lengths of the responses.
        value_R: ``(R,)`` rewards.
        prompt_R: ``(R,)`` prompt of each response, any integers or strings; without it each response has its own.
        trend, pearson: of an audit whose responses are not at hand; both arrays are then empty.
    """

    model: str
    head: str
    length_R: np.ndarray
    value_R: np.ndarray
    prompt_R: np.ndarray | None = None
    trend: Sequence[Mapping[str, Any]] | None = None
    pearson: Figure | None = None


def draw_reward_against_length(
    heads: Sequence[HeadScores], *, length_label: str = "response tokens", samples: int = 200, seed: int = 0
) -> Drawing:
    """Reward against length, a panel per model and head: the responses and the trend over length with its interval.

    Rewards are in deviations of their own head, so that panels compare.

    Args:
        heads: the scores.
        length_label: of the length axis.
        samples, seed: of the trend's intervals, over prompts.

    Raises:
        DataError: there is nothing to draw, or a head's rewards are not finite or all equal.
    """
    if not heads:
        raise DataError("there are no scored responses to draw")
    colours = model_colours(list(dict.fromkeys(head.model for head in heads)))
    rows = [_head_data(head, samples, seed) for head in heads]
    # 99.5 % of the responses, so that a few giants do not squeeze the rest.
    sides = [np.quantile(head.length_R, [0.0, 0.995]) for head in heads if len(head.length_R)]
    means = [place["length"] for row in rows for place in row["trend"]]
    shortest, longest = min([*means, *(s[0] for s in sides)]), max([*means, *(s[1] for s in sides)])
    pad = 0.03 * max(longest - shortest, 1.0)
    data: dict[str, Any] = {"length": length_label, "panels": []}
    with styled():
        canvas, axes = panel_grid(len(heads), height=3.1)
        for axis, head, row in zip(axes, heads, rows, strict=False):
            _scatter_with_trend(
                axis, head.length_R, head.value_R, row["trend"], colours[head.model], (shortest - pad, longest + pad)
            )
            title = f"{shorten(head.model)}\n{head.head} head, {correlation_words(row['pearson'])}"
            axis.set_title(title, color=INK, fontsize=9.5)
            data["panels"].append(row | {"pearson": row["pearson"].to_json()})
        canvas.supxlabel(length_label, fontsize=10)
        canvas.supylabel("reward, in deviations of the head", fontsize=10)
    words = "; ".join(
        f"{row['model']}, {row['head']} head: r = {format_number(row['pearson']['value'], 2)}" for row in data["panels"]
    )
    return Drawing(canvas, data, f"Reward against {length_label} by head. Pearson correlation: {words}.")


def _head_data(head: HeadScores, samples: int, seed: int) -> dict[str, Any]:
    if head.trend is not None:
        pearson = head.pearson or Figure(None)
        return {"model": head.model, "head": head.head, "responses": None, "pearson": pearson, "trend": head.trend}
    length_R, value_R = (np.asarray(x, np.float64) for x in (head.length_R, head.value_R))
    where = f"{head.model}, {head.head} head"
    if len(length_R) < 2 or length_R.shape != value_R.shape or not np.isfinite([length_R, value_R]).all():
        raise DataError("needs two responses or more, each with a finite length and reward", where=where)
    if np.ptp(value_R) == 0 or np.ptp(length_R) == 0:
        raise DataError("all rewards or all lengths are equal: there is no trend to show", where=where)
    prompt_R = np.arange(len(length_R)) if head.prompt_R is None else np.unique(head.prompt_R, return_inverse=True)[1]
    bootstrap = PromptBootstrap(prompt_R, samples, seed)
    value = Figure(float(np.corrcoef(value_R, length_R)[0, 1]))
    statistic = pearson_statistic(value_R, length_R, prompt_R, bootstrap.prompts)
    return {
        "model": head.model,
        "head": head.head,
        "responses": len(length_R),
        "pearson": bootstrap.intervals({"r": value}, {"r": statistic})["r"],
        "trend": reward_trend(value_R, length_R, bootstrap),
    }


def _scatter_with_trend(
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

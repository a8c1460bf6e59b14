"""Reward against length: a panel per reward model and head, from scored responses or from an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.evaluation.bootstrap import PromptBootstrap, pearson_statistic
from odin_rm.evaluation.records import Figure
from odin_rm.evaluation.trend import reward_trend
from odin_rm.reports.audit_charts import CLOUD_POINTS, SHOWN, correlation_words
from odin_rm.reports.blocks import format_number
from odin_rm.reports.chart import Chart, Mark, Series, thin
from odin_rm.reports.fronts import Panels

DEVIATIONS = 3.4
"""Half of the height of a panel, in deviations of the head."""


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


def reward_against_length(
    heads: Sequence[HeadScores],
    *,
    length_label: str = "response tokens",
    samples: int = 200,
    seed: int = 0,
    file: str = "heads",
    caption: str = "",
) -> Panels:
    """Reward against length, a panel per model and head: the responses and the trend over length with its interval.

    Rewards are in deviations of their own head, so that panels compare.

    Args:
        heads: the scores.
        length_label: of the length axis.
        samples, seed: of the trend's intervals, over prompts.
        file, caption: of the charts; the number of its panel follows the name of each.

    Raises:
        DataError: there is nothing to draw, or a head's rewards are not finite or all equal.
    """
    if not heads:
        raise DataError("there are no scored responses to draw")
    rows = [_head_data(head, samples, seed) for head in heads]
    # A share of the responses, so that a few giants do not squeeze the rest.
    sides = [np.quantile(head.length_R, [0.0, SHOWN]) for head in heads if len(head.length_R)]
    means = [place["length"] for row in rows for place in row["trend"]]
    shortest, longest = min([*means, *(s[0] for s in sides)]), max([*means, *(s[1] for s in sides)])
    pad = 0.03 * max(longest - shortest, 1.0)
    charts = []
    for k, (head, row) in enumerate(zip(heads, rows, strict=True)):
        said = f"{head.head} head, {correlation_words(row['pearson'])}"
        charts.append(
            Chart(
                f"{file}_{k + 1}", f"{head.model}\n{said}", length_label, "reward, in deviations of the head",
                [*_cloud(head), _trend(head, row["trend"])], caption, f"{head.model}, {said}.", digits=2,
                marks=(Mark(0.0, ""),), x_range=(shortest - pad, longest + pad), y_range=(-DEVIATIONS, DEVIATIONS),
            )
        )  # fmt: skip
    panels = [row | {"pearson": row["pearson"].to_json()} for row in rows]
    words = "; ".join(
        f"{row['model']}, {row['head']} head: r = {format_number(row['pearson']['value'], 2)}" for row in panels
    )
    alt = f"Reward against {length_label} by head. Pearson correlation: {words}."
    return Panels(charts, {"length": length_label, "panels": panels}, alt)


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


def _cloud(head: HeadScores) -> list[Series]:
    """An even part of the responses; none where an audit gives the trend alone."""
    if not len(head.value_R):
        return []
    value_R, length_R = (np.asarray(x, dtype=np.float64) for x in (head.value_R, head.length_R))
    deviation_R = (value_R - np.mean(value_R)) / np.std(value_R)
    shown = thin(range(len(value_R)), CLOUD_POINTS)
    return [Series(head.model, length_R[shown].tolist(), deviation_R[shown].tolist(), style="points")]


def _trend(head: HeadScores, trend: Sequence[Mapping[str, Any]]) -> Series:
    sides: dict[str, Any] = {side: [row.get(side) for row in trend] for side in ("low", "high")}
    x, y = [row["length"] for row in trend], [row["value"] for row in trend]
    # Belongs to the cloud where there is one.
    name, follows = (f"{head.model}, mean", True) if len(head.value_R) else (head.model, False)
    return Series(name, x, y, band=True, group=head.model, follows=follows, **sides)

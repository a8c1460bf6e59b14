"""An audit's figures as data: reward over length, correlations, accuracy by part and by length difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure, ScoredPreferences
from odin_rm.reports.blocks import format_number
from odin_rm.reports.chart import Chart, Mark, Series, thin

FIGURES = {
    "accuracy": ("Accuracy", True),
    "accuracy_chosen_longer": ("Accuracy where the chosen is longer", True),
    "accuracy_chosen_shorter": ("Accuracy where the chosen is shorter", True),
    "accuracy_length_balanced": ("Accuracy, length-balanced", True),
    "accuracy_length_matched": ("Accuracy, lengths within 10 %", True),
    "longer_response_baseline_accuracy": ("Accuracy of picking the longer response", True),
    "pearson": ("Pearson with length", False),
    "spearman": ("Spearman with length", False),
    "kendall": ("Kendall τ-b with length", False),
    "pearson_within_prompt": ("Pearson with length within a prompt", False),
    "information_beyond_length": ("Information beyond length (bits per pair)", False),
    "information_beyond_length_curve": ("Information beyond a curve of length (bits)", False),
    "true_quality_agreement": ("Agreement with the true quality", True),
    "true_quality_spearman": ("Spearman with the true quality", False),
    "verbosity_twins_longer_wins": ("Verbosity twins won by the wordier one", True),
    "between_prompt_share": ("Share of the reward's variance between prompts", True),
    "style_share": ("Share within prompts that all attributes explain", True),
}
"""Figures of an audit in the order of its table: words for people, and whether it is a share."""
CORRELATION_NAMES = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "kendall": "Kendall τ-b",
    "pearson_within_prompt": "Pearson within a prompt",
}
ACCURACY_NAMES = {
    "accuracy": "all pairs",
    "accuracy_chosen_longer": "chosen is longer",
    "accuracy_chosen_shorter": "chosen is shorter",
    "accuracy_length_balanced": "balanced (mean of the two)",
    "accuracy_length_matched": "lengths within 10 %",
}
NEAR_ZERO = 0.05
MOST_CLOUDS = 2
"""Models whose single responses are drawn; of more the trends alone can be told apart."""
CLOUD_POINTS = 1000
SHOWN = 0.995
"""Share of the responses within the drawn range of length, so that a few giants do not squeeze the rest."""


def audit_charts(
    audits: Sequence[AuditResult], scored: Sequence[ScoredPreferences | None] | None = None
) -> tuple[list[Chart], list[Chart]]:
    """The figures of audits, those of the length and those of the accuracy.

    Args:
        audits: the audits, each with its own ``name``.
        scored: the scored sets behind them, in the same order, for the clouds of single responses.
    """
    points = list(scored) if scored is not None else [None] * len(audits)
    lengths = [_correlations(audits), *(_length_chart(audits, points, head) for head in ("quality", "length"))]
    accuracies = [_accuracies(audits), _bins(audits)]
    return [chart for chart in lengths if chart], [chart for chart in accuracies if chart]


def _length_chart(audits: Sequence[AuditResult], points: Sequence[ScoredPreferences | None], head: str) -> Chart | None:
    held = [(a, p) for a, p in zip(audits, points, strict=True) if len(a.trend.get(head, [])) > 1]
    if not held:
        return None
    series, told = [], []
    for audit, scored in held:
        rows = audit.trend[head]
        cloud = _cloud(audit, scored, head) if len(held) <= MOST_CLOUDS else None
        if cloud is not None:
            series.append(cloud)
        sides: dict[str, Any] = {side: [row.get(side) for row in rows] for side in ("low", "high")}
        counts = [f"{row['responses']:,} responses" for row in rows]
        x, y = [row["length"] for row in rows], [row["value"] for row in rows]
        follows = cloud is not None
        name = f"{audit.name}, mean" if follows else audit.name
        series.append(Series(name, x, y, words=counts, band=True, group=audit.name, follows=follows, **sides))
        told.append(f"{audit.name}: {_trend_words(audit, head)}")
    clouds = any(one.style == "points" for one in series)
    return Chart(
        "reward_against_length" if head == "quality" else "length_head_against_length",
        f"{head.capitalize()} head over length",
        held[0][0].length_unit,
        "reward, in its deviations",
        series,
        ("Single responses (an even part of many; the longest half per cent lies outside) and the mean" if clouds
         else "Mean") + f" of the {head} head over bins of length, with 95 % intervals. A flat line does not read "
        "length.",
        f"Chart of the {head} head's reward over length. {'; '.join(told)}.",
        marks=(Mark(0.0, ""),),
    )  # fmt: skip


def _cloud(audit: AuditResult, scored: ScoredPreferences | None, head: str) -> Series | None:
    value_R = None if scored is None else (scored.quality if head == "quality" else scored.length_reward)
    if scored is None or value_R is None or np.std(value_R) == 0:
        return None
    length_R = np.asarray(scored.response_tokens, dtype=np.float64)
    deviation_R = (value_R - np.mean(value_R)) / np.std(value_R)
    shown = thin(np.flatnonzero(length_R <= np.quantile(length_R, SHOWN)).tolist(), CLOUD_POINTS)
    return Series(audit.name, length_R[shown].tolist(), deviation_R[shown].tolist(), style="points")


def _trend_words(audit: AuditResult, head: str) -> str:
    rows = audit.trend[head]
    figure = audit["pearson"] if head == "quality" else (audit.length_head or {}).get("pearson", Figure(None))
    first, last = rows[0], rows[-1]
    return (
        f"{correlation_words(figure)}; mean reward {format_number(first['value'], 2)} deviations at length "
        f"{first['length']:.0f} and {format_number(last['value'], 2)} at length {last['length']:.0f}"
    )


def correlation_words(figure: Figure) -> str:
    """``r = 0.52 [0.49, 0.55]``, or that it is undefined."""
    if figure.value is None:
        return "r undefined"
    text = f"r = {format_number(figure.value, 2)}"
    if figure.low is not None and figure.high is not None:
        text += f" [{format_number(figure.low, 2)}, {format_number(figure.high, 2)}]"
    return text


def _by_name(audits: Sequence[AuditResult], names: dict[str, str]) -> list[Series]:
    kept = {name: words for name, words in names.items() if any(a[name].value is not None for a in audits)}
    labels = list(kept.values())
    series = []
    for audit in audits:
        figures = [audit[name] for name in kept]
        columns: dict[str, Any] = {side: [getattr(f, side) for f in figures] for side in ("low", "high")}
        series.append(Series(audit.name, labels, [f.value for f in figures], style="bars", **columns))
    return series if labels else []


def _told(series: Sequence[Series], chart_percent: bool) -> str:
    return "; ".join(
        f"{one.name}: "
        + ", ".join(f"{x} {format_number(y, 2, chart_percent)}" for x, y in zip(one.x, one.y, strict=True))
        for one in series
    )


def _correlations(audits: Sequence[AuditResult]) -> Chart | None:
    series = _by_name(audits, CORRELATION_NAMES)
    if not series:
        return None
    return Chart(
        "correlations",
        "Correlations with length",
        "",
        "correlation with length",
        [Series(**{**vars(one), "style": "points"}) for one in series],
        f"Correlation of the quality reward with length, with 95 % intervals. Within {NEAR_ZERO} of zero it pays next "
        "to nothing.",
        f"Dot plot of correlations with length. {_told(series, False)}.",
        marks=(Mark(NEAR_ZERO, ""), Mark(-NEAR_ZERO, "")),
    )


def _accuracies(audits: Sequence[AuditResult]) -> Chart | None:
    series = _by_name(audits, ACCURACY_NAMES)
    if not series:
        return None
    return Chart(
        "accuracy_decomposition",
        "Accuracy on parts of the pairs",
        "",
        "accuracy",
        series,
        "With 95 % intervals. A model that reads length does well where the chosen response is the longer one and "
        "badly where it is the shorter one.",
        f"Bar chart of accuracy. {_told(series, True)}.",
        percent=True,
        marks=(Mark(0.5, "chance"),),
    )


def _bins(audits: Sequence[AuditResult]) -> Chart | None:
    held = [audit for audit in audits if audit.length_bins]
    if not held:
        return None
    series = []
    for audit in held:
        figures = [row["accuracy"] for row in audit.length_bins]
        sides: dict[str, Any] = {side: [f.get(side) for f in figures] for side in ("low", "high")}
        labels = [row["label"] for row in audit.length_bins]
        counts = [f"{row['pairs']:,} pairs" for row in audit.length_bins]
        series.append(Series(audit.name, labels, [f["value"] for f in figures], words=counts, **sides))
    told = _told(series, True)
    if len({(audit.dataset, audit.pairs) for audit in held}) == 1:  # then picking the longer is one figure for all
        rows = held[0].length_bins
        heights = [row["longer_response_baseline_accuracy"]["value"] for row in rows]
        series.append(Series("pick the longer response", [row["label"] for row in rows], heights, variant=1))
    return Chart(
        "accuracy_by_length_difference",
        "Accuracy by length difference",
        "chosen against rejected response",
        "accuracy",
        series,
        "Accuracy by how much longer or shorter the chosen response is, with 95 % intervals.",
        f"Line chart of accuracy by length difference. {told}.",
        percent=True,
        marks=(Mark(0.5, "chance"),),
    )

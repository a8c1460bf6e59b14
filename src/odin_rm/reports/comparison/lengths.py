"""Reward against length, head by head: of responses that were scored, and of audits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure
from odin_rm.reports.chart import MOST_POINTS, Chart, Mark, Series
from odin_rm.reports.page import format_number
from odin_rm.reports.plots import ACCURACY_NAMES, CORRELATION_NAMES, NEAR_ZERO, correlation_words
from odin_rm.results.records import Material, Response

HEADS = {"quality": "quality", "length_reward": "length"}
LEAST = 3
"""Responses below which there is no cloud to draw."""


def scored_texts(material: Material) -> list[tuple[str, list[Response]]]:
    """Name and responses of everything that has rewards: the last look of each RL run, scored files."""
    found = []
    for run in material.runs:
        texts = run.look("last") or [text for text in run.texts if text.step == _last_step(run.texts)]
        found.append((run.name, texts))
    found += [(file.name, list(file.texts)) for file in material.files]
    return [(name, texts) for name, texts in found if sum(t.quality is not None for t in texts) >= LEAST]


def _last_step(texts: Sequence[Response]) -> int | None:
    return max((text.step for text in texts if text.step is not None), default=None)


def cloud_charts(material: Material) -> list[Chart]:
    """Each response's reward against its length, one figure per head."""
    everyone = scored_texts(material)
    charts = []
    for head, words in HEADS.items():
        series, told = [], []
        for name, texts in everyone:
            rows = [(t, float(value)) for t in texts if (value := getattr(t, head)) is not None]
            if len(rows) < LEAST:
                continue
            lengths, values = [float(t.length) for t, _ in rows], [value for _, value in rows]
            labels = [" ".join(t.prompt.split())[:60] for t, _ in rows]
            series.append(Series(name, lengths, values, words=labels, style="points"))
            told.append(f"{name}: {len(rows)} responses, Pearson {_pearson(lengths, values)}")
        if series:
            thinned = any(len(one.x) > MOST_POINTS for one in series)
            note = f" Of more than {MOST_POINTS:,} responses, an even part is drawn." if thinned else ""
            charts.append(
                Chart(
                    f"responses_{words}",
                    f"{words.capitalize()} head against length",
                    "response tokens",
                    f"{words} reward",
                    series,
                    f"Each response by its length and the {words} head's reward. {'; '.join(told)}.{note}",
                    f"Scatter plot of the {words} reward against response tokens. {'; '.join(told)}.",
                )
            )
    return charts


def _pearson(lengths: Sequence[float], values: Sequence[float]) -> str:
    if np.std(lengths) == 0 or np.std(values) == 0:
        return "undefined"
    return format_number(float(np.corrcoef(lengths, values)[0, 1]), 2)


def audit_charts(audits: Sequence[AuditResult]) -> list[Chart]:
    """The figures of audits: reward over length per head, correlations, accuracy by part and by length difference."""
    if not audits:
        return []
    charts = [_trend_chart(audits, head, word) for head, word in (("quality", "quality"), ("length", "length"))]
    return [chart for chart in [*charts, _correlations(audits), _accuracies(audits), _bins(audits)] if chart]


def _trend_chart(audits: Sequence[AuditResult], head: str, word: str) -> Chart | None:
    held = [audit for audit in audits if len(audit.trend.get(head, [])) > 1]
    if not held:
        return None
    series, told = [], []
    for audit in held:
        rows = audit.trend[head]
        sides: dict[str, Any] = {side: [row.get(side) for row in rows] for side in ("low", "high")}
        counts = [f"{row['responses']:,} responses" for row in rows]
        x, y = [row["length"] for row in rows], [row["value"] for row in rows]
        series.append(Series(audit.name, x, y, words=counts, band=True, **sides))
        figure = audit["pearson"] if head == "quality" else (audit.length_head or {}).get("pearson", Figure(None))
        told.append(f"{audit.name}: {correlation_words(figure)}")
    return Chart(
        f"audit_trend_{word}",
        f"{word.capitalize()} head over length",
        held[0].length_unit,
        "mean reward, in its deviations",
        series,
        f"Mean reward of the {word} head over bins of length, with 95 % intervals. A flat line does not read length. "
        f"{'; '.join(told)}.",
        f"Line chart of the {word} head's mean reward over length. {'; '.join(told)}.",
        marks=(Mark(0.0, ""),),
    )


def _by_name(audits: Sequence[AuditResult], names: dict[str, str]) -> list[Series]:
    kept = {name: words for name, words in names.items() if any(a[name].value is not None for a in audits)}
    labels = [words.replace("\n", " ") for words in kept.values()]
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
        "audit_correlations",
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
        "audit_accuracy",
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
    return Chart(
        "audit_bins",
        "Accuracy by length difference",
        "chosen against rejected response",
        "accuracy",
        series,
        "Accuracy by how much longer or shorter the chosen response is, with 95 % intervals.",
        f"Line chart of accuracy by length difference. {_told(series, True)}.",
        percent=True,
        marks=(Mark(0.5, "chance"),),
    )

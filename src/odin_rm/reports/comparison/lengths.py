"""Reward against length, head by head, of responses that were scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odin_rm.reports.blocks import format_number
from odin_rm.reports.chart import MOST_POINTS, Chart, Series
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

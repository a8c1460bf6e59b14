"""Two models on the same pairs: every figure before, after, and their difference with a paired interval.

Both models see the same resamples of prompts, so what the prompts have in common leaves the difference. The attributes
side by side are the *substitution matrix*: where one attribute's figure falls and another's grows, a bias has moved.
It is an audit's evidence and no more: what the reward pays for is told by edits (``odin-rm probe``, ``certify``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from odin_rm.evaluation.attribute_audit import AttributedScores, attribute_draws
from odin_rm.evaluation.audit import paired_parts
from odin_rm.evaluation.bootstrap import PromptBootstrap, Statistic, percentile_interval
from odin_rm.evaluation.records import Figure, ScoredPreferences

PAIRED_FIGURES = (
    "accuracy",
    "accuracy_chosen_longer",
    "accuracy_chosen_shorter",
    "accuracy_length_balanced",
    "pearson",
    "pearson_within_prompt",
    "information_beyond_length",
    "information_beyond_length_curve",
)
MATRIX = {"within": "within.pearson", "pooled": "pooled.pearson", "reward": "coefficient.reward",
          "amplification": "amplification"}  # fmt: skip
"""Columns of the substitution matrix, and their names among an audit's draws."""


def same_pairs(before: ScoredPreferences, after: ScoredPreferences) -> bool:
    """Whether two models were scored on the same responses and pairs in the same order."""
    columns = ("prompt", "chosen", "rejected")
    return all(np.array_equal(getattr(before, name), getattr(after, name)) for name in columns)


def paired_audit(
    before: ScoredPreferences, after: ScoredPreferences, *, bootstrap_samples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Figures and attributes of two models and their paired differences, as ``comparison.json`` has them.

    Args:
        before, after: scored on the same pairs (:func:`same_pairs`).
        bootstrap_samples, seed: of the intervals, by prompt.
    """
    prompt = np.unique(before.prompt, return_inverse=True)[1]
    sampler = PromptBootstrap(prompt, bootstrap_samples, seed)
    return {
        "before": before.name,
        "after": after.name,
        "figures": _figures(before, after, sampler),
        "attributes": _matrix(before, after, sampler),
    }


def _figures(before: ScoredPreferences, after: ScoredPreferences, sampler: PromptBootstrap) -> dict[str, Any]:
    first, second = paired_parts(before, sampler), paired_parts(after, sampler)
    values: dict[str, Figure] = {}
    statistics: dict[str, Statistic] = {}
    for name in PAIRED_FIGURES:
        if name not in first or name not in second:
            continue
        (was, was_drawn), (now, now_drawn) = first[name], second[name]
        if was.value is None or now.value is None:
            values[name] = Figure(None, why=was.why or now.why)
            continue
        values[name] = Figure(now.value - was.value)
        statistics[name] = _minus(now_drawn, was_drawn)
    return {name: figure.to_json() for name, figure in sampler.intervals(values, statistics).items()}


def _minus(first: Statistic, second: Statistic) -> Statistic:
    return lambda weights_SP: first(weights_SP) - second(weights_SP)


def _matrix(before: ScoredPreferences, after: ScoredPreferences, sampler: PromptBootstrap) -> dict[str, Any]:
    names = [name for name in before.attributes if name in after.attributes]
    if not names:
        return {}
    drawn = []
    for scored in (before, after):
        shared = {name: scored.attributes[name] for name in names}
        columns = AttributedScores(scored.quality, sampler.prompt, shared, scored.chosen, scored.rejected)
        drawn.append(attribute_draws(columns, sampler))
    (was, was_drawn, was_figures), (now, now_drawn, now_figures) = drawn
    matrix: dict[str, Any] = {}
    for name in names:
        cells = {}
        for cell, figure in MATRIX.items():
            key = f"{figure}.{name}"
            difference = Figure(None, why=was_figures[key].why or now_figures[key].why)
            if was_figures[key].value is not None and now_figures[key].value is not None:
                difference = Figure(float(now[key][0] - was[key][0]))
                if key in was_drawn and was_figures[key].low is not None and now_figures[key].low is not None:
                    difference = percentile_interval(difference, now_drawn[key] - was_drawn[key])
            cells[cell] = {
                "before": was_figures[key].to_json(),
                "after": now_figures[key].to_json(),
                "difference": difference.to_json(),
            }
        matrix[name] = cells
    return matrix

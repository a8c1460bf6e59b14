"""The trend of reward over length: bins of equal count with the mean reward of each, in reward deviations."""

from __future__ import annotations

from typing import Any

import numpy as np

from odin_rm.evaluation.bootstrap import PromptBootstrap, ratio_statistic
from odin_rm.evaluation.records import Figure

MAX_BINS = 12
MIN_PER_BIN = 8


def length_bins(length: np.ndarray) -> np.ndarray:
    """``(R,)`` bin number of each response: up to 12 bins of nearly equal count, equal lengths never split."""
    bins = int(np.clip(len(length) // MIN_PER_BIN, 1, MAX_BINS))
    edges = np.unique(np.quantile(length, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, length, side="left"), return_inverse=True)[1]


def reward_trend(values: np.ndarray, length: np.ndarray, bootstrap: PromptBootstrap) -> list[dict[str, Any]]:
    """Mean standardised reward per length bin, with intervals.

    Args:
        values: ``(R,)`` rewards of one head.
        length: ``(R,)`` lengths.
        bootstrap: the resamples shared by the audit.

    Returns:
        One ``{"length", "responses", "value", "low", "high"}`` per bin: mean length of the bin, its responses, and the
        mean reward there in deviations from the overall mean.
    """
    spread = values.std()
    standardised = (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))
    number = length_bins(length)
    points: dict[str, Figure] = {}
    statistics = {}
    for k in range(number.max() + 1):
        held = number == k
        points[str(k)] = Figure(float(standardised[held].mean()))
        weight = held.astype(np.float64)
        statistics[str(k)] = ratio_statistic(standardised * weight, weight, bootstrap.prompt, bootstrap.prompts)
    figures = bootstrap.intervals(points, statistics)
    return [
        {
            "length": float(length[number == k].mean()),
            "responses": int((number == k).sum()),
            **figures[str(k)].to_json(),
        }
        for k in range(number.max() + 1)
    ]

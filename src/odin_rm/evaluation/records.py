"""What an audit reads and what it writes: plain numpy in, JSON-ready figures out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Figure:
    """One measured number with its 95 % bootstrap interval.

    ``value`` is ``None`` where the figure is undefined for these data; ``why`` then says the reason.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """``{"value", "low", "high"}`` and ``why`` where the figure is undefined."""
        out: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        if self.why is not None:
            out["why"] = self.why
        return out


@dataclass(frozen=True)
class ScoredPreferences:
    """A preference set with a reward model's scores: ``R`` distinct responses, ``B`` pairs of indices into them.

    Attributes:
        quality: ``(R,)`` quality reward (or the audited column of somebody's model), reward units.
        response_tokens: ``(R,)`` response length in ``length_unit``.
        prompt: ``(R,)`` prompt number of each response.
        chosen, rejected: ``(B,)`` response numbers.
        length_reward: ``(R,)`` length reward, or ``None`` where the model has no such head.
        true_quality: ``(R,)`` true quality where it is known (the testbed), else ``None``.
        length_unit: the name of the unit ("response tokens").
        name: what to call the model in tables and figures.
        dataset: what to call the data.
        report: counts that the data reader reported.
    """

    quality: np.ndarray
    response_tokens: np.ndarray
    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    length_reward: np.ndarray | None = None
    true_quality: np.ndarray | None = None
    length_unit: str = "response tokens"
    name: str = "model"
    dataset: str = "dataset"
    report: dict[str, Any] = field(default_factory=dict)

"""What an audit reads and what it writes, and a run as a point: plain numpy in, JSON-ready figures out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

    def times(self, factor: float) -> Figure:
        """The figure in other units; the factor is positive."""
        value, low, high = (None if one is None else factor * one for one in (self.value, self.low, self.high))
        return Figure(value, low, high, self.why)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Figure:
        """What :meth:`to_json` gave.

        Raises:
            KeyError: there is no ``value``.
        """
        return cls(content["value"], content.get("low"), content.get("high"), content.get("why"))

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
        attributes: by name, ``(R,)`` of the responses (:mod:`odin_rm.data.attributes`).
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
    attributes: dict[str, np.ndarray] = field(default_factory=dict)

    def of_pairs(self, keep_B: np.ndarray) -> ScoredPreferences:
        """Some of the pairs and the responses in them, renumbered; the report stays that of the whole set.

        Args:
            keep_B: ``(B,)`` bool, the pairs to keep.
        """
        if keep_B.all():
            return self
        chosen, rejected = np.asarray(self.chosen)[keep_B], np.asarray(self.rejected)[keep_B]
        kept, numbers = np.unique(np.concatenate([chosen, rejected]), return_inverse=True)
        columns: dict[str, Any] = {
            name: np.asarray(column)[kept]
            for name in ("quality", "response_tokens", "prompt", "length_reward", "true_quality")
            if (column := getattr(self, name)) is not None
        }
        attributes = {name: np.asarray(column)[kept] for name, column in self.attributes.items()}
        pairs: dict[str, Any] = {"chosen": numbers[: len(chosen)], "rejected": numbers[len(chosen) :]}
        return replace(self, **pairs, **columns, attributes=attributes)


@dataclass(frozen=True)
class RunPoint:
    """A run as a point: how long its responses are, how good they are, and what made it.

    Attributes:
        arm: the runs whose front it belongs to: a reward with its mitigation.
        mean_length: mean length of its responses, in the unit of the figure.
        score: higher is better: win score, true quality.
        name: what to call the run.
        algorithm: ``ppo``, ``remax``, ...; empty where it is unknown.
        settings: what may be varied, by the names of ``odin-rm rl``'s flags.
        seed: of the run, where it is known.
        n: prompts behind it, where that is known.
        score_low, score_high, length_low, length_high: 95 % intervals, where they are known.
    """

    arm: str
    mean_length: float
    score: float
    name: str = ""
    algorithm: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    n: int | None = None
    score_low: float | None = None
    score_high: float | None = None
    length_low: float | None = None
    length_high: float | None = None

    def value_of(self, name: str) -> Any:
        """Its ``arm``, ``algorithm``, ``seed`` or ``name``, or the setting of that name; ``None`` where it has none."""
        if name in ("arm", "algorithm", "seed", "name"):
            return getattr(self, name)
        return self.settings.get(name)

    def to_json(self) -> dict[str, Any]:
        """The point as an entry of a JSON file; ``length`` and ``score`` as figures."""
        return {
            "name": self.name,
            "arm": self.arm,
            "algorithm": self.algorithm or None,
            "seed": self.seed,
            "settings": dict(self.settings),
            "n": self.n,
            "length": Figure(self.mean_length, self.length_low, self.length_high).to_json(),
            "score": Figure(self.score, self.score_low, self.score_high).to_json(),
        }

"""Fronts under resampling of prompts: how far they hang on the prompts that were asked.

Every run of every arm answers the same prompts; one set of resamples serves all of them, so that a hard prompt cancels
in a difference. In a resample each run has another mean length and another mean score, and the front is taken anew. The
runs stay as they are: what another seed would do is the business of the bootstrap over runs.

A front picks the best of several measured scores and is therefore too high by chance, the more so the more runs an arm
has and the fewer prompts there are; the front of a resample is too high once more. How much so can be measured: what
the runs that a resample chooses score in it, less what the same runs score on all prompts, on average over resamples.
For the *level* of a front (area, band, score at a length) this excess is taken off every resample before the
percentiles are read. In *differences* between fronts the excesses nearly cancel, and plain percentiles cover well.
Either way the interval is stretched to hold the value itself, which stays what the runs attained.

Shapes: ``N`` runs of an arm, ``P`` prompts, ``S`` resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.evaluation.bootstrap import PromptBootstrap
from odin_rm.evaluation.pareto import (
    Bounds,
    FrontBootstrap,
    Reading,
    RunPoints,
    areas,
    attained_score,
    front_area,
    matched_score,
    pareto_front,
)
from odin_rm.evaluation.records import Figure
from odin_rm.evaluation.win_score import interval_levels


@dataclass(frozen=True)
class PromptColumns:
    """The runs of one arm, prompt by prompt.

    Attributes:
        length_NP: ``(N, P)`` length of each run's response to each prompt.
        score_NP: ``(N, P)`` contributions whose mean is the run's score.

    Raises:
        DataError: no runs, no prompts, or shapes that differ.
    """

    length_NP: np.ndarray
    score_NP: np.ndarray

    def __post_init__(self) -> None:
        for name in ("length_NP", "score_NP"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.length_NP.ndim != 2 or self.length_NP.shape != self.score_NP.shape or not self.length_NP.size:
            shapes = f"{self.length_NP.shape} and {self.score_NP.shape}"
            raise DataError(f"lengths and scores must be tables of runs and prompts, they have the shapes {shapes}")


class PromptFrontBootstrap(FrontBootstrap):
    """Resamples of the prompts that all runs answered, the same for every figure.

    Args:
        arms: the runs by the arm's name, all on the same prompts in the same order.
        samples: resamples.
        seed: of the resamples.

    Raises:
        DataError: arms on different numbers of prompts, or a number that is not finite.
    """

    def __init__(self, arms: Mapping[str, PromptColumns], *, samples: int = 2000, seed: int = 0) -> None:
        counts = {columns.length_NP.shape[1] for columns in arms.values()}
        if len(counts) > 1:
            raise DataError(f"the runs answered different numbers of prompts: {', '.join(map(str, sorted(counts)))}")
        self.prompts = counts.pop() if counts else 0
        self.arms = {n: RunPoints(c.length_NP.mean(axis=1), c.score_NP.mean(axis=1)) for n, c in arms.items()}
        self._read = {}
        self._draws: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        weights_SP = np.concatenate(list(PromptBootstrap(np.arange(self.prompts), samples, seed).blocks()))
        weights_SP /= max(self.prompts, 1)
        for name, columns in arms.items():
            self._draws[name] = weights_SP @ columns.length_NP.T, weights_SP @ columns.score_NP.T

    def draws(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """``(S, N)`` mean length and score of each run in each resample."""
        return self._draws[name]

    def point_intervals(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """``(N, 2)`` intervals of each run's mean length and of its score; ``None`` for a single prompt."""
        if self.prompts < 2:
            return None
        levels = interval_levels(self.prompts)
        length_SN, score_SN = self.draws(name)
        return np.quantile(length_SN, levels, axis=0).T, np.quantile(score_SN, levels, axis=0).T

    def area(self, name: str, bounds: Bounds, reference_score: float) -> Figure:
        """:func:`front_area` of an arm with its 95 % interval."""
        points, (length_SN, score_SN) = self.arms[name], self.draws(name)
        draws_S = areas(length_SN, score_SN, bounds, reference_score)
        worth_S = chosen_areas(length_SN, score_SN, points.score_N, bounds, reference_score)
        figure = self._level(front_area(points, bounds, reference_score), draws_S, worth_S, name)
        return figure if figure.low is None else replace(figure, low=max(figure.low, 0.0))

    def band(self, name: str, at_M: np.ndarray, reading: Reading = "attained") -> list[Figure]:
        """The front of an arm at each length with its 95 % interval; undefined where the arm attains nothing."""
        at_M = np.asarray(at_M, dtype=np.float64)
        points, (length_SN, score_SN) = self.arms[name], self.draws(name)
        draws_SM = self.scores(name, at_M, reading)
        if reading == "attained":
            values_M = attained_score(points, at_M)
            worth_SM = np.stack([chosen_scores(length_SN, score_SN, points.score_N, at) for at in at_M], axis=1)
        else:
            values_M = matched_score(points, at_M)
            rows = zip(length_SN, score_SN, strict=True)
            worth_SM = np.stack([_matched_worth(*row, points.score_N, at_M) for row in rows])
        columns = zip(values_M, draws_SM.T, worth_SM.T, strict=True)
        return [self._level(float(value), draws_S, worth_S, name) for value, draws_S, worth_S in columns]

    def _level(self, value: float, draws_S: np.ndarray, worth_S: np.ndarray, name: str) -> Figure:
        excess_S = draws_S - worth_S
        known = excess_S[np.isfinite(excess_S)]
        return self._figure(value, draws_S - (known.mean() if len(known) else 0.0), (name,))

    def _no_interval(self, names: tuple[str, ...]) -> str:
        return "a bootstrap over prompts needs two of them" if self.prompts < 2 else ""

    def _levels(self) -> tuple[float, float]:
        return interval_levels(self.prompts)


def chosen_scores(length_SN: np.ndarray, score_SN: np.ndarray, worth_N: np.ndarray, at: float) -> np.ndarray:
    """``(S,)`` what the run that each resample attains its score at a length with is worth on all prompts.

    Args:
        length_SN, score_SN: ``(S, N)`` of the runs in each resample.
        worth_N: ``(N,)`` scores on all prompts.
        at: the length.

    Returns:
        NaN where every run is longer.
    """
    held_SN = np.where(length_SN <= at, score_SN, -np.inf)
    return np.where(np.isfinite(held_SN.max(axis=1)), worth_N[held_SN.argmax(axis=1)], np.nan)


def chosen_areas(
    length_SN: np.ndarray, score_SN: np.ndarray, worth_N: np.ndarray, bounds: Bounds, reference_score: float
) -> np.ndarray:
    """``(S,)`` areas of the fronts of the resamples, with the chosen runs at what they are worth on all prompts.

    Args:
        length_SN, score_SN: ``(S, N)`` of the runs in each resample.
        worth_N: ``(N,)`` scores on all prompts.
        bounds, reference_score: as in :func:`front_area`.
    """
    low, high = bounds
    order_SN = np.argsort(length_SN, axis=1, kind="stable")
    sorted_SN = np.take_along_axis(score_SN, order_SN, axis=1)
    leads_SN = sorted_SN >= np.maximum.accumulate(sorted_SN, axis=1)
    place_SN = np.maximum.accumulate(np.where(leads_SN, np.arange(sorted_SN.shape[1]), 0), axis=1)
    worth_SN = worth_N[np.take_along_axis(order_SN, place_SN, axis=1)]
    edges_SN = np.clip(np.take_along_axis(length_SN, order_SN, axis=1), low, high)
    return (np.maximum(worth_SN - reference_score, 0.0) * np.diff(edges_SN, axis=1, append=high)).sum(axis=1)


def _matched_worth(length_N: np.ndarray, score_N: np.ndarray, worth_N: np.ndarray, at_M: np.ndarray) -> np.ndarray:
    front = pareto_front(RunPoints(length_N, score_N))
    return np.interp(at_M, length_N[front], worth_N[front], left=np.nan)

"""Fronts of score against length: what a sweep of runs attains, compared at equal length and over a range of lengths.

A run is a point: the mean length of its responses (lower is better) and its score (higher is better: win score, true
quality). One run beats another only where it is no longer and no worse. Comparing best scores alone would reward the
arm that writes more, so arms are compared by their *fronts*:

    front       the runs that no other run of the arm dominates
    attainment  a(L) = best score among runs of mean length <= L: a step function that never falls
    area        integral over [low, high] of max(a(L) - reference, 0) dL: the hypervolume of the front with the
                reference point (high, reference), cut off at low; lengths that no run attains count nothing
    matched     the score at exactly the length L: straight lines between neighbours on the front

Intervals here come from a bootstrap over runs: a resample draws an arm's runs with replacement, all runs of a cluster
(a seed) together, and takes the front of what was drawn. The front of a resample lies on or below the front of the
sample, so an interval reaches further down than up: it says how much hangs on single lucky runs. For the same reason an
arm with more runs has the higher front by chance alone; give the arms of a comparison equally many. Where the runs'
figures are known prompt by prompt, :mod:`odin_rm.evaluation.pareto_prompts` resamples the prompts instead.

Shapes: ``N`` runs, ``S`` resamples, ``M`` lengths at which a front is read.

    arms = {"vanilla": RunPoints(tokens, win_scores), "odin": RunPoints(other_tokens, other_win_scores)}
    bounds = shared_bounds(arms.values())
    bootstrap = FrontBootstrap(arms, samples=2000, seed=0)
    bootstrap.area_difference("odin", "vanilla", bounds, reference_score=50.0)  # a Figure: value, low, high
    bootstrap.dominance("odin", "vanilla", np.linspace(*bounds, 50))            # P(front of odin is higher) at each
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.evaluation.bootstrap import LEVEL
from odin_rm.evaluation.records import Figure

Reading = Literal["attained", "matched"]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class RunPoints:
    """The runs of one arm.

    Attributes:
        length_N: mean response length of each run, in any one unit.
        score_N: its score.
        cluster_N: what a run is resampled with (its seed), any integers or strings; without it each run is its own.

    Raises:
        DataError: no runs, columns of different length, or a number that is not finite.
    """

    length_N: np.ndarray
    score_N: np.ndarray
    cluster_N: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("length_N", "score_N"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.cluster_N is not None:
            object.__setattr__(self, "cluster_N", np.asarray(self.cluster_N))
        columns = [self.length_N, self.score_N, *([] if self.cluster_N is None else [self.cluster_N])]
        if self.length_N.ndim != 1 or len({column.shape for column in columns}) != 1:
            shapes = ", ".join(str(column.shape) for column in columns)
            raise DataError(f"the columns of a front must be lists of equal length, they have the shapes {shapes}")
        if len(self) == 0:
            raise DataError("a front needs at least one run")
        if not (np.isfinite(self.length_N).all() and np.isfinite(self.score_N).all()):
            raise DataError("a run's length or score is not finite", fix="Leave runs that failed out of the front.")

    def __len__(self) -> int:
        return len(self.length_N)

    @property
    def clusters(self) -> np.ndarray:
        """``(N,)`` cluster number of each run, ``0 .. C - 1``."""
        if self.cluster_N is None:
            return np.arange(len(self))
        return np.unique(self.cluster_N, return_inverse=True)[1]


def pareto_front(points: RunPoints) -> np.ndarray:
    """Which runs no other run dominates.

    A run dominates another when it is no longer and scores no less, and is better in one of the two. Of runs that are
    equal in both the first one stands for all.

    Returns:
        Run numbers, the shortest first; both lengths and scores rise along them.
    """
    order = np.lexsort((-points.score_N, points.length_N))
    best_before = np.maximum.accumulate(np.r_[-np.inf, points.score_N[order][:-1]])
    return order[points.score_N[order] > best_before]


def attained_score(points: RunPoints, at_M: np.ndarray) -> np.ndarray:
    """``(M,)`` the best score of the runs no longer than each length; NaN where every run is longer."""
    front = pareto_front(points)
    place = np.searchsorted(points.length_N[front], np.asarray(at_M, dtype=np.float64), side="right") - 1
    return np.where(place >= 0, points.score_N[front][np.maximum(place, 0)], np.nan)


def matched_score(points: RunPoints, at_M: np.ndarray) -> np.ndarray:
    """``(M,)`` the front's score at each length, by straight lines between its runs.

    NaN left of the shortest run. Right of the longest its score stays: writing more is not needed to attain it.
    """
    front = pareto_front(points)
    return np.interp(at_M, points.length_N[front], points.score_N[front], left=np.nan)


_READINGS = {"attained": attained_score, "matched": matched_score}


def front_area(points: RunPoints, bounds: Bounds, reference_score: float) -> float:
    """``integral over [low, high] of max(a(L) - reference_score, 0) dL``, exact for the step function ``a``.

    In units of length times score. Divided by ``high - low`` it is the mean height of the front above the reference.

    Args:
        points: the runs.
        bounds: ``(low, high)`` in the unit of length, the same for all arms that are compared.
        reference_score: a score that earns nothing, for example the starting policy's.

    Raises:
        DataError: ``low`` is not below ``high``.
    """
    return float(areas(points.length_N[None], points.score_N[None], bounds, reference_score)[0])


def shared_bounds(arms: Iterable[RunPoints]) -> Bounds:
    """From the shortest to the longest run of all arms: outside of it no front changes."""
    lengths = np.concatenate([points.length_N for points in arms])
    return float(lengths.min()), float(lengths.max())


def areas(length_SN: np.ndarray, score_SN: np.ndarray, bounds: Bounds, reference_score: float) -> np.ndarray:
    """``(S,)`` :func:`front_area` of the runs in each row; a score of minus infinity says that a run is absent."""
    low, high = bounds
    if not low < high:
        raise DataError(f"the area needs a lower bound of length below the upper one, they are {low:g} and {high:g}")
    order_SN = np.argsort(length_SN, axis=1, kind="stable")
    edges_SN = np.clip(np.take_along_axis(length_SN, order_SN, axis=1), low, high)
    best_SN = np.maximum.accumulate(np.take_along_axis(score_SN, order_SN, axis=1), axis=1)
    widths_SN = np.diff(edges_SN, axis=1, append=high)
    return (np.maximum(best_SN - reference_score, 0.0) * widths_SN).sum(axis=1)


def attained_scores(length_SN: np.ndarray, score_SN: np.ndarray, at_M: np.ndarray) -> np.ndarray:
    """``(S, M)`` :func:`attained_score` of the runs in each row at each length; absent runs are as in :func:`areas`."""
    best_MS = [np.where(length_SN <= at, score_SN, -np.inf).max(axis=1) for at in at_M]
    attained_SM = np.array(best_MS, dtype=np.float64).reshape(len(at_M), len(length_SN)).T
    return np.where(np.isfinite(attained_SM), attained_SM, np.nan)


class FrontBootstrap:
    """Resamples of the runs of several arms, the same for every figure.

    Arms whose clusters carry the same labels draw the same clusters, so that what a seed does to all arms cancels in
    their difference; all other arms draw on their own.

    Args:
        arms: the runs by the arm's name.
        samples: resamples.
        seed: of the resamples.
    """

    def __init__(self, arms: Mapping[str, RunPoints], *, samples: int = 2000, seed: int = 0) -> None:
        self.arms = dict(arms)
        self._read: dict[tuple[str, str, bytes], np.ndarray] = {}
        self._present = {name: self._draw(name, samples, seed) for name in self.arms}

    def _draw(self, name: str, samples: int, seed: int) -> np.ndarray:
        """``(S, N)`` which runs of the arm are in each resample; how often they are is nothing to a front."""
        points = self.arms[name]
        count = int(points.clusters.max()) + 1
        key = f"arm {name}" if points.cluster_N is None else f"clusters {np.unique(points.cluster_N).tolist()}"
        rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
        drawn = np.zeros((samples, count), dtype=bool)
        drawn[np.arange(samples)[:, None], rng.integers(0, count, size=(samples, count))] = True
        return drawn[:, points.clusters]

    def draws(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """``(S, N)`` length and score of each run in each resample; minus infinity for one that is not in it."""
        points, present_SN = self.arms[name], self._present[name]
        return np.broadcast_to(points.length_N, present_SN.shape), np.where(present_SN, points.score_N, -np.inf)

    def area(self, name: str, bounds: Bounds, reference_score: float) -> Figure:
        """:func:`front_area` of an arm with its 95 % interval."""
        draws_S = areas(*self.draws(name), bounds, reference_score)
        figure = self._figure(front_area(self.arms[name], bounds, reference_score), draws_S, (name,))
        return figure if figure.low is None else replace(figure, low=max(figure.low, 0.0))

    def area_difference(self, first: str, second: str, bounds: Bounds, reference_score: float) -> Figure:
        """Area of ``first`` minus area of ``second`` with its 95 % interval."""
        value = front_area(self.arms[first], bounds, reference_score)
        value -= front_area(self.arms[second], bounds, reference_score)
        one_S, other_S = (areas(*self.draws(name), bounds, reference_score) for name in (first, second))
        return self._figure(value, one_S - other_S, (first, second))

    def scores(self, name: str, at_M: np.ndarray, reading: Reading = "attained") -> np.ndarray:
        """``(S, M)`` the front of each resample at each length, NaN where it attains nothing.

        Args:
            name: the arm.
            at_M: ``(M,)`` lengths.
            reading: ``"attained"`` (best score of runs no longer) or ``"matched"`` (straight lines between runs).
        """
        at_M = np.asarray(at_M, dtype=np.float64)
        key = (name, reading, at_M.tobytes())  # every comparison of an arm reads the same scores
        if key not in self._read:
            self._read[key] = self._scores(name, at_M, reading)
        return self._read[key]

    def _scores(self, name: str, at_M: np.ndarray, reading: Reading) -> np.ndarray:
        length_SN, score_SN = self.draws(name)
        if reading == "attained":
            return attained_scores(length_SN, score_SN, at_M)
        rows = [
            matched_score(RunPoints(length_N[held_N], score_N[held_N]), at_M)
            for length_N, score_N, held_N in zip(length_SN, score_SN, np.isfinite(score_SN), strict=True)
        ]
        return np.stack(rows)

    def band(self, name: str, at_M: np.ndarray, reading: Reading = "attained") -> list[Figure]:
        """The front of an arm at each length with its 95 % interval; undefined where the arm attains nothing."""
        values_M, draws_SM = _READINGS[reading](self.arms[name], at_M), self.scores(name, at_M, reading)
        return [self._figure(float(v), draws_S, (name,)) for v, draws_S in zip(values_M, draws_SM.T, strict=True)]

    def score_difference(self, first: str, second: str, at_M: np.ndarray, reading: Reading = "matched") -> list[Figure]:
        """Score of ``first`` minus that of ``second`` at each length, with 95 % intervals; undefined left of either."""
        read = _READINGS[reading]
        values_M = read(self.arms[first], at_M) - read(self.arms[second], at_M)
        draws_SM = self.scores(first, at_M, reading) - self.scores(second, at_M, reading)
        both = (first, second)
        return [self._figure(float(v), draws_S, both) for v, draws_S in zip(values_M, draws_SM.T, strict=True)]

    def dominance(self, first: str, second: str, at_M: np.ndarray) -> np.ndarray:
        """``(M,)`` the probability that ``first`` attains more than ``second`` at each length.

        The share of resamples, those of equal scores by half. An arm that attains nothing there loses to one that does;
        where no resample of either attains anything the answer is NaN.
        """
        one_SM, other_SM = self.scores(first, at_M), self.scores(second, at_M)
        known_SM = ~(np.isnan(one_SM) & np.isnan(other_SM))
        one_SM, other_SM = (np.nan_to_num(scores, nan=-np.inf) for scores in (one_SM, other_SM))
        wins_SM = np.where(known_SM, (one_SM > other_SM) + 0.5 * (one_SM == other_SM), 0.0)
        with np.errstate(invalid="ignore"):
            return wins_SM.sum(axis=0) / known_SM.sum(axis=0)

    def _figure(self, value: float, draws_S: np.ndarray, names: tuple[str, ...]) -> Figure:
        if not np.isfinite(value):
            return Figure(None, why="no run is that short")
        if why := self._no_interval(names):
            return Figure(value, why=f"no interval: {why}")
        known = draws_S[~np.isnan(draws_S)]
        if 2 * len(known) < len(draws_S):
            return Figure(value, why="no interval: undefined in most resamples")
        low, high = np.quantile(known, self._levels())
        # Resamples of a front are biased, so the value itself may lie beyond all but the last draws.
        return Figure(value, min(float(low), value), max(float(high), value))

    def _no_interval(self, names: tuple[str, ...]) -> str:
        """Why figures of these arms have no interval; empty where they have one."""
        alone = [name for name in names if self.arms[name].clusters.max() == 0]
        return f"a bootstrap over runs needs two of them ({', '.join(alone)})" if alone else ""

    def _levels(self) -> tuple[float, float]:
        """Percentiles of the draws that make an interval."""
        return (1 - LEVEL) / 2, (1 + LEVEL) / 2

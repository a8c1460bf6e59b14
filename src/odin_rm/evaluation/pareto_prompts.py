"""Fronts under resampling of prompts: how far they hang on the prompts that were asked.

Every run of every arm answers the same prompts; one set of resamples serves all of them, so that a hard prompt cancels
in a difference. In a resample each run has another mean length and another mean score, and the front is taken anew. The
runs stay as they are: what another seed would do is the business of the bootstrap over runs.

A front picks the best of several measured scores and is therefore too high by chance, the more so the more runs an arm
has and the fewer prompts there are; the front of a resample is too high once more. For the *level* of a front (area,
band, score at a length) the interval is hence the reflected one, ``[2 v - q_97.5, 2 v - q_2.5]``: it takes the second
excess as an estimate of the first. In *differences* between fronts the excesses nearly cancel, and plain percentiles
``[q_2.5, q_97.5]`` cover better. Either way the interval is stretched to hold the value itself.

Shapes: ``N`` runs of an arm, ``P`` prompts, ``S`` resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.evaluation.bootstrap import PromptBootstrap
from odin_rm.evaluation.pareto import FrontBootstrap, RunPoints
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

    def _no_interval(self, names: tuple[str, ...]) -> str:
        return "a bootstrap over prompts needs two of them" if self.prompts < 2 else ""

    def _interval(self, value: float, draws_S: np.ndarray, *, difference: bool) -> tuple[float, float]:
        low, high = (float(bound) for bound in np.quantile(draws_S, interval_levels(self.prompts)))
        return (low, high) if difference else (2 * value - high, 2 * value - low)

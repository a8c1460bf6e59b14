"""Win rate, win score, their standard errors and intervals, and paired tests between candidates.

With ``y`` the preference of a prompt between 0 (the baseline is better) and 1 (the candidate is), both orders averaged:

    win rate  = 100 mean(y)
    win score = 50 + 100 (wins - losses) / n      a win is y > 1/2, a loss y < 1/2

The win score is the ODIN paper's (arXiv 2402.07319); it is 50 for a candidate as good as the baseline and runs from -50
to 150. A candidate that wins in one order and loses in the other ties.

Prompts are resampled, not rows, and one set of resamples serves every figure of every candidate, so differences between
candidates are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from odin_rm.evaluation.bootstrap import LEVEL, PromptBootstrap, Statistic
from odin_rm.evaluation.records import Figure

TIE_TOLERANCE = 1e-9
PERMUTATIONS = 9999
EXACT_PERMUTATION_PROMPTS = 12
_SIGN_ELEMENTS = 2_000_000


@dataclass(frozen=True)
class Estimate(Figure):
    """A figure with its standard error."""

    standard_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """``{"value", "low", "high", "standard_error"}`` and ``why`` where something is undefined."""
        return super().to_json() | {"standard_error": self.standard_error}


def verdict(preference: np.ndarray) -> np.ndarray:
    """``(P,)`` 1 for a win, -1 for a loss, 0 for a tie, of preferences between 1 and 2."""
    centred = np.asarray(preference, np.float64) - 1.5
    return np.where(np.abs(centred) <= TIE_TOLERANCE, 0.0, np.sign(centred))


def win_rate_values(preference: np.ndarray) -> np.ndarray:
    """``(P,)`` contributions whose mean is the win rate in percent."""
    return 100.0 * (np.asarray(preference, np.float64) - 1.0)


def win_score_values(preference: np.ndarray) -> np.ndarray:
    """``(P,)`` contributions whose mean is the win score."""
    return 50.0 + 100.0 * verdict(preference)


def order_disagreement(by_order: Mapping[str, np.ndarray]) -> np.ndarray:
    """``(P,)`` 100 where the orders give different verdicts (win, tie or loss), else 0."""
    verdict_OP = np.stack([verdict(values) for values in by_order.values()])
    return 100.0 * (verdict_OP != verdict_OP[0]).any(axis=0)


def mean_of(values: np.ndarray) -> Statistic:
    """The mean over prompts of ``(P,)`` or ``(P, C)`` values, as a function of weights; ``NaN`` does not count."""
    there = np.isfinite(values)
    filled, counted = np.where(there, values, 0.0), there.astype(np.float64)

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights_SP @ filled) / (weights_SP @ counted)

    return statistic


def resample(statistics: Mapping[str, Statistic], prompts: int, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Every statistic in each of ``samples`` bootstrap resamples of the prompts, the same ones for all.

    Args:
        statistics: functions of prompt weights ``(S, P)`` that return ``(S, ...)``.
        prompts: ``P``.
        samples: resamples.
        seed: of the resamples.

    Returns:
        For each name ``(samples, ...)`` draws.
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for weights_SP in PromptBootstrap(np.arange(prompts), samples, seed).blocks():
        for name, statistic in statistics.items():
            draws[name].append(statistic(weights_SP))
    return {name: np.concatenate(parts) for name, parts in draws.items()}


def interval_levels(n: int) -> tuple[float, float]:
    """Percentiles of the draws that make a 95 % interval of ``n`` prompts.

    Plain 2.5 and 97.5 % are too narrow for few prompts, by ``sqrt((n - 1) / n)`` and by the normal instead of Student's
    distribution; so they are moved to ``Phi(+-sqrt(n / (n - 1)) t)`` (the expanded percentiles of Hesterberg, "What
    teachers should know about the bootstrap", 2015).
    """
    tail = float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - LEVEL) / 2)))
    return tail, 1 - tail


def estimate(value: float, draws: np.ndarray, *, n: int, standard_error: float | None = None) -> Estimate:
    """A value with its percentile interval (:func:`interval_levels`).

    Args:
        value: the point value.
        draws: ``(S,)`` of the resamples.
        n: prompts behind it; one prompt has no interval.
        standard_error: where there is a formula; ``None`` takes the deviation of the draws.
    """
    finite = draws[np.isfinite(draws)]
    if n < 2 or len(finite) < 2:
        return Estimate(value, why="no interval: a bootstrap needs two prompts")
    low, high = np.quantile(finite, interval_levels(n))
    error = float(finite.std(ddof=1)) if standard_error is None else standard_error
    return Estimate(value, float(low), float(high), standard_error=error)


def mean_estimate(values_P: np.ndarray, draws: np.ndarray) -> Estimate:
    """The mean of the finite ``values_P``, its standard error ``sd / sqrt(n)`` and the interval of its draws."""
    held = values_P[np.isfinite(values_P)]
    if not len(held):
        return Estimate(None, why="there are no prompts")
    error = float(held.std(ddof=1) / np.sqrt(len(held))) if len(held) > 1 else None
    return estimate(float(held.mean()), draws, n=len(held), standard_error=error)


def sign_test(difference_P: np.ndarray) -> float:
    """Two-sided p-value that positive and negative differences are equally frequent; zeros are left out (exact)."""
    positive, negative = int((difference_P > 0).sum()), int((difference_P < 0).sum())
    if not positive + negative:
        return 1.0
    from scipy import stats  # half a second, so not before it is needed

    return float(stats.binomtest(positive, positive + negative).pvalue)


def permutation_test(difference_PC: np.ndarray, *, seed: int = 0, permutations: int = PERMUTATIONS) -> np.ndarray:
    """Two-sided p-values that the mean of each column is zero, by exchanging the two candidates prompt by prompt.

    An exchange turns the sign of a prompt's difference. Up to 12 prompts all sign patterns are tried, beyond that
    random ones, with the observed one counted among them.

    Args:
        difference_PC: ``(P, C)`` differences of ``C`` comparisons; ``NaN`` where a prompt lacks one.
        seed: of the random patterns.
        permutations: their number.

    Returns:
        ``(C,)`` p-values.
    """
    difference_PC = np.nan_to_num(np.asarray(difference_PC, np.float64))
    prompts = len(difference_PC)
    observed = np.abs(difference_PC.sum(axis=0))
    # Sums of the same terms in another order differ in their last digits.
    threshold = observed - 1e-12 * np.abs(difference_PC).sum(axis=0)
    if prompts <= EXACT_PERMUTATION_PROMPTS:
        bits = (np.arange(2**prompts)[:, None] >> np.arange(prompts)) & 1
        return (np.abs((2.0 * bits - 1) @ difference_PC) >= threshold).mean(axis=0)
    rng = np.random.default_rng(seed)
    hits = np.ones(difference_PC.shape[1])
    rows = max(1, _SIGN_ELEMENTS // prompts)
    for first in range(0, permutations, rows):
        signs = 2.0 * rng.integers(0, 2, size=(min(rows, permutations - first), prompts)) - 1
        hits += (np.abs(signs @ difference_PC) >= threshold).sum(axis=0)
    return hits / (permutations + 1)


def bootstrap_test(difference_draws: np.ndarray) -> float:
    """Two-sided p-value that a difference is zero: twice the smaller tail of its bootstrap draws beyond zero."""
    tail = min((difference_draws <= 0).sum(), (difference_draws >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(difference_draws) + 1)))

"""Agreement of several raters beyond what chance alone gives: Cohen's kappa for two, Fleiss' for more.

    kappa = (observed - expected) / (1 - expected)

*Observed* is the share of agreeing ratings of a prompt, *expected* that share if each rating were drawn from the
raters' own frequencies of the categories: of each rater apart (Cohen, 1960), or of all together (Fleiss, 1971). 1 is
full agreement, 0 no more than chance, ``NaN`` where only one category occurs, for chance then agrees fully as well.

Ratings are an array ``ratings_RP`` of ``R`` raters and ``P`` prompts that holds category numbers ``0 .. C - 1`` and
``MISSING``. Figures are functions of prompt weights (:mod:`odin_rm.evaluation.bootstrap`), so that whole prompts are
resampled; at unit weights they are the point values.
"""

from __future__ import annotations

import numpy as np

from odin_rm.evaluation.bootstrap import Statistic

MISSING = -1


def category_counts(ratings_RP: np.ndarray, categories: int) -> np.ndarray:
    """``(P, C)`` how many raters put each prompt into each category."""
    return np.stack([(ratings_RP == category).sum(axis=0) for category in range(categories)], axis=1)


def cohen_kappa(first_P: np.ndarray, second_P: np.ndarray, categories: int) -> Statistic:
    """Cohen's kappa of two raters on the prompts that both have rated.

    Args:
        first_P, second_P: category numbers, ``MISSING`` where there is no rating.
        categories: ``C``.
    """
    both = (first_P != MISSING) & (second_P != MISSING)
    joint_PC = np.zeros((len(first_P), categories * categories))
    joint_PC[both, first_P[both] * categories + second_P[both]] = 1.0

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        table_SCC = (weights_SP @ joint_PC).reshape(-1, categories, categories)
        with np.errstate(invalid="ignore", divide="ignore"):
            table_SCC = table_SCC / table_SCC.sum(axis=(1, 2), keepdims=True)
        observed = np.trace(table_SCC, axis1=1, axis2=2)
        return _beyond_chance(observed, (table_SCC.sum(axis=1) * table_SCC.sum(axis=2)).sum(axis=1))

    return statistic


def fleiss_kappa(counts_PC: np.ndarray) -> Statistic:
    """Fleiss' kappa. Prompts may have different numbers of ratings; those with fewer than two say nothing.

    With ``n`` ratings of each prompt it is Fleiss' own; otherwise every prompt's agreement counts once, and the
    expected agreement goes by all ratings of the prompts that count.

    Args:
        counts_PC: ratings of each prompt in each category.
    """
    rated_PC, agreeing_P = _pairs_of_ratings(counts_PC)

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            share_SC = weights_SP @ rated_PC
            share_SC = share_SC / share_SC.sum(axis=1, keepdims=True)
        return _beyond_chance(_weighted_mean(weights_SP, agreeing_P), (share_SC**2).sum(axis=1))

    return statistic


def observed_agreement(counts_PC: np.ndarray) -> Statistic:
    """The share of pairs of ratings of a prompt that agree, as a mean over the prompts with two ratings or more."""
    _, agreeing_P = _pairs_of_ratings(counts_PC)
    return lambda weights_SP: _weighted_mean(weights_SP, agreeing_P)


def _pairs_of_ratings(counts_PC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The counts without prompts that were rated once, and the share of agreeing pairs (``NaN`` for those)."""
    counts_PC = np.asarray(counts_PC, np.float64)
    n_P = counts_PC.sum(axis=1)
    counted = n_P >= 2
    agreeing_P = np.full(len(counts_PC), np.nan)
    held, n = counts_PC[counted], n_P[counted]
    agreeing_P[counted] = (held * (held - 1)).sum(axis=1) / (n * (n - 1))
    return np.where(counted[:, None], counts_PC, 0.0), agreeing_P


def _weighted_mean(weights_SP: np.ndarray, values_P: np.ndarray) -> np.ndarray:
    there = np.isfinite(values_P)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights_SP @ np.where(there, values_P, 0.0)) / (weights_SP @ there.astype(np.float64))


def _beyond_chance(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    left = 1.0 - expected
    # One category only: the sum of its squared share is 1 up to rounding.
    defined = left > 1e-12
    return np.where(defined, (observed - expected) / np.where(defined, left, 1.0), np.nan)

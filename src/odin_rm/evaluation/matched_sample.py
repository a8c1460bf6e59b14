"""Prompts on which two models' answers are about equally long, so that a comparison is not one of lengths.

Two ways, which go together: keep only pairs of similar length (``longer / shorter <= max_ratio``), and draw the sample
so that the *mean* difference ``d`` of lengths is about zero. For the second, each prompt gets the inclusion probability

    p_i = 1 / (1 + exp(lambda d_i - alpha)),     sum(p) = n,     sum(p d) = 0

which of all designs with those two constraints has the greatest entropy: it leans on no prompt more than it must.
A systematic draw in random order has exactly these probabilities and size; a few exchanges then take away what
sampling left of the difference.
"""

from __future__ import annotations

import numpy as np

from odin_rm.core.errors import DataError

CLOSE_ENOUGH = 0.002
"""A mean difference of so much of the mean length is not made smaller by exchanges."""

_EXCHANGES = 100
_BISECTIONS = 80
_STEEPEST = 60.0


def matched_sample(
    first_P: np.ndarray,
    second_P: np.ndarray,
    *,
    size: int | None = None,
    max_ratio: float | None = None,
    match_mean: bool = True,
    seed: int = 0,
) -> np.ndarray:
    """The prompts of a sample.

    Args:
        first_P, second_P: lengths of both answers, positive, in any unit.
        size: number of prompts; ``None`` takes as many as the matching allows.
        max_ratio: most of ``longer / shorter``; ``None`` takes all.
        match_mean: make the mean difference about zero.
        seed: of the draw.

    Returns:
        Sorted positions.

    Raises:
        DataError: the matching leaves no prompt, or fewer than ``size``.
    """
    first_P, second_P = np.asarray(first_P, np.float64), np.asarray(second_P, np.float64)
    pool = np.arange(len(first_P))
    if max_ratio is not None:
        ratio_P = np.maximum(first_P, second_P) / np.minimum(first_P, second_P)
        pool = pool[ratio_P <= max_ratio]
    largest = _largest_matched(first_P[pool] - second_P[pool]) if match_mean else np.arange(len(pool))
    if not len(largest) or (size is not None and size > len(largest)):
        raise _too_few(len(first_P), len(pool), len(largest), size, match_mean)
    difference = (first_P - second_P)[pool]
    rng = np.random.default_rng(seed)
    if size is None or size == len(largest):
        drawn = largest
    elif match_mean:
        drawn = _systematic(_inclusion(difference, size), size, rng)
    else:
        drawn = rng.choice(len(pool), size=size, replace=False)
    if match_mean:
        tolerance = CLOSE_ENOUGH * len(drawn) * float((first_P + second_P)[pool].mean() / 2)
        drawn = _exchanged(difference, drawn, tolerance, rng)
    return np.sort(pool[drawn])


def _too_few(prompts: int, pool: int, matched: int, size: int | None, match_mean: bool) -> DataError:
    if pool == 0:
        what = f"none of {prompts} prompts has answers of so similar length"
        return DataError(what, where="--max_length_ratio", fix="Give a higher ratio.")
    if matched == 0:
        what = f"one model's answers are the longer ones on all {pool} prompts, so no sample is of equal mean length"
        return DataError(what, where="--match_mean_length", fix="Pass --match_mean_length false.")
    what = f"is {size}, but lengths can be matched on {matched} of {prompts} prompts only"
    fix = "Ask for fewer" + (", or pass --match_mean_length false." if match_mean and pool > matched else ".")
    return DataError(what, where="--sample_size", fix=fix)


def _largest_matched(difference: np.ndarray) -> np.ndarray:
    """As many positions as can be kept: the largest differences on the side of the excess are left out.

    Of the last two steps, before and after the sum changes its sign, the one with the smaller sum counts. Empty where
    all differences are on one side.
    """
    if (difference > 0).all() or (difference < 0).all():
        return np.arange(0)
    excess = float(np.sign(difference.sum()))
    order = np.argsort(-excess * difference, kind="stable")
    left = excess * (difference.sum() - np.concatenate([[0.0], np.cumsum(difference[order])]))
    cut = int(np.argmax(left <= 0))
    return order[cut - 1 :] if cut > 0 and left[cut - 1] < -left[cut] else order[cut:]


def _inclusion(difference: np.ndarray, size: int) -> np.ndarray:
    """Inclusion probabilities that sum to ``size`` with a mean difference of zero, by two nested bisections."""
    scaled = difference / max(float(np.abs(difference).max()), 1e-12)

    def of(slope: float) -> np.ndarray:
        return _with_sum(-slope * scaled, size)

    low, high = -_STEEPEST, _STEEPEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle) @ scaled > 0 else (low, middle)
    return of((low + high) / 2)


def _with_sum(logit: np.ndarray, size: int) -> np.ndarray:
    """``sigmoid(logit + alpha)`` with the ``alpha`` that makes it sum to ``size``."""
    low, high = -np.abs(logit).max() - _STEEPEST, np.abs(logit).max() + _STEEPEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-(logit + middle)))).sum() < size else (low, middle)
    return 1 / (1 + np.exp(-(logit + (low + high) / 2)))


def _systematic(probability: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` positions drawn with the given inclusion probabilities: every unit step along their sum, from a random
    start."""
    order = rng.permutation(len(probability))
    steps = np.cumsum(probability[order] * (size / probability.sum()))
    marks = rng.random() + np.arange(size)
    return order[np.minimum(np.searchsorted(steps, marks, side="right"), len(order) - 1)]


def _exchanged(difference: np.ndarray, drawn: np.ndarray, tolerance: float, rng: np.random.Generator) -> np.ndarray:
    """The sample after the exchanges that bring the sum of its differences nearest to zero."""
    inside = rng.permutation(drawn)
    outside = np.setdiff1d(np.arange(len(difference)), inside)
    for _ in range(_EXCHANGES):
        total = float(difference[inside].sum())
        if abs(total) <= tolerance or not len(outside):
            break
        outside = outside[np.argsort(difference[outside], kind="stable")]
        wanted = difference[inside] - total
        place = np.searchsorted(difference[outside], wanted)
        near = np.stack([np.clip(place - 1, 0, None), np.clip(place, None, len(outside) - 1)])
        missed = np.abs(difference[outside[near]] - wanted)
        side, k = np.unravel_index(int(missed.argmin()), missed.shape)
        if missed[side, k] >= abs(total):
            break
        j = near[side, k]
        inside[k], outside[j] = outside[j], inside[k]
    return inside

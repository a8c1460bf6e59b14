"""Rank correlations and how much each observation moves them, in ``O(n log n)``.

Resampling a rank correlation means ranking again in every resample. For large sets that is the cost of an audit. The
influence of an observation is the first-order change of the statistic with the observation's weight, so the statistic
of a resample is the value plus the weighted mean of influences, and a thousand resamples are one matrix product:

    statistic(w) = value + sum_i w_i influence_i / sum_i w_i
"""

from __future__ import annotations

import numpy as np


def spearman_influence(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Spearman's rank correlation (mid-ranks) and the influence of each observation.

    With ``F`` and ``G`` the mid-rank distribution functions, rho is ``C / sqrt(A B)`` of
    ``C = E[(F(x) - 1/2)(G(y) - 1/2)]``, ``A = E[(F(x) - 1/2)^2]``, ``B`` likewise. An observation moves the products
    and, by its place in the order, the ranks of all others.

    Args:
        x, y: ``(n,)`` values, neither of them constant.

    Returns:
        The value and ``(n,)`` influences, whose mean is 0.
    """
    x_order, y_order = _Order(x), _Order(y)
    f, g = x_order.centred, y_order.centred
    c, a, b = float(np.mean(f * g)), float(np.mean(f * f)), float(np.mean(g * g))
    moves_c = f * g - c + (x_order.mean_at_or_above(g) - c) + (y_order.mean_at_or_above(f) - c)
    moves_a = f * f - a + 2 * (x_order.mean_at_or_above(f) - a)
    moves_b = g * g - b + 2 * (y_order.mean_at_or_above(g) - b)
    value = c / np.sqrt(a * b)
    influence = moves_c / np.sqrt(a * b) - value / 2 * (moves_a / a + moves_b / b)
    return value, influence - influence.mean()


def kendall_influence(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Kendall's tau-b and the influence of each observation.

    ``tau_b = K / sqrt(T U)`` with ``K = E[sign(x - x') sign(y - y')]`` over two observations, ``T`` and ``U`` the
    shares of pairs that are not tied in ``x`` and in ``y``.

    Args:
        x, y: ``(n,)`` values, neither of them constant.

    Returns:
        The value and ``(n,)`` influences, whose mean is 0.
    """
    n = len(x)
    concordance = concordance_sums(x, y) / n
    untied_x, untied_y = (1.0 - _tied(values) / n for values in (x, y))
    k, t, u = concordance.mean(), untied_x.mean(), untied_y.mean()
    value = k / np.sqrt(t * u)
    moves = 2 * (concordance - k) / np.sqrt(t * u) - value * ((untied_x - t) / t + (untied_y - u) / u)
    return float(value), moves - moves.mean()


def concordance_sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``sum_j sign(x_i - x_j) sign(y_i - y_j)`` for each ``i``, by merging sorted halves.

    Args:
        x, y: ``(n,)`` values.
    """
    n = len(x)
    x_rank, y_rank = (np.unique(values, return_inverse=True)[1].astype(np.int64) for values in (x, y))
    order = np.lexsort((y_rank, x_rank))
    y_sorted, x_sorted = y_rank[order], x_rank[order]
    # Below i in x and y, minus below in x and above in y; those that tie with i in x come out of both by their order.
    earlier = _signs_of_earlier(y_sorted)
    same = _signs_in_group(x_sorted, y_sorted)
    below = earlier - same["earlier"]
    all_signs = _signs_in_group(np.zeros(n, dtype=np.int64), y_sorted[np.argsort(y_sorted, kind="stable")])["all"]
    total = np.empty(n)
    total[np.argsort(y_sorted, kind="stable")] = all_signs
    sums = np.empty(n)
    sums[order] = 2 * below - total + same["all"]
    return sums


def _signs_of_earlier(values: np.ndarray) -> np.ndarray:
    """``sum over j < i of sign(v_i - v_j)`` for each position ``i``."""
    n = len(values)
    position, sums = np.arange(n), np.zeros(n)
    top = int(values.max()) + 1 if n else 1
    order = np.argsort(values, kind="stable")  # sorted by value; each level needs it by (block, value)
    half = 1
    while half < n:
        block = position // (2 * half)
        here = order[np.argsort(block[order], kind="stable")]
        left = (position[here] // half) % 2 == 0
        key = block[here] * top + values[here]
        starts = np.flatnonzero(np.r_[True, np.diff(key) > 0])
        group = np.cumsum(np.r_[False, np.diff(key) > 0])
        lefts = np.r_[0, np.cumsum(left)]
        edges = np.r_[starts, n]
        block_starts = np.flatnonzero(np.r_[True, np.diff(block[here]) > 0])
        block_of = np.cumsum(np.r_[False, np.diff(block[here]) > 0])
        first, last = lefts[block_starts][block_of], lefts[np.r_[block_starts[1:], n]][block_of]
        less = lefts[edges[:-1]][group] - first
        greater = last - lefts[edges[1:]][group]
        right = ~left
        sums[here[right]] += (less - greater)[right]
        half *= 2
    return sums


def _signs_in_group(group: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of ``sign(v_i - v_j)`` over the others of a group, for rows sorted by group and then by value."""
    n = len(values)
    starts = np.flatnonzero(np.r_[True, np.diff(group) > 0])
    of_group = np.cumsum(np.r_[False, np.diff(group) > 0])
    first, last = starts[of_group], np.r_[starts[1:], n][of_group]
    change = np.r_[True, (np.diff(values) > 0) | (np.diff(group) > 0)]
    runs = np.flatnonzero(change)
    of_run = np.cumsum(change) - 1
    run_first, run_last = runs[of_run], np.r_[runs[1:], n][of_run]
    less, greater = run_first - first, last - run_last
    return {"earlier": less.astype(np.float64), "all": (less - greater).astype(np.float64)}


def _tied(values: np.ndarray) -> np.ndarray:
    """How many observations have the value of each one, itself among them."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse].astype(np.float64)


class _Order:
    """The order of a column: its centred mid-ranks, and means over what lies at or above each value."""

    def __init__(self, values: np.ndarray) -> None:
        _, self.group, counts = np.unique(values, return_inverse=True, return_counts=True)
        self.n, self.groups = len(values), len(counts)
        below = np.cumsum(counts) - counts
        self.centred = ((below + counts / 2) / self.n - 0.5)[self.group]

    def mean_at_or_above(self, weights: np.ndarray) -> np.ndarray:
        """``(n,)`` sum of the weights above each value plus half of those tied with it, over ``n``."""
        tied = np.bincount(self.group, weights=weights, minlength=self.groups)
        above = tied.sum() - np.cumsum(tied)
        return ((above + tied / 2) / self.n)[self.group]

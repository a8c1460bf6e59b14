"""A bag of words as the floor: hashed unigrams and bigrams, a linear reward, logistic regression on the differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, sparse

BUCKETS = 2**14
RIDGE = 1e-4
_MIX = np.uint64(0x9E3779B97F4A7C15)


def bag_of(sequences: Sequence[np.ndarray]) -> sparse.csr_matrix:
    """``(R, 16384)`` rows of ``log(1 + count)`` of hashed token ids and pairs of neighbours, each row of norm 1.

    Args:
        sequences: ``R`` arrays of token ids, as the backbone reads them.
    """
    places: list[np.ndarray] = []
    values: list[np.ndarray] = []
    ends = [0]
    for one in sequences:
        ids = np.asarray(one, dtype=np.uint64) + np.uint64(1)
        pairs = ids[:-1] * np.uint64(1_000_003) + ids[1:] + np.uint64(2**32)
        mixed = (np.concatenate([ids, pairs]) * _MIX) >> np.uint64(64 - 14)
        place, count = np.unique(mixed.astype(np.int64), return_counts=True)
        value = np.log1p(count)
        places.append(place)
        values.append(value / (np.linalg.norm(value) or 1.0))
        ends.append(ends[-1] + len(place))
    joined = np.concatenate(values or [np.zeros(0)]), np.concatenate(places or [np.zeros(0, np.int64)]), np.array(ends)
    return sparse.csr_matrix(joined, shape=(len(sequences), BUCKETS))


def fit_bag(difference: sparse.csr_matrix, ridge: float = RIDGE) -> np.ndarray:
    """Weights that minimise ``mean_b log(1 + exp(-D_b w)) + ridge / 2 |w|^2``, strictly convex.

    Args:
        difference: ``(B, K)`` rows of chosen minus rejected.
        ridge: strength of the penalty.
    """
    count = difference.shape[0]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = difference @ weights
        lose = np.exp(-np.logaddexp(0.0, margin))
        value = float(np.logaddexp(0.0, -margin).mean() + ridge / 2 * weights @ weights)
        return value, -(difference.T @ lose) / count + ridge * weights

    start = np.zeros(difference.shape[1])
    return np.asarray(optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x)

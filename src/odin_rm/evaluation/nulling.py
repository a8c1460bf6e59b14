"""Taking the mean effect of edits out of a linear head: ``w' = (I - P) w``.

``P`` projects on the span of the mean feature differences of the edits (edited minus original, one for each kind of
edit). A head ``w'`` then gives both sides of each kind of edit the same reward on average, whatever the text. This is
the closed form of projecting the feature before the head (arXiv 2603.03291), so it needs no length when it is used.
"""

from __future__ import annotations

import numpy as np

_RANK = 1e-9


def mean_differences(first_nD: np.ndarray, second_nD: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """``(K, D)`` mean of second minus first feature, one row for each kind, kinds in sorted order.

    Args:
        first_nD, second_nD: ``(n, D)`` features of the two sides.
        kind: ``(n,)`` names of the edits.
    """
    kinds, number = np.unique(kind, return_inverse=True)
    found = np.zeros((len(kinds), first_nD.shape[1]))
    np.add.at(found, number, np.asarray(second_nD, np.float64) - np.asarray(first_nD, np.float64))
    return found / np.bincount(number)[:, None]


def longer_less_shorter(feature_RD: np.ndarray, length_R: np.ndarray) -> np.ndarray:
    """``(D,)`` mean feature of the responses longer than the median, less that of the others.

    The direction of the difference of means (Marks and Tegmark, 2310.06824); zeros where all lengths are equal.
    """
    longer_R = length_R > np.median(length_R)
    if longer_R.all() or not longer_R.any():
        return np.zeros(feature_RD.shape[1])
    return feature_RD[longer_R].mean(0) - feature_RD[~longer_R].mean(0)


def nulled(weight_D: np.ndarray, directions_KD: np.ndarray) -> np.ndarray:
    """``(D,)`` the weight without its part in the span of the directions; dependent and zero directions do no harm."""
    weight_D = np.asarray(weight_D, np.float64)
    sizes = np.linalg.norm(directions_KD, axis=1)
    directions_KD = directions_KD[sizes > 0] / sizes[sizes > 0, None]
    if not len(directions_KD):
        return weight_D
    _, values, basis = np.linalg.svd(directions_KD, full_matrices=False)
    basis = basis[values > _RANK * values[0]]
    return weight_D - basis.T @ (basis @ weight_D)

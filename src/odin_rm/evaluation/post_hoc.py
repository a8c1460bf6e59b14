"""Length taken out of a finished reward: a local regression, and a direction of the features.

``loess`` is the calibration of Huang et al. (2409.17407), which subtracts a locally weighted regression of the reward
on length (Cleveland 1979). ``without_direction`` with ``longer_less_shorter`` takes the difference of means of long and
short answers' features out of a linear head (Marks and Tegmark, 2310.06824).
"""

from __future__ import annotations

import numpy as np

POINTS = 100
SHARE = 0.9
"""Of the values that take part at each point."""


def loess(x_n: np.ndarray, y_n: np.ndarray, at_m: np.ndarray, share: float = SHARE, points: int = POINTS) -> np.ndarray:
    """``(m,)`` locally weighted linear regression of ``y`` on ``x``.

    At a point the ``share`` nearest values count with ``(1 - (distance / largest)^3)^3`` and a line is fitted. It is
    computed at quantiles of ``x`` and interpolated; beyond its ends it is constant.

    Args:
        x_n, y_n: ``(n,)`` values to fit.
        at_m: ``(m,)`` where to read.
        share: of the values that take part.
        points: how many quantiles.
    """
    knots = np.unique(np.quantile(x_n, np.linspace(0, 1, points)))
    near = max(2, int(np.ceil(share * len(x_n))))
    fitted = []
    for knot in knots:
        distance = np.abs(x_n - knot)
        widest = np.partition(distance, near - 1)[near - 1]
        weight = np.clip(1 - (distance / max(widest, np.finfo(float).tiny)) ** 3, 0, None) ** 3
        total = weight.sum()
        if total <= 0:  # all of the nearest lie at the widest distance
            weight, total = np.ones_like(weight), float(len(weight))
        mean_x, mean_y = weight @ x_n / total, weight @ y_n / total
        spread = weight @ (x_n - mean_x) ** 2
        slope = weight @ ((x_n - mean_x) * (y_n - mean_y)) / spread if spread > 0 else 0.0
        fitted.append(mean_y + slope * (knot - mean_x))
    return np.interp(at_m, knots, np.array(fitted))


def longer_less_shorter(feature_RD: np.ndarray, length_R: np.ndarray) -> np.ndarray:
    """``(D,)`` mean feature of the responses longer than the median, less that of the others."""
    longer_R = length_R > np.median(length_R)
    if longer_R.all() or not longer_R.any():
        return np.zeros(feature_RD.shape[1])
    return feature_RD[longer_R].mean(0) - feature_RD[~longer_R].mean(0)


def without_direction(vector_D: np.ndarray, direction_D: np.ndarray) -> np.ndarray:
    """``(D,)`` the part of a vector at right angles to a direction; the vector itself where that is 0."""
    squared = float(direction_D @ direction_D)
    return vector_D - (vector_D @ direction_D) / squared * direction_D if squared else vector_D

"""How large the rewards of a normalised head begin: the scale on a frozen encoder, by the deviation of its features.

A normalised head is a unit vector, so the deviation of its rewards is that of the features times the scale. It decides
how sharply the ranking loss sees a difference. Encoders' features may have a deviation of 0.1 in a direction or of 1.
On frozen features of three kinds, heads that ended at a deviation of 0.3 to 1.4 kept the most content, and 3 or more
lost it (docs/evidence.md, items 35, 41 and 46).

Deviation from the paper (2402.07319), which has a scale of 1 and trained whole decoders: where a backbone is trained,
or is a decoder, the scale stays 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from odin_rm.fast import reads_left_to_right

START_DEVIATION = 0.5
"""Deviation of the rewards of a new head on a frozen encoder, reward units; trained ones end about 1.3 times higher."""


def follows_features(classifier: Any) -> bool:
    """Whether heads on the frozen backbone of a classifier of transformers are scaled by its features: an encoder's."""
    return not reads_left_to_right(getattr(classifier, "base_model", classifier))


def unit_deviation(feature_RD: np.ndarray) -> float:
    """Root mean square deviation of ``h . n(w)`` over responses, for a normalised head of random direction.

    ``n(w)`` is a unit vector without a mean. Over all such directions the mean variance is
    ``tr Cov(h - mean_d h) / (D - 1)``.

    Args:
        feature_RD: ``(R, D)`` features.

    Returns:
        The deviation for a scale of 1, reward units; 0 where features are alike or there is one direction only.
    """
    if feature_RD.shape[1] < 2:
        return 0.0
    rows = np.asarray(feature_RD, np.float64)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return math.sqrt(float(rows.var(axis=0).sum()) / (rows.shape[1] - 1))


def scale_at(deviation: float, target: float = START_DEVIATION) -> float:
    """``target / deviation`` to two digits, so that rounding errors of machines do not show; 1 where there is none."""
    if not deviation > 0 or not math.isfinite(deviation):
        return 1.0
    return float(f"{target / deviation:.2g}")

"""Verbosity twins: the same knowledge said tersely and wordily; which of the two does the reward prefer?

The causal counterpart of a correlation: a reward that is deaf to verbosity prefers the wordier twin in about half of
the rows, one that reads length in nearly all.
"""

from __future__ import annotations

import numpy as np

from odin_rm.core.errors import ShapeError
from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.pairs import half_ties
from odin_rm.evaluation.records import Figure


def verbosity_twins(
    shorter: np.ndarray,
    longer: np.ndarray,
    *,
    prompt: np.ndarray | None = None,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Figure:
    """Share of rows in which the wordier twin has the higher quality reward; ties count half.

    Args:
        shorter, longer: ``(n,)`` quality rewards of the terse and of the wordy twin.
        prompt: ``(n,)`` cluster of each row for the interval; default each row its own.
        bootstrap_samples: resamples of the interval.
        seed: of the resamples.

    Raises:
        ShapeError: the two differ in length.
    """
    shorter, longer = np.asarray(shorter, np.float64), np.asarray(longer, np.float64)
    if shorter.shape != longer.shape or shorter.ndim != 1:
        raise ShapeError(f"shorter and longer must be vectors of one length, not {shorter.shape} and {longer.shape}")
    return bootstrap_mean(half_ties(longer - shorter), prompt, samples=bootstrap_samples, seed=seed)

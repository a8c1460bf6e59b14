"""Association of reward with length: weighted Pearson, Spearman, Kendall and Pearson within a prompt.

An independent twin of the training losses: numpy and scipy only, no code in common with ``odin_rm.objectives``.
Every function returns a :class:`Figure` without interval; ``evaluation.bootstrap`` adds the interval.
"""

from __future__ import annotations

import numpy as np

from odin_rm.core.errors import ShapeError
from odin_rm.evaluation.records import Figure

MIN_POINTS = 3
# Relative spread below which values count as constant: rounding noise of a constant float64 column stays under it.
CONSTANT_TOLERANCE = 1e-12


def is_constant(values: np.ndarray) -> bool:
    """Whether the values differ by rounding noise at most."""
    if len(values) == 0:
        return True
    return bool(np.ptp(values) <= CONSTANT_TOLERANCE * np.max(np.abs(values)))


def undefined_reason(x: np.ndarray, y: np.ndarray, *, x_name: str = "reward", y_name: str = "length") -> str | None:
    """Why no correlation of ``x`` with ``y`` exists, or ``None`` where one does.

    Args:
        x, y: ``(R,)`` values.
        x_name, y_name: what to call them in the reason.
    """
    if x.shape != y.shape or x.ndim != 1:
        raise ShapeError(f"{x_name} and {y_name} must be vectors of one length, not {x.shape} and {y.shape}")
    if len(x) < MIN_POINTS:
        return f"fewer than {MIN_POINTS} responses"
    if is_constant(x):
        return f"the {x_name} is the same for every response"
    if is_constant(y):
        return f"the {y_name} is the same for every response"
    return None


def pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> Figure:
    """Weighted Pearson correlation ``cov_w(x, y) / sqrt(var_w(x) var_w(y))``.

    Args:
        x, y: ``(R,)`` values.
        weights: ``(R,)`` non-negative weights (a weight of 2 is the point twice); default all 1.

    Returns:
        The correlation, or an undefined figure (constant values, fewer than three points).
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.shape != y.shape or x.shape != w.shape:
        raise ShapeError(f"reward, length and weights must be of one length, not {x.shape}, {y.shape} and {w.shape}")
    held = w > 0
    why = undefined_reason(x[held], y[held])
    if why is not None:
        return Figure(None, why=why)
    x, y, w = x[held], y[held], w[held] / w[held].sum()
    x, y = x - w @ x, y - w @ y
    value = (w @ (x * y)) / np.sqrt((w @ (x * x)) * (w @ (y * y)))
    return Figure(float(np.clip(value, -1.0, 1.0)))


def spearman(x: np.ndarray, y: np.ndarray) -> Figure:
    """Spearman rank correlation, ties at their mean rank (scipy).

    Args:
        x, y: ``(R,)`` values.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    why = undefined_reason(x, y)
    if why:
        return Figure(None, why=why)
    from scipy import stats  # half a second, so not before it is needed

    return Figure(float(stats.spearmanr(x, y).statistic))


def kendall(x: np.ndarray, y: np.ndarray) -> Figure:
    """Kendall tau-b, which corrects for ties in either variable (scipy).

    Args:
        x, y: ``(R,)`` values.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    why = undefined_reason(x, y)
    # The asymptotic method skips the exact p-value, which nobody reads here.
    if why:
        return Figure(None, why=why)
    from scipy import stats  # half a second, so not before it is needed

    return Figure(float(stats.kendalltau(x, y, method="asymptotic").statistic))


def centre_within(values: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Values minus the mean of their prompt.

    Args:
        values: ``(R,)`` values.
        prompt: ``(R,)`` prompt numbers ``0 .. P - 1``.

    Returns:
        ``(R,)`` centred values; rounding noise of a prompt with equal values is exact zero.
    """
    count = np.maximum(np.bincount(prompt), 1)
    mean = np.bincount(prompt, weights=values) / count
    centred = values - mean[prompt]
    noise = CONSTANT_TOLERANCE * np.max(np.abs(values), initial=0.0)
    return np.where(np.abs(centred) <= noise, 0.0, centred)


def pearson_within_prompt(x: np.ndarray, y: np.ndarray, prompt: np.ndarray) -> Figure:
    """Pearson of ``x`` and ``y`` after each prompt's responses are centred: what RL can exploit.

    ``sum_p sum_i dx_pi dy_pi / sqrt(sum dx^2 sum dy^2)`` with ``dx_pi = x_pi - mean_p x``. A prompt with a single
    response contributes nothing.

    Args:
        x, y: ``(R,)`` values.
        prompt: ``(R,)`` prompt numbers, any integers.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _, number = np.unique(prompt, return_inverse=True)
    several = np.bincount(number)[number] > 1
    if several.sum() < MIN_POINTS:
        return Figure(None, why=f"fewer than {MIN_POINTS} responses share a prompt with another")
    dx, dy = centre_within(x, number)[several], centre_within(y, number)[several]
    if not dx.any() or not dy.any():
        what = "length" if dx.any() else "reward"
        return Figure(None, why=f"within every prompt the {what} is the same for every response")
    value = (dx @ dy) / np.sqrt((dx @ dx) * (dy @ dy))
    return Figure(float(np.clip(value, -1.0, 1.0)))

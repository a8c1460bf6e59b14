"""Correlation of a reward with response length, as a differentiable function of the scores of one batch.

The paper's length loss (ODIN, section 3.2) uses Pearson's coefficient over the global batch. The coefficient of a union
is not a mean of coefficients, so these functions must be given *all* scores of the optimiser batch at once (see
``odin_rm.reward.exact_batch``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odin_rm.objectives.checks import check_index, check_vector


@dataclass(frozen=True)
class Association:
    """A correlation and whether it exists.

    Attributes:
        value: ``()`` coefficient in ``[-1, 1]``; 0 without gradient where it is undefined.
        degenerate: ``()`` bool, true where one side is constant (or fewer than two responses carry weight).
    """

    value: Tensor
    degenerate: Tensor


def pearson(x_R: Tensor, y_R: Tensor, weight_R: Tensor | None = None) -> Association:
    """Weighted Pearson correlation of two vectors.

    ``rho = sum w (x - mx)(y - my) / sqrt(sum w (x - mx)^2 * sum w (y - my)^2)`` with ``mx = sum w x / sum w``. Integer
    weights give the coefficient of the multiset in which entry ``r`` stands ``weight_R[r]`` times.

    Args:
        x_R: ``(R,)`` first variable (a reward, in reward units).
        y_R: ``(R,)`` second variable (a length, in tokens).
        weight_R: ``(R,)`` non-negative weights; ``None`` for ones.

    Returns:
        The coefficient; 0 with zero gradient, never NaN, where one side is constant.

    Raises:
        ShapeError: an argument is not a floating vector or the sizes differ.
    """
    check_vector("x_R", x_R)
    check_vector("y_R", y_R, len(x_R))
    weight_R = torch.ones_like(x_R) if weight_R is None else weight_R
    check_vector("weight_R", weight_R, len(x_R))
    centred_x_R, constant_x = _centre(x_R, weight_R)
    centred_y_R, constant_y = _centre(y_R, weight_R)
    return _cosine(centred_x_R, centred_y_R, weight_R, constant_x | constant_y)


def pearson_within(x_R: Tensor, y_R: Tensor, group_R: Tensor, weight_R: Tensor | None = None) -> Association:
    """Weighted Pearson correlation of two vectors after each group's own weighted mean is taken off both.

    With the prompt as group this is the association *within* a prompt, the part that a policy can exploit.

    Args:
        x_R: ``(R,)`` first variable.
        y_R: ``(R,)`` second variable.
        group_R: ``(R,)`` integer group of each entry.
        weight_R: ``(R,)`` non-negative weights; ``None`` for ones.

    Returns:
        The coefficient; 0 with zero gradient where no group has two different values on both sides.

    Raises:
        ShapeError: an argument has the wrong type or size.
    """
    check_vector("x_R", x_R)
    check_vector("y_R", y_R, len(x_R))
    weight_R = torch.ones_like(x_R) if weight_R is None else weight_R
    check_vector("weight_R", weight_R, len(x_R))
    check_index("group_R", group_R, int(group_R.max()) + 1 if len(group_R) else 1)
    centred_x_R, constant_x = _centre(x_R, weight_R, group_R)
    centred_y_R, constant_y = _centre(y_R, weight_R, group_R)
    return _cosine(centred_x_R, centred_y_R, weight_R, constant_x | constant_y)


def _centre(x_R: Tensor, weight_R: Tensor, group_R: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``x`` less its (group's) weighted mean, and whether what is left is only rounding."""
    if group_R is None:
        mean_R = (weight_R * x_R).sum() / weight_R.sum().clamp_min(torch.finfo(x_R.dtype).tiny)
    else:
        groups = int(group_R.max()) + 1 if len(group_R) else 1
        zeros_P = torch.zeros(groups, dtype=x_R.dtype, device=x_R.device)
        weight_P = zeros_P.index_add(0, group_R, weight_R).clamp_min(torch.finfo(x_R.dtype).tiny)
        mean_R = (zeros_P.index_add(0, group_R, weight_R * x_R) / weight_P)[group_R]
    centred_R = x_R - mean_R
    # A constant vector leaves rounding of the order of eps * |x|, which a correlation would blow up to +-1.
    eps = torch.finfo(x_R.dtype).eps
    scale = (weight_R * x_R.detach() ** 2).sum()
    constant = (weight_R * centred_R.detach() ** 2).sum() <= (16 * eps) ** 2 * scale
    return centred_R, constant


def _cosine(x_R: Tensor, y_R: Tensor, weight_R: Tensor, degenerate: Tensor) -> Association:
    xx = (weight_R * x_R**2).sum()
    yy = (weight_R * y_R**2).sum()
    # Both branches of torch.where are differentiated: the denominator must be harmless in the branch not taken.
    one = torch.ones_like(xx)
    denominator = torch.where(degenerate, one, xx).sqrt() * torch.where(degenerate, one, yy).sqrt()
    value = torch.where(degenerate, torch.zeros_like(xx), (weight_R * x_R * y_R).sum() / denominator)
    return Association(value, degenerate)

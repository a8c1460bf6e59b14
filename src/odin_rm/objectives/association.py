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
    weight_R, centred_x_R, centred_y_R, constant = _centred_within(x_R, y_R, group_R, weight_R)
    return _cosine(centred_x_R, centred_y_R, weight_R, constant)


def unbiased_square(x_R: Tensor, y_R: Tensor) -> Association:
    """Squared covariance without its bias, in units of both variances: 0 on average where the two are independent.

    Of ``n`` values the squared coefficient of :func:`pearson` is ``1 / (n - 1)`` on average even then, and a penalty
    on it turns rewards towards the noise of each batch. This is the U-statistic (Song et al. 2012, "Feature selection
    via dependence maximization", equation 5, with linear kernels), the mean over four different responses of

        x_i y_i x_j y_j - 2 x_i y_i x_j y_k + x_i y_j x_k y_l,

    divided by both variances (with ``n - 1``). It may be negative.

    Args:
        x_R: ``(n,)`` first variable.
        y_R: ``(n,)`` second variable.

    Returns:
        The estimate; 0 with zero gradient where one side is constant or there are fewer than four values.

    Raises:
        ShapeError: an argument is not a floating vector or the sizes differ.
    """
    check_vector("x_R", x_R)
    check_vector("y_R", y_R, len(x_R))
    n = len(x_R)
    ones_R = torch.ones_like(x_R)
    # Neither term changes when a constant is taken off; small numbers lose fewer digits.
    x_R, constant_x = _centre(x_R, ones_R)
    y_R, constant_y = _centre(y_R, ones_R)
    degenerate = constant_x | constant_y if n >= 4 else torch.ones_like(constant_x)
    if n < 4:
        return Association(torch.zeros_like(x_R.sum()), degenerate)
    xx, yy = (x_R**2).sum(), (y_R**2).sum()
    row_x_R, row_y_R = x_R * (x_R.sum() - x_R), y_R * (y_R.sum() - y_R)
    trace = (x_R * y_R).sum() ** 2 - (x_R**2 * y_R**2).sum()
    corners = (x_R.sum() ** 2 - xx) * (y_R.sum() ** 2 - yy) / ((n - 1) * (n - 2))
    squared = (trace + corners - 2 * (row_x_R * row_y_R).sum() / (n - 2)) / (n * (n - 3))
    one = torch.ones_like(xx)
    scale = torch.where(degenerate, one, xx) * torch.where(degenerate, one, yy) / (n - 1) ** 2
    return Association(torch.where(degenerate, torch.zeros_like(xx), squared / scale), degenerate)


def unbiased_square_within(x_R: Tensor, y_R: Tensor, group_R: Tensor, weight_R: Tensor | None = None) -> Association:
    """The squared association within groups from products of *different* groups only, so without its bias.

        c_g = sum_r w (x - mean of g)(y - mean of g),
        n / (n - 1) * ((sum_g c_g)^2 - sum_g c_g^2) / (sum w (x - mean of g)^2 * sum w (y - mean of g)^2)

    with ``n`` the groups of more than one value. For many groups it is the square of :func:`pearson_within`; where the
    two are independent it is 0 on average, and it may be negative.

    Args:
        x_R, y_R, group_R, weight_R: as of :func:`pearson_within`.

    Returns:
        The estimate; 0 with zero gradient where it does not exist, as with fewer than two groups of several values.

    Raises:
        ShapeError: an argument has the wrong type or size.
    """
    weight_R, centred_x_R, centred_y_R, constant = _centred_within(x_R, y_R, group_R, weight_R)
    groups = _groups(group_R)
    zeros_P = torch.zeros(groups, dtype=x_R.dtype, device=x_R.device)
    products_P = zeros_P.index_add(0, group_R, weight_R * centred_x_R * centred_y_R)
    several = int((torch.bincount(group_R[weight_R > 0], minlength=groups) > 1).sum())
    degenerate = constant | torch.as_tensor(several < 2, device=x_R.device)
    xx, yy = (weight_R * centred_x_R**2).sum(), (weight_R * centred_y_R**2).sum()
    one = torch.ones_like(xx)
    scale = torch.where(degenerate, one, xx) * torch.where(degenerate, one, yy)
    squared = (products_P.sum() ** 2 - (products_P**2).sum()) * several / max(1, several - 1)
    return Association(torch.where(degenerate, torch.zeros_like(xx), squared / scale), degenerate)


def intraclass(x_R: Tensor, group_R: Tensor, weight_R: Tensor | None = None) -> Association:
    """Fisher's intraclass correlation: how alike two values of one group are, the share of variance between groups.

        sum over pairs r, s of one group of w_r w_s (x_r - m)(x_s - m) / sum w_r w_s   /   (sum w (x - m)^2 / sum w)

    with ``m`` the weighted mean of all. It is free of what the spread within a group adds to the variance of means.

    Args:
        x_R: ``(R,)`` values.
        group_R: ``(R,)`` integer group of each.
        weight_R: ``(R,)`` non-negative weights; ``None`` for ones.

    Returns:
        The coefficient, below 0 where values of one group differ more than others; 0 with zero gradient where all
        values are equal or no group has two of them.

    Raises:
        ShapeError: an argument has the wrong type or size.
    """
    check_vector("x_R", x_R)
    weight_R = torch.ones_like(x_R) if weight_R is None else weight_R
    check_vector("weight_R", weight_R, len(x_R))
    groups = _groups(group_R)
    check_index("group_R", group_R, groups)
    centred_R, constant = _centre(x_R, weight_R)
    zeros_P = torch.zeros(groups, dtype=x_R.dtype, device=x_R.device)
    sum_P = zeros_P.index_add(0, group_R, weight_R * centred_R)
    weight_P = zeros_P.index_add(0, group_R, weight_R)
    pairs = (weight_P**2).sum() - (weight_R**2).sum()
    degenerate = constant | (pairs <= 0)
    one = torch.ones_like(pairs)
    between = ((sum_P**2).sum() - (weight_R**2 * centred_R**2).sum()) / torch.where(degenerate, one, pairs)
    variance = (weight_R * centred_R**2).sum() / weight_R.sum().clamp_min(torch.finfo(x_R.dtype).tiny)
    value = between / torch.where(degenerate, one, variance)
    return Association(torch.where(degenerate, torch.zeros_like(pairs), value), degenerate)


def _groups(group_R: Tensor) -> int:
    return int(group_R.max()) + 1 if len(group_R) else 1


def _centred_within(
    x_R: Tensor, y_R: Tensor, group_R: Tensor, weight_R: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Checked arguments as weights, both columns less their group's mean, and whether one of them is constant."""
    check_vector("x_R", x_R)
    check_vector("y_R", y_R, len(x_R))
    weight_R = torch.ones_like(x_R) if weight_R is None else weight_R
    check_vector("weight_R", weight_R, len(x_R))
    check_index("group_R", group_R, _groups(group_R))
    centred_x_R, constant_x = _centre(x_R, weight_R, group_R)
    centred_y_R, constant_y = _centre(y_R, weight_R, group_R)
    return weight_R, centred_x_R, centred_y_R, constant_x | constant_y


def _centre(x_R: Tensor, weight_R: Tensor, group_R: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``x`` less its (group's) weighted mean, and whether what is left is only rounding."""
    if group_R is None:
        mean_R = (weight_R * x_R).sum() / weight_R.sum().clamp_min(torch.finfo(x_R.dtype).tiny)
    else:
        zeros_P = torch.zeros(_groups(group_R), dtype=x_R.dtype, device=x_R.device)
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

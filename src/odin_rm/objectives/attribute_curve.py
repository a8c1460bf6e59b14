"""Functions of attributes and of nothing else: likeness of two responses, and an explicit curve with its first fit.

All are pure functions of float64 tensors. Attributes are compared on a logarithmic scale: ``log L`` for response
tokens, ``log(1 + a)`` for counts that can be 0, so that a difference is a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from odin_rm.core.types import RESPONSE_TOKENS

POWERS, SPLINE = "powers", "spline"
TOKENS_UNIT = 300.0
"""Tokens; the powers are of the length in this unit, so that they are of the order of 1."""
KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)
"""Quantiles of log length at which the spline has its knots."""
_NEWTON_STEPS, _NEWTON_TOLERANCE = 100, 1e-12


def log_attribute(name: str, value_R: Tensor) -> Tensor:
    """``(R,)`` an attribute on a logarithmic scale: ``log max(L, 1)`` of tokens, ``log(1 + a)`` of another."""
    return value_R.clamp_min(1.0).log() if name == RESPONSE_TOKENS else torch.log1p(value_R)


def match_weight(delta_KB: Tensor, tau_K: Tensor) -> Tensor:
    """``(B,)`` likeness of the two responses of a pair: ``exp(-sum_k delta_k^2 / (2 tau_k^2))``, 1 where they agree.

    Args:
        delta_KB: ``(K, B)`` differences of the logarithms of ``K`` attributes.
        tau_K: ``(K,)`` widths on the same scale; an infinite one compares nothing.
    """
    return torch.exp(-0.5 * (delta_KB / tau_K[:, None]).pow(2).sum(0))


def length_powers(tokens_R: Tensor) -> Tensor:
    """``(R, 3)`` columns ``L/300``, ``sqrt(L/300)`` and ``log(1 + L)``."""
    scaled_R = tokens_R / TOKENS_UNIT
    return torch.stack([scaled_R, scaled_R.sqrt(), torch.log1p(tokens_R)], dim=1)


def spline_knots(log_R: Tensor) -> Tensor:
    """Distinct knots at the quantiles :data:`KNOTS` of some logarithms."""
    return torch.unique(torch.quantile(log_R, torch.tensor(KNOTS, dtype=log_R.dtype)))


def natural_spline(value_R: Tensor, knot_K: Tensor) -> Tensor:
    """``(R, max(1, K - 1))`` columns of a natural cubic spline: the value, and ``K - 2`` that bend between the knots.

    Outside of the knots every column is a straight line. With fewer than three knots it is the value alone.

    Args:
        value_R: ``(R,)`` where to take it.
        knot_K: ``(K,)`` ascending knots.
    """
    columns = [value_R]
    if len(knot_K) >= 3:
        last, before = knot_K[-1], knot_K[-2]

        def cubic(knot: Tensor) -> Tensor:
            above = (value_R - knot).clamp_min(0).pow(3) - (value_R - last).clamp_min(0).pow(3)
            return above / (last - knot)

        end_R = cubic(before)
        columns += [(cubic(knot) - end_R) / (last - knot_K[0]) for knot in knot_K[:-2]]
    return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class CurveBasis:
    """Whitened columns of attributes.

    Attributes:
        names: attributes that the curve reads.
        shape: ``powers`` or ``spline`` of the length; other attributes give ``a`` and ``log(1 + a)``.
        knot_K: knots of the spline.
        mean_C: means of the raw columns.
        whiten_CD: what makes the centred columns uncorrelated, with deviations of 1; columns that say nothing are gone.
    """

    names: tuple[str, ...]
    shape: str
    knot_K: Tensor
    mean_C: Tensor
    whiten_CD: Tensor

    @classmethod
    def of(cls, attributes: Mapping[str, Tensor], names: tuple[str, ...], shape: str) -> CurveBasis:
        """The basis whose columns are white on some responses.

        Args:
            attributes: by name, ``(R,)`` float64.
            names: which of them.
            shape: of the length's columns.
        """
        knot_K = torch.zeros(0, dtype=torch.float64)
        if RESPONSE_TOKENS in names:
            knot_K = spline_knots(log_attribute(RESPONSE_TOKENS, attributes[RESPONSE_TOKENS]))
        raw_RC = _raw_columns(attributes, names, shape, knot_K)
        mean_C = raw_RC.mean(0)
        centred_RC = raw_RC - mean_C
        values, vectors = torch.linalg.eigh(centred_RC.T @ centred_RC / max(1, len(raw_RC)))
        kept = values > 1e-10 * values.max().clamp_min(torch.finfo(torch.float64).tiny)
        kept &= values > 1e-12
        return cls(names, shape, knot_K, mean_C, vectors[:, kept] / values[kept].sqrt())

    def columns(self, attributes: Mapping[str, Tensor]) -> Tensor:
        """``(R, D)`` white columns of responses."""
        raw_RC = _raw_columns(attributes, self.names, self.shape, self.knot_K)
        return (raw_RC - self.mean_C) @ self.whiten_CD


def _raw_columns(attributes: Mapping[str, Tensor], names: tuple[str, ...], shape: str, knot_K: Tensor) -> Tensor:
    parts = []
    for name in names:
        value_R = attributes[name]
        if name != RESPONSE_TOKENS:
            parts.append(torch.stack([value_R, torch.log1p(value_R)], dim=1))
        elif shape == POWERS:
            parts.append(length_powers(value_R))
        else:
            parts.append(natural_spline(log_attribute(name, value_R), knot_K))
    return torch.cat(parts, dim=1)


def curve_gradient(
    curve_D: Tensor, gap_B: Tensor, delta_BD: Tensor, weight_B: Tensor, ridge: float
) -> tuple[Tensor, Tensor]:
    """Derivatives by beta of ``sum_b w_b log(1 + exp(-gap_b - delta_b . beta)) + ridge |beta|^2``, the first two.

    Args:
        curve_D: ``(D,)`` beta.
        gap_B: ``(B,)`` reward of the chosen less the rejected one, less the margin.
        delta_BD: ``(B, D)`` columns of the chosen less those of the rejected one.
        weight_B: ``(B,)`` weights.
        ridge: weight of ``|beta|^2``.

    Returns:
        ``(D,)`` and ``(D, D)``.
    """
    lost_B = torch.sigmoid(-(gap_B + delta_BD @ curve_D))
    gradient_D = 2 * ridge * curve_D - delta_BD.T @ (weight_B * lost_B)
    bend_B = weight_B * lost_B * (1 - lost_B)
    eye = torch.eye(len(curve_D), dtype=curve_D.dtype)
    return gradient_D, delta_BD.T @ (bend_B[:, None] * delta_BD) + 2 * ridge * eye


def fit_curve(gap_B: Tensor, delta_BD: Tensor, weight_B: Tensor, ridge: float) -> Tensor:
    """``(D,)`` the curve that explains the preferences best: Newton's method, with halved steps where it overshoots.

    Arguments are those of :func:`curve_gradient`; with a positive ridge there is one minimum.
    """
    curve_D = torch.zeros(delta_BD.shape[1], dtype=torch.float64)

    def loss(beta_D: Tensor) -> Tensor:
        fit = torch.nn.functional.softplus(-(gap_B + delta_BD @ beta_D))
        return (weight_B * fit).sum() + ridge * beta_D.pow(2).sum()

    for _ in range(_NEWTON_STEPS):
        gradient_D, hessian_DD = curve_gradient(curve_D, gap_B, delta_BD, weight_B, ridge)
        step_D = torch.linalg.lstsq(hessian_DD, gradient_D[:, None]).solution[:, 0]
        size, here = 1.0, loss(curve_D)
        while size > 1e-6 and not bool(loss(curve_D - size * step_D) <= here):
            size /= 2
        curve_D = curve_D - size * step_D
        if float(gradient_D @ step_D) < _NEWTON_TOLERANCE:
            break
    return curve_D

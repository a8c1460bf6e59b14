"""Estimates of the KL divergence from the policy to its reference, and the controller of its coefficient.

Schulman 2020, "Approximating KL Divergence"; Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences"
(arXiv 1909.08593), section 2.2.

With tokens of the policy and ``d = log pi - log pi_ref``, the *values* of k1 and k3 have ``KL(pi || pi_ref)`` as their
expectation and that of k2 is close to it. As a term of the *loss*, where the gradient goes through ``log pi`` only,
the expected gradients are others:

- k1: zero, whatever the policy (``E[grad log pi] = 0``); it is of use as a cost in the reward only;
- k2: ``E[d grad log pi]``, the gradient of ``KL(pi || pi_ref)`` itself;
- k3: ``E[(1 - pi_ref / pi) grad log pi]``, the gradient of the other direction, ``KL(pi_ref || pi)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from odin_rm.core.errors import NumericalError, ShapeError
from odin_rm.objectives.checks import check_tokens

MOST_ERROR = 0.2


def kl_estimate(policy_log_probs_BT: Tensor, reference_log_probs_BT: Tensor, kind: str) -> Tensor:
    """One-sample estimate of the KL of each token, differentiable in the policy.

    ``k1 = d``, ``k2 = d^2 / 2``, ``k3 = exp(-d) - 1 + d`` with ``d = policy - reference``. Neither
    k2 nor k3 is ever negative.

    Args:
        policy_log_probs_BT: ``(B, T)`` log-probs of the written tokens under the policy, nats.
        reference_log_probs_BT: ``(B, T)`` the same under the reference.
        kind: ``"k1"``, ``"k2"`` or ``"k3"``.

    Returns:
        ``(B, T)`` nats; what stands on padding is for the caller to leave out.

    Raises:
        ShapeError: shapes do not fit, or the kind is unknown.
    """
    check_tokens("policy_log_probs_BT", policy_log_probs_BT)
    check_tokens("reference_log_probs_BT", reference_log_probs_BT, policy_log_probs_BT.shape)
    difference_BT = policy_log_probs_BT - reference_log_probs_BT
    if kind == "k1":
        return difference_BT
    if kind == "k2":
        return difference_BT**2 / 2
    if kind == "k3":
        # expm1: exp(-d) - 1 would lose the digits of a small difference.
        return torch.expm1(-difference_BT) + difference_BT
    raise ShapeError(f"'kind' must be k1, k2 or k3, it is {kind!r}")


def adapt_kl_coef(kl_coef: float, observed_kl: float, *, target: float, horizon: float, responses: int) -> float:
    """The next KL coefficient under the proportional controller of Ziegler et al. (section 2.2).

    ``beta (1 + clip(observed / target - 1, -0.2, 0.2) * responses / horizon)``.

    Args:
        kl_coef: ``beta`` so far.
        observed_kl: mean KL per response since the last change, nats.
        target: the KL per response that is wanted, nats.
        horizon: number of responses over which the coefficient moves.
        responses: number of responses that ``observed_kl`` is a mean of.

    Raises:
        ShapeError: ``target`` is not positive, or there are five times as many responses as ``horizon`` (the
            coefficient could change its sign).
        NumericalError: the observed KL is not finite.
    """
    if not target > 0 or not 0 <= responses < horizon / MOST_ERROR:
        raise ShapeError(f"{responses} responses are too many for a KL target of {target} and a horizon of {horizon}")
    if not math.isfinite(observed_kl):
        raise NumericalError(f"the KL to the reference policy is {observed_kl}", fix="Lower the learning rate")
    error = min(max(observed_kl / target - 1, -MOST_ERROR), MOST_ERROR)
    return kl_coef * (1 + error * responses / horizon)

"""``--objective inform``: a reward through a noisy bottleneck (InfoRM, Miao et al. 2024, 2402.09345, NeurIPS 2024).

    z ~ N(mu(h), sigma(h)^2),    L = E -log sigmoid(z_c - z_r) + beta KL(N(mu, sigma^2) || N(0, 1))

What a reward needs not know costs bits, and goes. ``mu`` is the quality head and ``log sigma`` a second head,
``spread``.

Deviations: the bottleneck is the reward itself (one number, where the paper has 512 and a linear read-out behind
them), so what is exported is the mean ``mu(h)``, as at the authors' scoring; the expectation over the noise is an
integral over one normal variable, done by Gauss-Hermite quadrature with 64 points instead of one draw, so the loss is
a function.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.rivals.settings import InformSettings

SPREAD = "spread"
POINTS = 64


def noisy_ranking(difference_B: Tensor, deviation_B: Tensor) -> Tensor:
    """``(B,)`` ``E_t -log sigmoid(d + s t)`` with ``t`` standard normal, nats.

    Args:
        difference_B: ``(B,)`` ``d``, difference of the means.
        deviation_B: ``(B,)`` ``s``, deviation of the difference.
    """
    place_k, weight_k = (torch.as_tensor(x).to(difference_B) for x in _hermite())
    return F.softplus(-(difference_B[:, None] + deviation_B[:, None] * place_k)) @ weight_k


def standard_kl(mean_S: Tensor, log_deviation_S: Tensor) -> Tensor:
    """``(S,)`` ``KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - 1) / 2 - log sigma``, nats."""
    return (mean_S**2 + (2 * log_deviation_S).exp() - 1) / 2 - log_deviation_S


@functools.cache
def _hermite() -> tuple[np.ndarray, np.ndarray]:
    place_k, weight_k = np.polynomial.hermite_e.hermegauss(POINTS)
    return place_k, weight_k / weight_k.sum()


class Inform(Objective):
    """The noisy ranking loss and ``beta`` times the divergence."""

    settings: InformSettings

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """Both terms."""
        quality, spread = scores.quality, scores.heads[SPREAD]
        chosen, rejected = batch.chosen_B.to(quality.device), batch.rejected_B.to(quality.device)
        difference_B = quality[chosen] - quality[rejected] - batch.margin_B.to(quality)
        deviation_B = ((2 * spread[chosen]).exp() + (2 * spread[rejected]).exp()).sqrt()
        ranking = noisy_ranking(difference_B, deviation_B).mean()
        slots = torch.cat([chosen, rejected])
        divergence = standard_kl(quality[slots], spread[slots]).mean()
        told = ranked(RewardScores(quality), batch).with_ranking(ranking)
        return told.plus(self.settings.penalty_weight * divergence, bottleneck_loss=divergence)

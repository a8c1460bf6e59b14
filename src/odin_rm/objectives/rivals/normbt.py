"""``--objective normbt``: pairs weigh less the farther their features are apart (NormBT, 2512.06343, ICML 2026).

    L = mean_b v_b -log sigmoid(r_c - r_r),    v_b = (1 / |h_c - h_r|) / mean_b (1 / |h_c - h_r|)

The gradient of a ranking loss in a linear head is ``(1 - p) (h_c - h_r)``, so pairs with a large distance (of length,
of style) move it most, whatever they teach. The weights have no gradient.

Deviations: weights are divided by their mean over the whole optimiser batch, not over a device's part of it; a distance
below a hundredth of the batch's mean counts as that hundredth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.preference import bradley_terry
from odin_rm.objectives.rivals.settings import NormBtSettings

SMALLEST = 0.01


def inverse_distance(difference_BD: Tensor) -> Tensor:
    """``(B,)`` weights ``1 / |D_b|`` with mean 1; ones where all features are the same."""
    distance_B = torch.linalg.vector_norm(difference_BD, dim=1)
    mean = distance_B.mean()
    if not bool(mean > 0):
        return torch.ones_like(distance_B)
    inverse_B = 1 / distance_B.clamp_min(SMALLEST * mean)
    return inverse_B / inverse_B.mean()


class NormBt(Objective):
    """The weighted ranking loss."""

    settings: NormBtSettings
    reads_feature = True

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """The weighted ranking loss."""
        quality, feature = scores.quality, scores.feature
        assert feature is not None, "the objective asks for the feature"
        chosen, rejected = batch.chosen_B.to(quality.device), batch.rejected_B.to(quality.device)
        weight_B = inverse_distance((feature[chosen] - feature[rejected]).detach())
        loss_B = bradley_terry(quality[chosen], quality[rejected], batch.margin_B.to(quality))
        loss = (weight_B * loss_B).mean()
        return ranked(scores, batch).with_ranking(loss).plus(0.0, largest_weight=weight_B.max())

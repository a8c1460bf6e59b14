"""``--objective bsr``: rewards that sum to zero (Hong et al. 2025, "On the Robustness of Reward Models", 2505.07271).

    L = L_R + lambda B m^2,    m the mean of all 2B rewards

The paper's term keeps rewards from growing without end in one direction. Deviation: ``B`` and ``m`` are those of the
whole optimiser batch; the authors' code takes both of one device's micro-batch (16 pairs), so that its term depends on
how many devices there are.
"""

from __future__ import annotations

from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.rivals.settings import BsrSettings


def sum_to_zero(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """``()`` ``B m^2`` with ``m`` the mean of the rewards of ``B`` chosen and ``B`` rejected slots."""
    mean = (chosen_B.sum() + rejected_B.sum()) / (2 * len(chosen_B))
    return len(chosen_B) * mean**2


class Bsr(Objective):
    """The ranking loss and ``lambda B m^2``."""

    settings: BsrSettings

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """Both terms."""
        quality = scores.quality
        term = sum_to_zero(quality[batch.chosen_B.to(quality.device)], quality[batch.rejected_B.to(quality.device)])
        return ranked(scores, batch).plus(self.settings.penalty_weight * term, zero_sum_loss=term)

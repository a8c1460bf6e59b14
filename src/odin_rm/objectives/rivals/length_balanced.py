"""``--objective length_balanced``: pairs weighted so that the longer response is right half of the time.

    L = sum_b v_b -log sigmoid(r_c - r_r) / sum_b v_b,    v_b = 1 / (2 P(label of b | length ratio of b))

The oldest remedy (Singhal et al. 2023, 2310.03716, balance the data in this way by length; inverse propensity weights
go back to Horvitz and Thompson 1952). With one bin there are two classes, longer chosen and shorter chosen; with
several the propensity is that of the pair's bin of ``|log L_c - log L_r|``, of width 0.25.

``P`` is counted once over all training pairs, with one pair more on each side. Pairs of equal length weigh 1, none more
than 20. The loss is a weighted mean over the whole batch, whose sum of weights is the batch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.preference import bradley_terry
from odin_rm.objectives.rivals.settings import LengthBalancedSettings

WIDTH = 0.25
MOST = 20.0


def bin_and_side(chosen_length_B: Tensor, rejected_length_B: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """``(B,)`` bin of each pair by its length ratio, and ``(B,)`` 1 where the longer response is chosen, 0 the shorter,
    -1 neither."""
    ratio_B = chosen_length_B.clamp_min(1).log() - rejected_length_B.clamp_min(1).log()
    side_B = torch.where(ratio_B == 0, -1, (ratio_B > 0).long())
    return (ratio_B.abs() / WIDTH).long().clamp_max(bins - 1), side_B


def balance_weights(bin_B: Tensor, side_B: Tensor, counts_K2: Tensor) -> Tensor:
    """``(B,)`` ``1 / (2 P(side | bin))`` with ``P = (n_side + 1) / (n + 2)``, at most 20; 1 for pairs of equal length.

    Args:
        bin_B: ``(B,)`` bin of each pair.
        side_B: ``(B,)`` as of :func:`bin_and_side`.
        counts_K2: ``(K, 2)`` pairs of each bin whose shorter, whose longer response is chosen.
    """
    share_K2 = (counts_K2 + 1) / (counts_K2.sum(1, keepdim=True) + 2)
    weight_B = 1 / (2 * share_K2[bin_B, side_B.clamp_min(0)])
    return torch.where(side_B < 0, 1.0, weight_B.clamp_max(MOST))


class LengthBalanced(Objective):
    """The weighted ranking loss."""

    settings: LengthBalancedSettings

    def __init__(self, settings: LengthBalancedSettings) -> None:
        super().__init__(settings)
        self.counts = torch.zeros(settings.balance_bins, 2, dtype=torch.float64)

    def begin(self, data: PairColumns) -> None:
        """Count the pairs of the training data."""
        bin_B, side_B = self._places(data)
        held = side_B >= 0
        places = 2 * bin_B[held] + side_B[held]
        self.counts = torch.bincount(places, minlength=self.counts.numel()).view_as(self.counts).double()

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """The weighted ranking loss."""
        quality = scores.quality
        chosen, rejected = batch.chosen_B.to(quality.device), batch.rejected_B.to(quality.device)
        weight_B = balance_weights(*self._places(batch), self.counts).to(quality)
        loss_B = bradley_terry(quality[chosen], quality[rejected], batch.margin_B.to(quality))
        loss = (weight_B * loss_B).sum() / weight_B.sum()
        return ranked(scores, batch).with_ranking(loss).plus(0.0, largest_weight=weight_B.max())

    def _places(self, batch: PairColumns) -> tuple[Tensor, Tensor]:
        length_R = batch.tokens_R.cpu()
        return bin_and_side(length_R[batch.chosen_B.cpu()], length_R[batch.rejected_B.cpu()], len(self.counts))

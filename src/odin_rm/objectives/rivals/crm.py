"""``--objective crm``: rewards of like distribution at every length (CRM, Wang et al. 2025, 2501.09620).

    L = L_R + lambda sum_{m, m'} MMD^2(p_m(r), p_m'(r))

over ``M`` bins of length, with the maximum mean discrepancy of a Gaussian kernel. *Conditional*: the same inside the
chosen responses and inside the rejected ones, so that it asks for no independence of length and preference.

Deviations: bins hold equally many of the batch's slots; the kernel's width is the deviation of the batch's rewards,
which has no gradient (the paper names none); ``MMD^2`` is the estimate with the diagonal, which is never negative;
bins without a response stand in no sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.objectives.checks import check_vector
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.rivals.settings import CrmSettings


def quantile_bins(length_S: Tensor, bins: int) -> Tensor:
    """``(bins - 1,)`` edges between bins of equally many slots."""
    shares = torch.arange(1, bins, dtype=length_S.dtype, device=length_S.device) / bins
    return torch.quantile(length_S, shares)


def pairwise_discrepancy(reward_S: Tensor, group_S: Tensor, groups: int, width: Tensor) -> Tensor:
    """Sum over ordered pairs of groups of their squared maximum mean discrepancy.

    With ``k(a, b) = exp(-(a - b)^2 / (2 width^2))`` and ``G_mn`` the mean of ``k`` between members of groups ``m`` and
    ``n``, it is ``sum_mn (G_mm + G_nn - 2 G_mn)``.

    Args:
        reward_S: ``(S,)`` rewards of the slots.
        group_S: ``(S,)`` integer group of each, below ``groups``.
        groups: how many there may be; those without a slot are left out.
        width: ``()`` of the kernel, above 0.

    Raises:
        ShapeError: rewards are no floating vector.
    """
    check_vector("reward_S", reward_S)
    member_MS = torch.nn.functional.one_hot(group_S, groups).T.to(reward_S)
    member_MS = member_MS[member_MS.sum(1) > 0]
    share_MS = member_MS / member_MS.sum(1, keepdim=True)
    kernel_SS = torch.exp(-((reward_S[:, None] - reward_S[None]) ** 2) / (2 * width**2))
    mean_MM = share_MS @ kernel_SS @ share_MS.T
    return 2 * len(share_MS) * mean_MM.diagonal().sum() - 2 * mean_MM.sum()


class Crm(Objective):
    """The ranking loss and ``lambda`` times the discrepancies."""

    settings: CrmSettings

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """Both terms."""
        quality, bins = scores.quality, self.settings.length_bins
        sides = batch.chosen_B.to(quality.device), batch.rejected_B.to(quality.device)
        length_R = batch.tokens_R.to(quality)
        slots = torch.cat(sides)
        width = quality.detach()[slots].std(correction=0).clamp_min(torch.finfo(quality.dtype).tiny ** 0.5)
        edges = quantile_bins(length_R[slots], bins)
        term = torch.zeros_like(quality.sum())
        for rows in sides if self.settings.conditional else (slots,):
            group = torch.bucketize(length_R[rows], edges)
            term = term + pairwise_discrepancy(quality[rows], group, bins, width)
        return ranked(scores, batch).plus(self.settings.penalty_weight * term, discrepancy_loss=term)

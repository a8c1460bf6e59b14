"""``--objective dir``: features that do not tell which response is longer (DIR, 2512.23461, ICLR 2026).

    L = L_R + lambda CLUB(D; b),    D = h_chosen - h_rejected,    b = 1 where the chosen response is longer
    CLUB = mean_i log q(b_i | D_i) - mean_ij log q(b_j | D_i)

CLUB bounds the mutual information of ``D`` and ``b`` from above while ``q``, a network of two layers that is trained by
cross-entropy on pairs as they come, predicts ``b`` well.

Deviations: both means are over the whole optimiser batch and its gradient is complete (the authors' code has the pairs
of one micro-step, and hands back the gradient of one device's part of them); ``q`` learns *after* a step, from that
step's pairs, so a batch is judged by what was learnt before it; pairs of equal length stand in no mean.
``--information_of reward`` puts the difference of rewards in the place of ``D``, for heads on features that are
frozen: there the paper's term has no gradient at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.rivals.own_net import two_layers
from odin_rm.objectives.rivals.settings import DirSettings

HIDDEN = 64


def club(logit_B: Tensor, longer_B: Tensor) -> Tensor:
    """``()`` ``mean_i log q(b_i | D_i) - mean_ij log q(b_j | D_i)`` in nats, for ``q(1 | D) = sigmoid(logit)``.

    The double mean has ``log q(1 | D_i)`` in the share of pairs with ``b = 1``, so it costs ``B`` and not ``B^2``.

    Args:
        logit_B: ``(B,)`` what ``q`` says of each pair.
        longer_B: ``(B,)`` 1 where the chosen response is longer, else 0.
    """
    yes_B, no_B = F.logsigmoid(logit_B), F.logsigmoid(-logit_B)
    own_B = longer_B * yes_B + (1 - longer_B) * no_B
    share = longer_B.mean()
    return (own_B - share * yes_B - (1 - share) * no_B).mean()


class Dir(Objective):
    """The ranking loss and ``lambda`` times CLUB."""

    settings: DirSettings

    def __init__(self, settings: DirSettings) -> None:
        super().__init__(settings)
        self.net = two_layers(HIDDEN)
        self.reads_feature = self.of_features = settings.information_of == "feature"

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """Both terms."""
        rows, longer = self._pairs(scores, batch)
        value = ranked(scores, batch)
        if not len(rows):
            return value.plus(0.0, information=torch.zeros_like(value.total))
        information = club(self.net(rows), longer)
        return value.plus(self.settings.penalty_weight * information, information=information)

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        """Train ``q`` on the pairs of this batch."""
        rows, longer = self._pairs(scores, batch)
        if not len(rows):
            return

        def loss(weights: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.net(rows, weights), longer)

        rate, steps = self.settings.aux_learning_rate, self.settings.aux_steps
        self.net.learn(loss, rows.shape[1], rate=rate, steps=steps)

    def state_dict(self) -> dict[str, Tensor]:
        """The network ``q``."""
        return self.net.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it over."""
        self.net.load_state_dict(state)

    def _pairs(self, scores: RewardScores, batch: PairColumns) -> tuple[Tensor, Tensor]:
        """``(b, D)`` differences and ``(b,)`` labels of the pairs of different length."""
        quality = scores.quality
        chosen, rejected = batch.chosen_B.to(quality.device), batch.rejected_B.to(quality.device)
        length_R = batch.tokens_R.to(quality)
        further_B = length_R[chosen] - length_R[rejected]
        kept = further_B != 0
        read_RD = quality[:, None] if self.settings.information_of == "reward" else scores.feature
        assert read_RD is not None, "the objective asks for the feature"
        return (read_RD[chosen] - read_RD[rejected])[kept], (further_B[kept] > 0).to(quality)

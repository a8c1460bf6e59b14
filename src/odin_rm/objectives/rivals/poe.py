"""``--objective poe``: a small expert takes the bias (product of experts, Shen et al. 2023, 2310.05199).

    L = mean_b -log sigmoid(r(c) + e(c) - r(r) - e(r))

``e`` is a small network on *noised* features with a higher learning rate: it has room and sight for the coarse cues
only, takes them first, and is thrown away. Its gradient is that of the same loss at the same scores, so both learn at
once.

Deviations: the expert reads the model's own features, standardised over the batch and without a way back into them, in
the place of a second language model with noise on its embeddings; the noise of a step follows from its number and goes
by the order of the first column of the features, so it depends on no split and no order of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.objectives.association import pearson
from odin_rm.objectives.disentangle import slot_multiplicity
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.preference import bradley_terry
from odin_rm.objectives.rivals.own_net import two_layers
from odin_rm.objectives.rivals.settings import PoeSettings

HIDDEN = 16


def noised(feature_RD: Tensor, noise: float, seed: int) -> Tensor:
    """Features less their mean, over their deviation (0 where it is 0), plus ``noise`` times a standard normal."""
    centred_RD = feature_RD - feature_RD.mean(0)
    deviation_D = centred_RD.square().mean(0).sqrt()
    standard_RD = torch.where(deviation_D > 0, centred_RD / deviation_D.clamp_min(1e-300), 0.0)
    generator = torch.Generator().manual_seed(seed)
    drawn_RD = torch.randn(feature_RD.shape, generator=generator, dtype=torch.float64).to(feature_RD)
    rank_R = feature_RD[:, 0].argsort(stable=True).argsort()
    return standard_RD + noise * drawn_RD[rank_R]


class Poe(Objective):
    """The ranking loss of reward and expert together."""

    settings: PoeSettings
    reads_feature = True

    def __init__(self, settings: PoeSettings) -> None:
        super().__init__(settings)
        self.expert = two_layers(HIDDEN)

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """The ranking loss of the sum; accuracy and correlations are of the reward alone."""
        rows = self._rows(scores, progress)
        with torch.no_grad():
            expert_R = self.expert(rows)
        loss = _joint(scores.quality, expert_R, batch)
        weight_R = slot_multiplicity(batch.chosen_B, batch.rejected_B, len(expert_R)).to(expert_R)
        with_length = pearson(expert_R, batch.tokens_R.to(expert_R), weight_R).value
        return ranked(scores, batch).with_ranking(loss).plus(0.0, expert_length_correlation=with_length)

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        """The expert's own step on the same loss."""
        rows = self._rows(scores, progress)

        def loss(weights: Tensor) -> Tensor:
            return _joint(scores.quality, self.expert(rows, weights), batch)

        rate, steps = self.settings.aux_learning_rate, self.settings.aux_steps
        self.expert.learn(loss, rows.shape[1], rate=rate, steps=steps)

    def state_dict(self) -> dict[str, Tensor]:
        """The expert."""
        return self.expert.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it over."""
        self.expert.load_state_dict(state)

    def _rows(self, scores: RewardScores, progress: Progress) -> Tensor:
        assert scores.feature is not None, "the objective asks for the feature"
        return noised(scores.feature.detach(), self.settings.expert_noise, progress.step)


def _joint(quality_R: Tensor, expert_R: Tensor, batch: PairColumns) -> Tensor:
    total_R = quality_R + expert_R
    chosen, rejected = batch.chosen_B.to(total_R.device), batch.rejected_B.to(total_R.device)
    return bradley_terry(total_R[chosen], total_R[rejected], batch.margin_B.to(total_R)).mean()

"""``--objective fimi``: a fitted curve of length that rewards must not follow (FiMi-RM, 2505.12843, ACL 2026).

    curve:  f(L) = w . net(code(L)),   fitted to minimise  -|rho(r, f(L))|   with r held fixed
    model:  L_R + lambda |rho(r, f(L))|                                      with f held fixed

``code`` are sines and cosines of the length at falling frequencies, ``net`` two residual layers: 6,601 weights. The
penalty begins after a share of the steps in which the ranking loss trains alone.

Deviations: the curve takes some steps after *each* step of the model, where the paper alternates every eight steps;
both correlations are over the whole optimiser batch, so they do not depend on how it is split.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.objectives.association import pearson
from odin_rm.objectives.disentangle import slot_multiplicity
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.rivals.own_net import OwnNet, Shapes
from odin_rm.objectives.rivals.settings import FimiSettings

SIZE = 40
SLOWEST = 10_000.0


def length_code(length_R: Tensor) -> Tensor:
    """``(R, 40)`` sines and cosines of ``L / 10000^(2k/40)``, as positions are encoded in a transformer."""
    place_k = torch.arange(SIZE // 2, dtype=length_R.dtype, device=length_R.device)
    angle_Rk = length_R[:, None] / SLOWEST ** (2 * place_k / SIZE)
    return torch.cat([angle_Rk.sin(), angle_Rk.cos()], dim=1)


def curve_net() -> OwnNet:
    """Two residual layers on the code, and a linear read-out."""

    def shapes(columns: int) -> Shapes:
        layer: Shapes = [(columns, columns), (columns,), (columns, columns), (columns,)]
        return [*layer, *layer, (1, columns), (1,)]

    def forward(tensors: list[Tensor], rows: Tensor) -> Tensor:
        *layers, last, bias = tensors
        for first, one, second, two in (layers[:4], layers[4:]):
            rows = rows + torch.relu(rows @ first.T + one) @ second.T + two
        return rows @ last[0] + bias

    return OwnNet(shapes, forward)


class Fimi(Objective):
    """The ranking loss and the correlation with the curve."""

    settings: FimiSettings

    def __init__(self, settings: FimiSettings) -> None:
        super().__init__(settings)
        self.curve = curve_net()

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """Both terms; the second from the start that is asked for."""
        quality = scores.quality
        with torch.no_grad():
            curve_R = self.curve(length_code(batch.tokens_R.to(quality)))
        term = pearson(quality, curve_R, _slots(batch, quality)).value.abs()
        begun = progress.step > self.settings.penalty_start * progress.steps
        return ranked(scores, batch).plus(self.settings.penalty_weight * term * begun, curve_correlation=term)

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        """Fit the curve to the rewards of this batch."""
        quality = scores.quality
        code, weight_R = length_code(batch.tokens_R.to(quality)), _slots(batch, quality)

        def loss(weights: Tensor) -> Tensor:
            return -pearson(self.curve(code, weights), quality, weight_R).value.abs()

        self.curve.learn(loss, SIZE, rate=self.settings.aux_learning_rate, steps=self.settings.aux_steps)

    def state_dict(self) -> dict[str, Tensor]:
        """The curve."""
        return self.curve.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it over."""
        self.curve.load_state_dict(state)


def _slots(batch: PairColumns, like: Tensor) -> Tensor:
    return slot_multiplicity(batch.chosen_B, batch.rejected_B, len(like)).to(like)

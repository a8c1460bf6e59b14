"""``--objective bradley_terry``: one head and the ranking loss, the vanilla arm."""

from __future__ import annotations

from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.registry import BradleyTerrySettings


class BradleyTerry(Objective):
    """``L_R`` of one head; with ``--length_weight`` also ``lambda_L |rho(r_Q, L)|``."""

    settings: BradleyTerrySettings

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """The ranking loss, and the length term where it has a weight."""
        weight = progress.rise(self.settings.length_warmup) * self.settings.length_weight
        return ranked(scores, batch, length_weight=weight, length_scope=self.settings.length_scope)

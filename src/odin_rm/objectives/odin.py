"""``--objective odin``: the paper's two heads (Chen et al. 2024, section 3), formulas in ``disentangle.py``."""

from __future__ import annotations

from torch import Tensor

from odin_rm.core.types import LENGTH, QUALITY, RewardScores
from odin_rm.objectives.disentangle import orthogonality
from odin_rm.objectives.objective import Heads, Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.registry import OdinSettings


class Odin(Objective):
    """``L_R + lambda_L L_L + lambda_O L_O``; both weights rise over the first ``length_warmup`` of the steps."""

    settings: OdinSettings

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """Ranking and length loss; the orthogonality of the heads is :meth:`head_term`."""
        weight = progress.rise(self.settings.length_warmup) * self.settings.length_weight
        return ranked(scores, batch, length_weight=weight, length_scope=self.settings.length_scope)

    def head_term(self, heads: Heads, progress: Progress) -> Tensor | None:
        """``lambda_O |w_Q . w_L|``."""
        weight = progress.rise(self.settings.length_warmup) * self.settings.orthogonality_weight
        return weight * orthogonality(heads.cosine(QUALITY, LENGTH)) if weight else None

    def head_metrics(self, heads: Heads) -> dict[str, float]:
        """The cosine of the heads and its absolute value."""
        cosine = float(heads.cosine(QUALITY, LENGTH))
        return {"orthogonality_loss": abs(cosine), "head_cosine": cosine}

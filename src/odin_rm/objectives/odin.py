"""``--objective odin``: the paper's two heads (Chen et al. 2024, section 3), formulas in ``disentangle.py``."""

from __future__ import annotations

from torch import Tensor

from odin_rm.core.types import LENGTH, QUALITY, RewardScores
from odin_rm.objectives.association import pearson
from odin_rm.objectives.disentangle import orthogonality
from odin_rm.objectives.length_term import LengthPenalised
from odin_rm.objectives.objective import Heads, ObjectiveValue, PairColumns, Progress
from odin_rm.objectives.registry import OdinSettings


class Odin(LengthPenalised):
    """``L_R + lambda_L L_L + lambda_O L_O``; both weights rise over the first ``length_warmup`` of the steps.

    ``L_O`` is ``|w_Q . w_L|`` of the heads' weights (the paper), or ``|rho(r_Q, r_L)|`` of what they give over the
    batch: two heads at right angles may still give correlated rewards, since features are correlated.
    """

    settings: OdinSettings

    def __init__(self, settings: OdinSettings) -> None:
        super().__init__(settings, (QUALITY, LENGTH))

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """Ranking and length loss; the orthogonality of the heads' weights is :meth:`head_term`."""
        value = super().value(scores, batch, progress)
        if not self._of_outputs:
            return value
        pool = self.pool(scores, batch, progress)
        overlap = pearson(pool.heads[QUALITY], pool.heads[LENGTH], pool.weight_N).value.abs()
        return value.plus(self._weight(progress) * overlap, orthogonality_loss=overlap)

    def head_term(self, heads: Heads, progress: Progress) -> Tensor | None:
        """``lambda_O |w_Q . w_L|``, where it is of the weights."""
        weight = 0.0 if self._of_outputs else self._weight(progress)
        return weight * orthogonality(heads.cosine(QUALITY, LENGTH)) if weight else None

    def head_metrics(self, heads: Heads) -> dict[str, float]:
        """The cosine of the heads, and its absolute value where that is the loss."""
        cosine = float(heads.cosine(QUALITY, LENGTH))
        own = {} if self._of_outputs else {"orthogonality_loss": abs(cosine)}
        return {**own, "head_cosine": cosine}

    def _weight(self, progress: Progress) -> float:
        return progress.rise(self.settings.length_warmup) * self.settings.orthogonality_weight

    @property
    def _of_outputs(self) -> bool:
        return self.settings.orthogonality_of == "outputs"

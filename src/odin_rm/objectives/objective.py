"""What an objective is: the loss of a whole optimiser batch as a function of its scores, with what it logs.

Training differentiates it with respect to every score (:mod:`odin_rm.reward.exact_batch`), and evaluation takes its
value on the held-out pairs as one batch. Both call the same :meth:`Objective.value`, so a held-out loss is the loss
that is trained.

An objective may ask for more than scalars:

- the *feature* that the heads read (``reads_feature``). The two passes then carry the derivative with respect to it;
- *variants* of responses (``variants``): edits or twins that ride in the tree of their prompt and stand in no pair;
- *constants of the training data* (:meth:`Objective.begin`), such as an expected weight;
- *state* that outlives a step (multipliers, a memory of past batches, a curve of its own). It changes in
  :meth:`Objective.after_step` alone, and checkpoints hold it.

Scores are gathered from all processes before an objective sees them, in float64. So it never needs to communicate, and
its state is the same on each process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from odin_rm.core.types import RESPONSE_TOKENS, RewardScores, correlation_metric
from odin_rm.objectives.association import pearson
from odin_rm.objectives.disentangle import disentangled_loss, slot_multiplicity


@dataclass(frozen=True)
class PairColumns:
    """What an objective reads of a batch besides its scores, in training and in evaluation alike.

    Attributes:
        attributes: by name, ``(R,)`` float64: ``response_tokens`` always, others where the data have them.
        prompt_R: ``(R,)`` int64 prompt of each response, numbered from 0 within the batch.
        chosen_B, rejected_B: ``(B,)`` int64 positions in the batch's responses.
        margin_B: ``(B,)`` float64, reward units.
        variants: by kind, ``(n, 2)`` int64 positions of a response and of its variant.
    """

    attributes: dict[str, Tensor]
    prompt_R: Tensor
    chosen_B: Tensor
    rejected_B: Tensor
    margin_B: Tensor
    variants: dict[str, Tensor]

    @property
    def tokens_R(self) -> Tensor:
        """``(R,)`` float64 true response lengths."""
        return self.attributes[RESPONSE_TOKENS]


class Heads(Protocol):
    """What a term of the heads alone may read (:class:`odin_rm.model.heads.RewardHeads`)."""

    def cosine(self, first: str, second: str) -> Tensor:
        """``()`` cosine of two heads' vectors after centring."""


@dataclass(frozen=True)
class Progress:
    """How far training is.

    Attributes:
        step: number of the optimiser step, from 1.
        steps: how many the run has.
        held_out: the scores are of held-out pairs, not of a step: what belongs to steps alone does not join them.
    """

    step: int
    steps: int
    held_out: bool = False

    def rise(self, share: float) -> float:
        """A factor that rises linearly over the first ``share`` of the steps and is 1 from then on."""
        return min(1.0, self.step / (share * max(1, self.steps))) if share else 1.0

    def fall(self) -> float:
        """A factor that falls from 1 with half a cosine and would be 0 after the last step."""
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (self.step - 1) / max(1, self.steps))))


COMPLETE = Progress(1, 1, held_out=True)
"""All weights at full size: what evaluation uses, so that figures of early and late steps are of one objective."""


@dataclass(frozen=True)
class ObjectiveValue:
    """The value of an objective on a batch.

    Attributes:
        total: ``()`` what is differentiated with respect to the scores.
        metrics: what to log, by name, detached. A log holds means over its steps, and sums of integers (counts). NaN
            says that a metric does not exist here.
    """

    total: Tensor
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)

    def plus(self, term: Tensor | float, **metrics: Tensor | float) -> ObjectiveValue:
        """The value with one more (weighted) term and its metrics."""
        told = {name: value.detach() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        return replace(self, total=self.total + term, metrics={**self.metrics, **told})

    def with_ranking(self, loss: Tensor) -> ObjectiveValue:
        """The value with another ranking loss in place of the whole total; all other metrics stay."""
        return replace(self, total=loss, metrics={**self.metrics, "ranking_loss": loss.detach()})


class Objective:
    """Base class of the objectives in :data:`odin_rm.objectives.registry.OBJECTIVES`.

    Args:
        settings: the record of its options.

    Attributes:
        reads_feature: whether scores come with the feature that the heads read.
        variants: kinds of variants of responses that its batches hold.
        of_features: whether its own term moves features and no head, so that it does nothing where they are frozen.
    """

    reads_feature: bool = False
    of_features: bool = False
    variants: tuple[str, ...] = ()

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that it reads beside the response tokens; a run measures them of its data."""
        return ()

    def begin(self, data: PairColumns) -> None:
        """Learn what has to be known of the training data; called once, before the first step and any loaded state.

        Args:
            data: the columns of all training pairs as one batch. There are no scores yet.

        Raises:
            OdinError: the data cannot be trained on.
        """

    def draws(self) -> Tensor | None:
        """``(B,)`` probability with which each training pair enters an epoch, at most 1; ``None`` for all of them.

        It is a constant of the training data, asked for after :meth:`begin`.
        """

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """The loss of a whole batch. It changes no state, for a step may be taken again and evaluation calls it too."""
        raise NotImplementedError

    def head_term(self, heads: Heads, progress: Progress) -> Tensor | None:
        """A term of the loss that no score decides, differentiated with respect to the heads' weights."""

    def head_metrics(self, heads: Heads) -> dict[str, float]:
        """What to log of the heads' weights."""
        return {}

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        """Change the state once an optimiser step's gradient is complete.

        Args:
            scores: of the step's batch, detached.
            batch: its columns.
            progress: of the step.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a checkpoint has to hold; empty without any."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the state of a checkpoint."""


def ranked(
    scores: RewardScores, batch: PairColumns, *, length_weight: float = 0.0, length_scope: str = "batch"
) -> ObjectiveValue:
    """Bradley-Terry on the sum of the heads, with the metrics that every log has; what most objectives start from.

    With ``length_weight`` the paper's ``lambda_L L_L`` is part of it (:mod:`odin_rm.objectives.disentangle`).

    Args:
        scores: of the batch's responses.
        batch: its columns.
        length_weight: ``lambda_L``.
        length_scope: ``batch``, or ``prompt`` for correlations within prompts.
    """
    quality = scores.quality
    parts = disentangled_loss(
        quality,
        scores.length,
        batch.tokens_R.to(quality),
        batch.chosen_B.to(quality.device),
        batch.rejected_B.to(quality.device),
        margin_B=batch.margin_B.to(quality),
        prompt_R=batch.prompt_R.to(quality.device) if length_scope == "prompt" else None,
        length_weight=length_weight,
    )
    return ObjectiveValue(
        parts.total,
        {
            "ranking_loss": parts.ranking,
            "length_loss": parts.length,
            "orthogonality_loss": 0.0,
            "accuracy": parts.accuracy,
            "total_accuracy": parts.total_accuracy,
            "quality_length_correlation": parts.quality_length_correlation,
            "length_length_correlation": parts.length_length_correlation,
            "degenerate_correlations": parts.degenerate,
            **_further_correlations(quality.detach(), batch),
        },
    )


def _further_correlations(quality_R: Tensor, batch: PairColumns) -> dict[str, Tensor]:
    """Pearson of the quality reward with the attributes beside length, over the slots of the batch."""
    others = [name for name in batch.attributes if name != RESPONSE_TOKENS]
    if not others:
        return {}
    weight_R = slot_multiplicity(batch.chosen_B, batch.rejected_B, len(quality_R)).to(quality_R)
    return {
        correlation_metric(name): pearson(quality_R, batch.attributes[name].to(quality_R), weight_R).value
        for name in others
    }

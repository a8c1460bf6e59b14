"""The ODIN objective: ranking, length correlation and orthogonality of the heads (Chen et al. 2024, section 3).

``L = L_R + lambda_L * L_L + lambda_O * L_O`` with

- ``L_R = mean_b -log sigmoid(r_Q(chosen) + r_L(chosen) - r_Q(rejected) - r_L(rejected) - margin)``,
- ``L_L = |rho(r_Q, L)| - rho(r_L, L)``, Pearson over all ``2B`` chosen and rejected slots of the optimiser batch,
- ``L_O = |w_Q . w_L|`` of the normalised head vectors.

Deviations from the paper:
1. A response that several pairs of the batch share is scored once; its scalar carries the number of slots it fills, so
   the value and the gradient are those of the paper's ``2B`` slots.
2. Where a correlation does not exist (all lengths or all rewards equal) its term is 0, and counted as degenerate.
3. ``margin`` and the correlation within prompts are options that the paper does not have; both are off by default.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odin_rm.core.errors import ShapeError
from odin_rm.objectives.association import Association, pearson, pearson_within
from odin_rm.objectives.checks import check_index, check_vector
from odin_rm.objectives.preference import bradley_terry


@dataclass(frozen=True)
class DisentangledLoss:
    """The weighted total and each of its parts (``()`` tensors).

    Attributes:
        total: ``L_R + lambda_L L_L + lambda_O L_O``, nats plus dimensionless terms.
        ranking: ``L_R`` in nats.
        length: ``L_L`` (unweighted), 0 where the model has no length head and ``lambda_L`` is 0.
        orthogonality: ``L_O`` (unweighted).
        accuracy: share of pairs whose chosen response has the higher *quality* reward, ties half.
        total_accuracy: the same for the sum of the heads, which is what ``L_R`` trains.
        quality_length_correlation: ``rho(r_Q, L)`` over the batch.
        length_length_correlation: ``rho(r_L, L)``; NaN where there is no length head.
        degenerate: number of correlations that do not exist in this batch.
    """

    total: Tensor
    ranking: Tensor
    length: Tensor
    orthogonality: Tensor
    accuracy: Tensor
    total_accuracy: Tensor
    quality_length_correlation: Tensor
    length_length_correlation: Tensor
    degenerate: Tensor


def slot_multiplicity(chosen_B: Tensor, rejected_B: Tensor, responses: int) -> Tensor:
    """``(R,)`` int64: in how many of the ``2B`` slots each distinct response stands."""
    return torch.bincount(torch.cat([chosen_B, rejected_B]), minlength=responses)


def orthogonality(head_cosine: Tensor) -> Tensor:
    """``L_O = |w_Q . w_L|`` for normalised heads (ODIN, section 3.2): the absolute cosine of the two vectors."""
    return head_cosine.abs()


def disentangled_loss(
    quality_R: Tensor,
    length_R: Tensor | None,
    tokens_R: Tensor,
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    margin_B: Tensor | None = None,
    prompt_R: Tensor | None = None,
    head_cosine: Tensor | None = None,
    length_weight: float = 1.0,
    orthogonality_weight: float = 1.0,
) -> DisentangledLoss:
    """The ODIN objective of one whole optimiser batch of ``B`` pairs between ``R`` distinct responses.

    With ``length_R=None`` and both weights 0 it is the plain Bradley-Terry loss of the vanilla arm.

    Args:
        quality_R: ``(R,)`` quality rewards ``r_Q``.
        length_R: ``(R,)`` length rewards ``r_L``, or ``None`` for a model with one head.
        tokens_R: ``(R,)`` response lengths ``L`` in tokens, floating.
        chosen_B: ``(B,)`` positions of the chosen responses.
        rejected_B: ``(B,)`` positions of the rejected responses.
        margin_B: ``(B,)`` margins in reward units.
        prompt_R: ``(R,)`` prompt of each response; where given, correlations are taken within prompts.
        head_cosine: ``()`` cosine of the two head vectors; ``None`` leaves ``L_O`` out.
        length_weight: ``lambda_L``.
        orthogonality_weight: ``lambda_O``.

    Raises:
        ShapeError: sizes do not fit, an index points outside, or there is no pair.
    """
    _check(quality_R, length_R, tokens_R, chosen_B, rejected_B)
    total_R = quality_R if length_R is None else quality_R + length_R
    ranking = bradley_terry(total_R[chosen_B], total_R[rejected_B], margin_B).mean()

    weight_R = slot_multiplicity(chosen_B, rejected_B, len(quality_R)).to(quality_R.dtype)
    quality_association = _associate(quality_R, tokens_R, prompt_R, weight_R)
    length = quality_association.value.abs()
    degenerate = quality_association.degenerate.long()
    length_correlation = torch.full_like(ranking.detach(), float("nan"))
    if length_R is not None:
        length_association = _associate(length_R, tokens_R, prompt_R, weight_R)
        length = length - length_association.value
        length_correlation = length_association.value.detach()
        degenerate = degenerate + length_association.degenerate.long()

    cosine_loss = torch.zeros_like(ranking) if head_cosine is None else orthogonality(head_cosine).to(ranking.dtype)
    total = ranking
    if length_weight:
        total = total + length_weight * length
    if orthogonality_weight and head_cosine is not None:
        total = total + orthogonality_weight * cosine_loss
    return DisentangledLoss(
        total=total,
        ranking=ranking.detach(),
        length=length.detach(),
        orthogonality=cosine_loss.detach(),
        accuracy=_accuracy(quality_R, chosen_B, rejected_B),
        total_accuracy=_accuracy(total_R, chosen_B, rejected_B),
        quality_length_correlation=quality_association.value.detach(),
        length_length_correlation=length_correlation,
        degenerate=degenerate,
    )


def _associate(score_R: Tensor, tokens_R: Tensor, prompt_R: Tensor | None, weight_R: Tensor) -> Association:
    if prompt_R is None:
        return pearson(score_R, tokens_R, weight_R)
    return pearson_within(score_R, tokens_R, prompt_R, weight_R)


def _accuracy(score_R: Tensor, chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    difference_B = (score_R[chosen_B] - score_R[rejected_B]).detach()
    return ((difference_B > 0).to(score_R.dtype) + 0.5 * (difference_B == 0).to(score_R.dtype)).mean()


def _check(quality_R: Tensor, length_R: Tensor | None, tokens_R: Tensor, chosen_B: Tensor, rejected_B: Tensor) -> None:
    check_vector("quality_R", quality_R)
    if length_R is not None:
        check_vector("length_R", length_R, len(quality_R))
    check_vector("tokens_R", tokens_R, len(quality_R), finite=True)
    check_index("chosen_B", chosen_B, len(quality_R))
    check_index("rejected_B", rejected_B, len(quality_R))
    if len(chosen_B) != len(rejected_B) or len(chosen_B) == 0:
        raise ShapeError(
            f"a batch needs as many chosen as rejected, and one at least: {len(chosen_B)}, {len(rejected_B)}"
        )

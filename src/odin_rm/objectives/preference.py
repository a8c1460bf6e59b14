"""The Bradley-Terry ranking loss, with margins and soft labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from odin_rm.objectives.checks import check_vector


def bradley_terry(
    chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | None = None, preference_B: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of each preference under Bradley-Terry.

    ``-p log sigmoid(d) - (1 - p) log sigmoid(-d)`` with ``d = chosen - rejected - margin``; for ``p = 1`` and no margin
    this is ODIN's ``L_R`` per pair (eq. 2 of the paper for one head, eq. 3 for the sum of heads).

    Args:
        chosen_B: ``(B,)`` score of the chosen response, reward units.
        rejected_B: ``(B,)`` score of the rejected response, reward units.
        margin_B: ``(B,)`` margin by which the chosen one should win, reward units; ``None`` for 0.
        preference_B: ``(B,)`` probability that "chosen" is the better one; ``None`` for 1, 0.5 states a tie.

    Returns:
        ``(B,)`` losses in nats; their mean is the ranking loss.

    Raises:
        ShapeError: an argument is not a floating vector or the sizes differ.
    """
    check_vector("chosen_B", chosen_B)
    check_vector("rejected_B", rejected_B, len(chosen_B))
    difference_B = chosen_B - rejected_B
    if margin_B is not None:
        check_vector("margin_B", margin_B, len(chosen_B))
        difference_B = difference_B - margin_B
    if preference_B is None:
        return -F.logsigmoid(difference_B)
    check_vector("preference_B", preference_B, len(chosen_B))
    return -preference_B * F.logsigmoid(difference_B) - (1 - preference_B) * F.logsigmoid(-difference_B)

"""Frozen records that travel between stages. This module imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

QUALITY = "quality"
LENGTH = "length"


@dataclass(frozen=True)
class RewardScores:
    """What a reward model says of ``R`` responses, one number per head; heads are never summed implicitly.

    Attributes:
        quality: ``(R,)`` quality reward ``r_Q`` in reward units. The only number that RL, best-of-N, serving and
            export may use.
        length: ``(R,)`` length reward ``r_L`` in reward units, or ``None`` where the model has no such head.
    """

    quality: Tensor
    length: Tensor | None = None

    def total(self) -> Tensor:
        """``r_Q + r_L``: what the ranking loss sees in training. Never a reward for a policy."""
        return self.quality if self.length is None else self.quality + self.length

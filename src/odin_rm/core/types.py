"""Frozen records that travel between stages. This module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

QUALITY = "quality"
LENGTH = "length"
RESPONSE_TOKENS = "response_tokens"
"""The attribute that every response has: its length in tokens of the reward model's tokenizer."""


def correlation_metric(attribute: str) -> str:
    """What a training log calls the quality head's correlation with an attribute."""
    return "quality_length_correlation" if attribute == RESPONSE_TOKENS else f"quality_{attribute}_correlation"


@dataclass(frozen=True, init=False)
class RewardScores:
    """What a reward model says of ``R`` responses, one number per head; heads are never summed implicitly.

    Made from ``quality`` and ``length``, or from ``heads`` by name.

    Attributes:
        heads: by name, ``(R,)`` rewards in reward units; ``quality`` is always among them.
        feature: ``(R, D)`` what the heads read, or ``None`` where nobody asked for it.
    """

    heads: Mapping[str, Tensor]
    feature: Tensor | None

    def __init__(
        self,
        quality: Tensor | None = None,
        length: Tensor | None = None,
        *,
        heads: Mapping[str, Tensor] | None = None,
        feature: Tensor | None = None,
    ) -> None:
        given = {name: column for name, column in ((QUALITY, quality), (LENGTH, length)) if column is not None}
        named = dict(heads or {}) | given
        if QUALITY not in named:
            raise TypeError(f"scores need a head '{QUALITY}', got {sorted(named)}")
        object.__setattr__(self, "heads", named)
        object.__setattr__(self, "feature", feature)

    @property
    def quality(self) -> Tensor:
        """``(R,)`` quality reward ``r_Q``. The only number that RL, best-of-N, serving and export may use."""
        return self.heads[QUALITY]

    @property
    def length(self) -> Tensor | None:
        """``(R,)`` length reward ``r_L``, or ``None`` where the model has no such head."""
        return self.heads.get(LENGTH)

    def detach(self) -> RewardScores:
        """The same numbers without a graph."""
        feature = None if self.feature is None else self.feature.detach()
        return RewardScores(heads={name: column.detach() for name, column in self.heads.items()}, feature=feature)

    def total(self) -> Tensor:
        """``r_Q + r_L + ...``: what the ranking loss sees in training. Never a reward for a policy."""
        found = self.quality
        for name, column in self.heads.items():
            if name != QUALITY:
                found = found + column
        return found

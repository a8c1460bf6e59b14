"""The reward heads: bias-free linear read-outs of one shared feature, by name, normalised as in the paper.

ODIN (section 3.2) reads quality and length from the same feature ``h(x, y)`` of the backbone:
``r_a = s h . n(w_a)`` with ``n(w) = (w - mean(w)) / ||w - mean(w)||``. Without the normalisation the orthogonality term
is satisfied by shrinking a head instead of turning it.

Deviation from the paper: a constant scale ``s`` (1 by default, as in the paper). A unit vector on the bounded feature
of an encoder's pooler gives rewards with a deviation of a few hundredths, too small for a log-sigmoid to learn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from odin_rm.core.errors import ModelError
from odin_rm.core.types import QUALITY

INIT_STD = 0.02
"""Deviation of the initial weights, as transformers' own classifiers have it."""


def normalise_head(weight_D: Tensor) -> Tensor:
    """``(w - mean(w)) / ||w - mean(w)||``, shape ``(D,)``; differentiable.

    A constant vector has no direction and gives zeros, not NaN and not its rounding errors blown up.
    """
    centred_D = weight_D - weight_D.mean()
    norm = torch.linalg.vector_norm(centred_D)
    rounding = 4 * torch.finfo(weight_D.dtype).eps * torch.linalg.vector_norm(weight_D.detach())
    constant = norm <= rounding  # false for NaN, which must stay visible
    # The inner where keeps the unused branch's gradient finite; the outer one makes the value exactly zero.
    return torch.where(constant, 0.0, centred_D / torch.where(constant, 1.0, norm))


def effective_head(vector_D: Tensor, *, normalise: bool, scale: float) -> Tensor:
    """``(D,)`` float32 vector that a forward pass multiplies with: ``scale * n(w)``, or ``w`` itself."""
    return scale * normalise_head(vector_D.float()) if normalise else vector_D.float()


class RewardHeads(nn.Module):
    """``H`` named linear heads on a feature of size ``D``; takes the place of a backbone's last linear layer.

    Args:
        in_features: ``D``.
        names: head names; ``"quality"`` must be among them.
        normalise: use ``scale * normalise_head(w)`` in the forward pass instead of ``w``.
        scale: the constant ``s``; only with ``normalise``.

    Attributes:
        with_feature: whether the feature follows the rewards in what :meth:`forward` gives. A classifier picks the
            token that is read from its last layer's output, so the feature has to come out of that layer too.

    Raises:
        ModelError: there is no quality head, or a name stands twice.
    """

    def __init__(self, in_features: int, names: Sequence[str], *, normalise: bool, scale: float = 1.0) -> None:
        super().__init__()
        self.with_feature = False
        if QUALITY not in names or len(set(names)) != len(names):
            raise ModelError(f"heads must be distinct and include '{QUALITY}', got {list(names)}")
        self.names, self.normalise, self.scale, self.in_features = tuple(names), normalise, scale, in_features
        # One draw per head, quality first: models with and without a length head share their quality weights.
        ordered = [QUALITY, *(name for name in names if name != QUALITY)]
        drawn = {name: nn.Parameter(torch.randn(in_features) * INIT_STD) for name in ordered}
        self.vectors = nn.ParameterDict({name: drawn[name] for name in self.names})

    @contextmanager
    def giving_feature(self, wanted: bool = True) -> Iterator[None]:
        """A block in which :meth:`forward` gives the feature, or does not."""
        before, self.with_feature = self.with_feature, wanted
        try:
            yield
        finally:
            self.with_feature = before

    def effective(self, name: str) -> Tensor:
        """``(D,)`` the vector that the forward pass multiplies with: what an export must contain."""
        return effective_head(self.vectors[name], normalise=self.normalise, scale=self.scale)

    def cosine(self, first: str, second: str) -> Tensor:
        """``()`` cosine of two heads' vectors after centring: ``n(w_1) . n(w_2)``, differentiable."""
        return normalise_head(self.vectors[first].float()) @ normalise_head(self.vectors[second].float())

    def forward(self, feature: Tensor) -> Tensor:
        """Rewards of shape ``(..., H)`` from features ``(..., D)``, in float32; ``(..., H + D)`` with the feature.

        Autocast is off here: a reward rounded to 8 bits would tie most of a prompt's responses.
        """
        weight_HD = torch.stack([self.effective(name) for name in self.names])
        with torch.autocast(feature.device.type, enabled=False):
            found = feature.float() @ weight_HD.T
        return torch.cat([found, feature.float()], dim=-1) if self.with_feature else found

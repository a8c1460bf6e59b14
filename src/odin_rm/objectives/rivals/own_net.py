"""A small network of an objective's own: an adversary, a curve, an expert. Trained by Adam, kept in checkpoints.

Its weights are one float64 vector, so a checkpoint holds four tensors whatever the network looks like. The first
weights are drawn from a fixed seed, once the size of the input is known: they are the same in every process, and so is
what is learnt from scores that all processes share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from odin_rm.objectives.adam import adam_step

Shapes = list[tuple[int, ...]]


class OwnNet:
    """A network on rows of numbers.

    Args:
        shapes: shapes of its tensors from the number of input columns; matrices are ``(out, in)``, vectors start at 0.
        forward: ``(tensors, (n, D) input) -> (n,) output``.
    """

    def __init__(self, shapes: Callable[[int], Shapes], forward: Callable[[list[Tensor], Tensor], Tensor]) -> None:
        self.shapes, self.forward = shapes, forward
        none = torch.zeros(0, dtype=torch.float64)
        self._state = {"weights": none, "first": none, "second": none}
        self._columns = 0
        self._taken = 0

    def __call__(self, rows: Tensor, weights: Tensor | None = None) -> Tensor:
        """``(n,)`` output for rows ``(n, D)``; differentiable in the rows, and in weights that are given."""
        flat = self.weights(rows.shape[1]) if weights is None else weights
        return self.forward(self._cut(flat.to(rows), rows.shape[1]), rows)

    def weights(self, columns: int) -> Tensor:
        """All weights as one vector, drawn at the first call."""
        if not len(self._state["weights"]):
            drawn = self._drawn(columns)
            zeros = torch.zeros_like(drawn)
            self._state = {"weights": drawn, "first": zeros, "second": zeros}
        return self._state["weights"]

    def learn(self, loss: Callable[[Tensor], Tensor], columns: int, *, rate: float, steps: int = 1) -> None:
        """Take Adam steps.

        Args:
            loss: of the vector of weights.
            columns: of the input.
            rate: learning rate.
            steps: how many.
        """
        self.weights(columns)
        for _ in range(steps):
            weights = self._state["weights"].detach().requires_grad_(True)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(loss(weights), weights)
            self._taken += 1
            moments = self._state["first"], self._state["second"]
            moved = adam_step(weights.detach(), gradient, *moments, self._taken, rate)
            self._state = dict(zip(("weights", "first", "second"), moved, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, both moments and the number of steps."""
        return {**self._state, "steps": torch.tensor(self._taken)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what a checkpoint holds."""
        self._state = {name: state[name].clone() for name in self._state}
        self._taken = int(state["steps"])

    def _cut(self, flat: Tensor, columns: int) -> list[Tensor]:
        shapes = self.shapes(columns)
        return [p.view(s) for p, s in zip(flat.split([math.prod(s) for s in shapes]), shapes, strict=True)]

    def _drawn(self, columns: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        parts = []
        for shape in self.shapes(columns):
            if len(shape) == 1:
                parts.append(torch.zeros(shape, dtype=torch.float64))
                continue
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            parts.append((drawn / math.sqrt(shape[-1])).flatten())
        return torch.cat(parts)


def two_layers(hidden: int) -> OwnNet:
    """``w_2 . relu(W_1 x + b_1) + b_2``."""

    def forward(tensors: list[Tensor], rows: Tensor) -> Tensor:
        first, bias, second, last = tensors
        return torch.relu(rows @ first.T + bias) @ second[0] + last

    return OwnNet(lambda columns: [(hidden, columns), (hidden,), (1, hidden), (1,)], forward)

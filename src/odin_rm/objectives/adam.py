"""Adam's step (Kingma & Ba 2015, algorithm 1) as a function, for weights that an objective keeps itself."""

from __future__ import annotations

from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def adam_step(
    weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, count: int, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and both moments after a step.

        m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   w - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Args:
        weights, gradient: of one shape.
        first, second: moments ``m`` and ``v``; zeros before the first step.
        count: number ``t`` of the step, from 1.
        rate: learning rate.
    """
    first = BETA_1 * first + (1 - BETA_1) * gradient
    second = BETA_2 * second + (1 - BETA_2) * gradient.square()
    size = (second / (1 - BETA_2**count)).sqrt() + EPSILON
    return weights - rate * (first / (1 - BETA_1**count)) / size, first, second

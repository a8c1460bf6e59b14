"""Stated tolerances: ``|c_k| <= eps_k`` for quantities of a batch, held by multipliers instead of a chosen weight.

An augmented Lagrangian (Bertsekas 1982) with both sides of each bound:

    psi(g, m) = (max(0, m + mu g)^2 - m^2) / (2 mu)
    term      = sum_k psi(c_k - eps_k, upper_k) + psi(-c_k - eps_k, lower_k)
    after a step   m <- max(0, m + 0.1 f mu g)        f falls from 1 to 0 with half a cosine over the run

A multiplier rises while its bound is broken and falls while there is room. The two sides see the *sign*, so the noise
of a small batch averages out; of absolute values it would push for ever. The textbook moves a multiplier by ``mu g``
once the model is at its minimum. Here it moves at every step of a model that has not got there, and with a whole ``mu``
the two swing round each other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from odin_rm.objectives.objective import Progress

log = logging.getLogger(__name__)
MEMORY = 0.95
"""What a running average keeps at each step: about the last 20 steps count."""
RATE = 0.1
"""A multiplier's step as a share of the penalty."""
SLACK = 1.05
"""A bound that binds is approached from outside; so near to it counts as held."""
_STATE = ("upper", "lower", "average", "seen")


class Tolerances:
    """Bounds on some quantities, with their multipliers.

    Args:
        names: of the quantities, for the log.
        bound: ``eps`` of all of them.
        penalty: ``mu``.
    """

    def __init__(self, names: Sequence[str], bound: float, penalty: float) -> None:
        self.names, self.bound, self.penalty = tuple(names), bound, penalty
        zeros_K = torch.zeros(len(self.names), dtype=torch.float64)
        self._state = {name: zeros_K.clone() for name in _STATE}

    def term(self, found: Mapping[str, Tensor]) -> Tensor:
        """The sum of ``psi``; quantities that a batch does not have are left out.

        Args:
            found: ``()`` value of each quantity by name, with their gradient.
        """
        terms = []
        for k, name in enumerate(self.names):
            if name in found:
                for side, multiplier in ((1, self._state["upper"][k]), (-1, self._state["lower"][k])):
                    pushed = (multiplier.to(found[name]) + self.penalty * (side * found[name] - self.bound)).clamp_min(0)
                    terms.append((pushed**2 - multiplier.to(pushed) ** 2) / (2 * self.penalty))
        return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)

    def after_step(self, found: Mapping[str, Tensor], progress: Progress) -> None:
        """Move the multipliers and the running averages; after the last step the log says what became of each bound.

        Args:
            found: detached values of the step's batch.
            progress: of the step.
        """
        rate = RATE * progress.fall() * self.penalty
        state = {name: column.clone() for name, column in self._state.items()}
        for k, name in enumerate(self.names):
            if name not in found:
                continue
            value = found[name].detach().double().cpu()
            for side, key in ((1, "upper"), (-1, "lower")):
                state[key][k] = (state[key][k] + rate * (side * value - self.bound)).clamp_min(0)
            state["average"][k] = MEMORY * state["average"][k] + (1 - MEMORY) * value
            state["seen"][k] = MEMORY * state["seen"][k] + (1 - MEMORY)
        self._state = state
        if progress.step == progress.steps:
            for name, average in self.averages().items():
                what = "within" if self._held(average) else "NOT within"
                log.info("%s: %.3f over the last steps, %s its tolerance of %g", name, average, what, self.bound)

    def averages(self) -> dict[str, float]:
        """Running average of each quantity that has been seen, over about 20 steps."""
        seen_K = self._state["seen"]
        return {
            name: float(self._state["average"][k] / seen_K[k]) for k, name in enumerate(self.names) if seen_K[k] > 0
        }

    def multipliers(self) -> dict[str, float]:
        """``upper - lower`` of each: the weight with which the quantity is pushed down."""
        return {name: float(self._state["upper"][k] - self._state["lower"][k]) for k, name in enumerate(self.names)}

    def met(self, found: Mapping[str, Tensor] | None = None) -> float:
        """Share of the bounds that hold: of values, or of the running averages; NaN where nothing was seen."""
        values = self.averages() if found is None else {name: float(value) for name, value in found.items()}
        held = [self._held(values[name]) for name in self.names if name in values]
        return sum(held) / len(held) if held else float("nan")

    def _held(self, value: float) -> bool:
        return abs(value) <= SLACK * self.bound

    def state_dict(self, prefix: str) -> dict[str, Tensor]:
        """Multipliers and averages, for a checkpoint."""
        return {f"{prefix}_{name}": column for name, column in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Take over what a checkpoint holds."""
        self._state = {name: state[f"{prefix}_{name}"].clone() for name in _STATE}

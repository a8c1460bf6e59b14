"""The price list of a reward: what each attribute costs when all others stay the same.

An edit rarely changes one attribute alone: sentences that become bullets also gain tokens. So the prices of all
attributes come from one regression without a constant, over every edit of every response,

    change of the reward, in its deviations within a prompt  =  sum_k price_k * change of attribute k, in its units,

and an attribute's *effect* is its price times a usual difference of the attribute: its deviation among the responses
to a prompt, and at least one where it counts things (one list item, one compliment). Effects of attributes are
comparable; prices are not. For a pure edit zero is the right effect, whatever quality and the attribute have to do with
each other in the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from odin_rm.evaluation.bootstrap import PromptBootstrap, percentile_interval
from odin_rm.evaluation.records import Figure

_ENOUGH_VARIATION = 1e-9


@dataclass(frozen=True)
class Price:
    """The price of one attribute.

    Attributes:
        price: deviations of the reward per unit of the attribute, others equal.
        usual: a usual difference of the attribute, in its units.
        effect: ``price * usual``.
        n: edited responses in which the attribute changes.
    """

    price: Figure
    usual: float
    effect: Figure
    n: int

    def to_json(self) -> dict[str, Any]:
        """As ``probe.json`` has it."""
        return {"price": self.price.to_json(), "usual": self.usual, "effect": self.effect.to_json(), "n": self.n}


def price_list(
    change: np.ndarray,
    units: Mapping[str, np.ndarray],
    usual: Mapping[str, float],
    prompt: np.ndarray,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> dict[str, Price]:
    """Prices of all attributes from ``n`` edited responses, with 95 % intervals by prompt.

    Args:
        change: ``(n,)`` edited minus original reward, in deviations of the reward within a prompt.
        units: by attribute, ``(n,)`` how many units of it the edit adds.
        usual: by attribute, its usual difference in units (:func:`usual_difference`).
        prompt: ``(n,)`` prompts, any integers.
        bootstrap_samples, seed: of the intervals.

    Returns:
        The attributes in their order; one that no edit moves, or only together with another one in fixed proportion,
        has no price, and ``why``.
    """
    names = list(units)
    units_NK = np.stack([np.asarray(units[name], np.float64) for name in names], axis=1) if names else np.zeros((0, 0))
    changes = np.asarray(change, np.float64)
    moved = (units_NK != 0).sum(axis=0) if names else np.zeros(0, dtype=int)
    held = [k for k in range(len(names)) if moved[k]]
    free = _independent(units_NK[:, held]) if held else np.zeros(0, dtype=bool)
    told = [k for k, is_free in zip(held, free, strict=True) if is_free]
    found: dict[str, Figure] = {}
    if told:
        found = _regression(changes, units_NK[:, told], [names[k] for k in told], prompt, bootstrap_samples, seed)
    prices = {}
    for k, name in enumerate(names):
        why = "no edit changes it" if not moved[k] else "the edits change it only together with another attribute"
        figure = found.get(name, Figure(None, why=why))
        prices[name] = Price(figure, usual[name], figure.times(usual[name]), int(moved[k]))
    return prices


def usual_difference(values: np.ndarray, prompt: np.ndarray, step: float) -> float:
    """A usual difference of an attribute between two responses to a prompt, in units of ``step``.

    The deviation within prompts; for an attribute that counts things (``step`` 1) at least one of them; one unit where
    the deviation is zero.

    Args:
        values: ``(R,)`` the attribute.
        prompt: ``(R,)`` prompts, any integers.
        step: the unit in the attribute's own numbers.
    """
    number = np.unique(prompt, return_inverse=True)[1]
    counts = np.bincount(number)
    means = np.bincount(number, values) / counts
    free = int((counts - 1).sum())
    deviation = float(np.sqrt(((values - means[number]) ** 2).sum() / free)) / step if free else 0.0
    if step == 1:
        return max(deviation, 1.0)
    return deviation if deviation > 0 else 1.0


def _independent(units_NK: np.ndarray) -> np.ndarray:
    """Which columns are told apart from all the others."""
    scale = np.sqrt((units_NK**2).sum(axis=0))
    unit = units_NK / np.where(scale > 0, scale, 1.0)
    free = np.zeros(unit.shape[1], dtype=bool)
    for k in range(unit.shape[1]):
        others = np.delete(unit, k, axis=1)
        rest = unit[:, k] - others @ np.linalg.lstsq(others, unit[:, k], rcond=None)[0]
        free[k] = float(rest @ rest) > _ENOUGH_VARIATION
    return free


def _regression(
    change: np.ndarray, units_NK: np.ndarray, names: list[str], prompt: np.ndarray, samples: int, seed: int
) -> dict[str, Figure]:
    scale = np.sqrt((units_NK**2).mean(axis=0))
    design = units_NK / scale
    number = np.unique(prompt, return_inverse=True)[1]
    prompts, k = int(number.max()) + 1, len(names)
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), k * k)
    together = np.column_stack([products, design * change[:, None]])
    sums = np.stack([np.bincount(number, column, minlength=prompts) for column in together.T], axis=1)

    def solved(weights_SP: np.ndarray) -> np.ndarray:
        total = weights_SP @ sums
        gram = total[:, : k * k].reshape(-1, k, k)
        solution = np.full((len(gram), k), np.nan)
        well = np.linalg.cond(gram) < 1e10
        if well.any():
            solution[well] = np.linalg.solve(gram[well], total[well, k * k :, None])[:, :, 0]
        return solution / scale

    value_K = solved(np.ones((1, prompts)))[0]
    if prompts < 2 or samples < 2:
        why = "no interval: a bootstrap by prompt needs two prompts"
        return {name: Figure(float(v), why=why) for name, v in zip(names, value_K, strict=True)}
    blocks = PromptBootstrap(number, samples, seed).blocks()
    drawn_SK = np.concatenate([solved(block) for block in blocks])
    return {
        name: percentile_interval(Figure(float(value_K[j])), drawn_SK[:, j])
        for j, name in enumerate(names)
        if np.isfinite(value_K[j])
    }

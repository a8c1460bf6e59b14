"""Best-of-N from a file of many responses per prompt: what is chosen, exactly, and what that costs in KL.

With ``m`` responses to a prompt, the best of ``n`` drawn *without* replacement is the one of rank ``i`` (from the
bottom) with probability

    C(i - 1, n - 1) / C(m, n),

so the expectation of anything under best-of-N is a weighted sum over all ``m``, without drawing. Responses tied in the
proxy share their probabilities evenly, as a choice at random among the best does. Best-of-N of a continuous proxy is
``log n - (n - 1) / n`` nats from the policy it draws from, whatever the policy and the proxy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from odin_rm.core.errors import ShapeError
from odin_rm.evaluation.bootstrap import PromptBootstrap, bootstrap_mean, percentile_interval
from odin_rm.evaluation.prompt_sums import places_of_prompts
from odin_rm.evaluation.records import Figure

ENOUGH = 0.9
MOST_N = 64


def best_of_n_kl(n: int) -> float:
    """``log n - (n - 1) / n``: nats between best-of-``n`` and the policy."""
    return math.log(n) - (n - 1) / n


def rank_probabilities(m: int, n: int) -> np.ndarray:
    """Probability that the best of ``n`` out of ``m`` is the one of each rank.

    Args:
        m: responses at hand.
        n: responses drawn, at most ``m``.

    Returns:
        ``(m,)`` by rank from the lowest to the highest; they sum to 1.
    """
    if not 1 <= n <= m:
        raise ShapeError(f"the best of {n} out of {m} responses is not defined")
    weights = np.zeros(m)
    weights[m - 1] = n / m
    for i in range(m - 1, n - 1, -1):  # C(i - 1, n - 1) = C(i, n - 1) (i - n + 1) / i
        weights[i - 1] = weights[i] * (i - n + 1) / i
    return weights


def choice_probabilities(proxy: np.ndarray, n: int) -> np.ndarray:
    """``(m,)`` probability that each response is the best of ``n`` drawn without replacement; ties share evenly.

    Args:
        proxy: ``(m,)`` the reward that chooses.
        n: responses drawn.
    """
    by_rank = rank_probabilities(len(proxy), n)
    _, group, counts = np.unique(proxy, return_inverse=True, return_counts=True)
    shared = np.bincount(np.sort(group), weights=by_rank) / counts
    return shared[group]


@dataclass(frozen=True)
class BestOfN:
    """Curves over ``n``, of the prompts that have enough responses.

    Attributes:
        n: how many are drawn.
        kl: nats from the policy.
        curves: name to one figure for each ``n``.
        prompts: prompts that the curves are of.
        left_out: prompts with fewer responses than the largest ``n``.
        deviation: of each column within prompts, by name.
    """

    n: list[int]
    kl: list[float]
    curves: dict[str, list[Figure]]
    prompts: int
    left_out: int
    deviation: dict[str, float | None]

    def values(self, name: str) -> list[float | None]:
        """The values of a curve."""
        return [figure.value for figure in self.curves[name]]

    def intervals(self, name: str) -> list[dict[str, Any]]:
        """The intervals of a curve."""
        return [{"low": figure.low, "high": figure.high} for figure in self.curves[name]]


def default_ns(counts: np.ndarray) -> list[int]:
    """Powers of two up to 64 that nine prompts in ten have responses for.

    Args:
        counts: ``(P,)`` responses of each prompt.
    """
    most = int(np.quantile(counts, 1 - ENOUGH, method="lower")) if len(counts) else 1
    return [2**k for k in range(7) if 2**k <= max(1, min(most, MOST_N))]


def best_of_n(
    proxy: np.ndarray,
    prompt: np.ndarray,
    columns: Mapping[str, np.ndarray],
    ns: Sequence[int],
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> BestOfN:
    """The mean of the proxy and of every column under best-of-``n``, for each ``n``, over the same prompts.

    Args:
        proxy: ``(R,)`` the reward that chooses.
        prompt: ``(R,)`` prompt numbers.
        columns: name to ``(R,)`` numbers: a second reward, attributes.
        ns: how many are drawn; prompts with fewer responses than the largest are left out, so that all points of a
            curve are of the same prompts.
        bootstrap_samples, seed: of the intervals, by prompt.

    Raises:
        ShapeError: no prompt has as many responses.
    """
    together = {"proxy": np.asarray(proxy, np.float64), **{k: np.asarray(v, np.float64) for k, v in columns.items()}}
    held, left_out = _with_enough(prompt, ns)
    table = np.stack(list(together.values()))
    expected = np.empty((len(held), len(ns), len(together)))
    for p, group in enumerate(held):
        for k, n in enumerate(ns):
            expected[p, k] = table[:, group] @ choice_probabilities(together["proxy"][group], n)
    squares, free = _within(table, held)
    curves = {
        name: [bootstrap_mean(expected[:, k, c], samples=bootstrap_samples, seed=seed) for k in range(len(ns))]
        for c, name in enumerate(together)
    }
    deviation = {name: math.sqrt(squares[c] / free) if free else None for c, name in enumerate(together)}
    kl = [best_of_n_kl(n) for n in ns]
    return BestOfN(list(ns), kl, curves, len(held), left_out, deviation)


def _with_enough(prompt: np.ndarray, ns: Sequence[int]) -> tuple[list[np.ndarray], int]:
    """Positions of the responses of each prompt that has as many as the largest draw, and how many have not."""
    groups = places_of_prompts(np.unique(prompt, return_inverse=True)[1])
    held = [group for group in groups if len(group) >= max(ns)]
    if not held:
        raise ShapeError(f"no prompt has {max(ns)} responses, the most is {max(map(len, groups))}")
    return held, len(groups) - len(held)


def _within(table_CR: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """``(C,)`` squared deviations of each column from its prompts' means, and their degrees of freedom."""
    parts = [table_CR[:, group] for group in groups]
    squares = np.sum([((part - part.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) for part in parts], axis=0)
    return squares, sum(map(len, groups)) - len(groups)


def excess_drift(
    proxy: np.ndarray,
    gold: np.ndarray,
    prompt: np.ndarray,
    columns: Mapping[str, np.ndarray],
    ns: Sequence[int],
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> dict[str, list[Figure]]:
    """How far each column moves under best-of-``n`` beyond what the proxy's gain in gold accounts for.

    Good responses may have more of an attribute, so that it moves under any good choice. With ``d`` the move under the
    proxy's choice and ``e`` under the gold's own choice, the excess is

        d(column) - d(gold) / e(gold) * e(column),

    in deviations of the column within prompts: 0 for a proxy that is gold and noise, whatever the noise.

    Args:
        proxy, gold: ``(R,)`` the reward that chooses, and the one that tells.
        prompt: ``(R,)`` prompt numbers.
        columns: name to ``(R,)`` numbers.
        ns: how many are drawn; prompts with fewer responses than the largest are left out.
        bootstrap_samples, seed: of the intervals, by prompt.
    """
    groups, _ = _with_enough(prompt, ns)
    table = np.stack([np.asarray(gold, np.float64), *(np.asarray(c, np.float64) for c in columns.values())])
    moves = np.zeros((len(groups), 2, len(ns), len(table)))
    for p, group in enumerate(groups):
        mean = table[:, group].mean(axis=1)
        for side, chooser in enumerate((proxy, gold)):
            for k, n in enumerate(ns):
                moves[p, side, k] = table[:, group] @ choice_probabilities(np.asarray(chooser)[group], n) - mean
    squares, free = _within(table, groups)
    spread = np.sqrt(squares / max(free, 1))

    def excess(weights_SP: np.ndarray) -> np.ndarray:
        sums = np.einsum("sp,pank->sank", weights_SP, moves) / weights_SP.sum(axis=1)[:, None, None, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(np.abs(sums[:, 1, :, :1]) > 1e-12, sums[:, 0, :, :1] / sums[:, 1, :, :1], np.nan)
            return (sums[:, 0] - share * sums[:, 1])[:, :, 1:] / spread[1:]

    value = excess(np.ones((1, len(groups))))[0]
    bootstrap = PromptBootstrap(np.arange(len(groups)), bootstrap_samples, seed)
    drawn = np.concatenate([excess(block) for block in bootstrap.blocks()]) if bootstrap_samples > 1 else None
    found: dict[str, list[Figure]] = {}
    for c, name in enumerate(columns):
        found[name] = []
        for k, n in enumerate(ns):
            if not np.isfinite(value[k, c]):
                why = "one response is no choice" if n == 1 else "the column or the gold is the same everywhere"
                found[name].append(Figure(None, why=why))
                continue
            figure = Figure(float(value[k, c]))
            found[name].append(figure if drawn is None else percentile_interval(figure, drawn[:, k, c]))
    return found


def chosen_of_first(proxy: np.ndarray, n: int) -> tuple[int, int]:
    """Positions of the best and of the worst among the first ``n`` responses; of equals, the first.

    Args:
        proxy: ``(m,)`` rewards of a prompt's responses in their order.
        n: how many count.
    """
    first = np.asarray(proxy)[:n]
    return int(np.argmax(first)), int(np.argmin(first))

"""Cluster bootstrap by prompt: responses of one prompt stay together, because they are not independent.

A resample draws as many prompts as there are, with replacement; a prompt drawn ``w`` times weighs ``w``. So a resample
is a row of integer weights, and every figure is computed from the *same* rows, which makes figures comparable. Sums and
ratios of sums are one matrix product; Pearson is a function of weighted moments; Spearman re-ranks under the weights.

Beyond ``LINEAR_FROM`` responses both ranks and tau go by their influences (:mod:`odin_rm.evaluation.rank_influence`),
which is one matrix product for all resamples. Below it Kendall's tau has no cheap weighted form. Where
``resamples * responses`` exceeds ``KENDALL_BUDGET`` it uses the first resamples only (at least
``KENDALL_MIN_RESAMPLES``) and its interval is ``value +- 1.96`` bootstrap standard errors, which needs far fewer
resamples than two extreme percentiles do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import ndtri

from odin_rm.evaluation.association import CONSTANT_TOLERANCE, centre_within
from odin_rm.evaluation.rank_influence import kendall_influence, spearman_influence
from odin_rm.evaluation.records import Figure

LEVEL = 0.95
BLOCK_ELEMENTS = 2_000_000
KENDALL_BUDGET = 4_000_000
KENDALL_MIN_RESAMPLES = 100
LINEAR_FROM = 20_000
"""Responses from which a resample's rank correlation is its value plus the mean influence of what was drawn."""

# A statistic maps a block of prompt weights (S, P) to its value in each resample (S,), NaN where undefined.
Statistic = Callable[[np.ndarray], np.ndarray]


class PromptBootstrap:
    """Weighted resamples of prompts, the same for every figure.

    Args:
        prompt: ``(R,)`` prompt numbers ``0 .. P - 1``.
        samples: number of resamples.
        seed: of the resamples.
    """

    def __init__(self, prompt: np.ndarray, samples: int, seed: int) -> None:
        self.prompt = prompt
        self.prompts = int(prompt.max()) + 1 if len(prompt) else 0
        self.samples, self.seed = samples, seed

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks ``(S, P)`` of weights; each row is drawn on its own, so the block size changes nothing."""
        rng = np.random.default_rng(self.seed)
        size = max(1, BLOCK_ELEMENTS // max(len(self.prompt), 1))
        for first in range(0, self.samples, size):
            rows = min(size, self.samples - first)
            block = np.empty((rows, self.prompts))
            for row in range(rows):
                drawn = rng.integers(0, self.prompts, size=self.prompts)
                block[row] = np.bincount(drawn, minlength=self.prompts)
            yield block

    def intervals(self, values: dict[str, Figure], statistics: dict[str, Statistic]) -> dict[str, Figure]:
        """The figures with their 95 % percentile intervals.

        Args:
            values: the point values by name; an undefined one stays as it is.
            statistics: how to compute each figure in a resample; a figure without one keeps no interval.
        """
        wanted = {n: s for n, s in statistics.items() if values[n].value is not None}
        if self.prompts < 2 or self.samples < 2:
            why = "no interval: a bootstrap by prompt needs two prompts" if self.prompts < 2 else None
            return {n: Figure(f.value, why=f.why or why) for n, f in values.items()}
        draws: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        for block in self.blocks():
            for name, statistic in wanted.items():
                draws[name].append(statistic(block))
        return {
            name: percentile_interval(figure, np.concatenate(draws[name])) if name in wanted else figure
            for name, figure in values.items()
        }

    def kendall_resamples(self) -> int:
        """How many resamples Kendall's tau uses."""
        if len(self.prompt) > LINEAR_FROM:
            return self.samples
        affordable = KENDALL_BUDGET // max(len(self.prompt), 1)
        return min(self.samples, max(KENDALL_MIN_RESAMPLES, affordable))


def percentile_interval(figure: Figure, draws: np.ndarray) -> Figure:
    """The figure with the percentiles of its draws, or 1.96 standard errors where their tail was not computed.

    Args:
        figure: the value.
        draws: ``(S,)`` its value in each resample; NaN where undefined there, infinite where not computed.
    """
    computed = draws[~np.isinf(draws)]
    finite = computed[np.isfinite(computed)]
    if figure.value is None or 2 * len(finite) < len(computed) or len(finite) < 2:
        return Figure(figure.value, why=figure.why or "no interval: undefined in most resamples")
    if len(computed) < len(draws):
        spread = ndtri((1 + LEVEL) / 2) * finite.std(ddof=1)
        low, high = max(-1.0, figure.value - spread), min(1.0, figure.value + spread)
    else:
        low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(figure.value, float(low), float(high), figure.why)


def ratio_statistic(numerator: np.ndarray, denominator: np.ndarray, cluster: np.ndarray, clusters: int) -> Statistic:
    """``sum(numerator) / sum(denominator)`` over resampled clusters.

    Args:
        numerator, denominator: ``(n,)`` contributions of each item (pair or row).
        cluster: ``(n,)`` the prompt of each item.
        clusters: ``P``.
    """
    top = np.bincount(cluster, weights=numerator, minlength=clusters)
    bottom = np.bincount(cluster, weights=denominator, minlength=clusters)

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            total = weights_SP @ bottom
            return np.where(total > 0, (weights_SP @ top) / total, np.nan)

    return statistic


def mean_statistic(first: Statistic, second: Statistic) -> Statistic:
    """The mean of two statistics in each resample."""
    return lambda weights_SP: (first(weights_SP) + second(weights_SP)) / 2


def _moments(columns: list[np.ndarray], prompt: np.ndarray, prompts: int) -> np.ndarray:
    return np.stack([np.bincount(prompt, weights=c, minlength=prompts) for c in columns], axis=1)


def _safe_ratio(
    covariance: np.ndarray, x_var: np.ndarray, y_var: np.ndarray, x_var0: float, y_var0: float
) -> np.ndarray:
    ok = (x_var > CONSTANT_TOLERANCE * x_var0) & (y_var > CONSTANT_TOLERANCE * y_var0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(ok, np.clip(covariance / np.sqrt(x_var * y_var), -1.0, 1.0), np.nan)


def _weighted_moments(x: np.ndarray, y: np.ndarray, prompt: np.ndarray, prompts: int) -> Callable[..., tuple]:
    # Centred once with the whole sample's mean, so that moments of large offsets do not cancel.
    x, y = x - x.mean(), y - y.mean()
    table = _moments([np.ones(len(x)), x, y, x * x, y * y, x * y], prompt, prompts)

    def covariances(weights_SP: np.ndarray) -> tuple:
        n, sx, sy, sxx, syy, sxy = (weights_SP @ table).T
        return sxy / n - sx * sy / n**2, sxx / n - (sx / n) ** 2, syy / n - (sy / n) ** 2

    return covariances


def pearson_statistic(x: np.ndarray, y: np.ndarray, prompt: np.ndarray, prompts: int) -> Statistic:
    """Pearson over the responses of resampled prompts.

    Args:
        x, y: ``(R,)`` values.
        prompt: ``(R,)`` prompt numbers.
        prompts: ``P``.
    """
    covariances = _weighted_moments(x, y, prompt, prompts)

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        covariance, x_var, y_var = covariances(weights_SP)
        return _safe_ratio(covariance, x_var, y_var, float(x.var()), float(y.var()))

    return statistic


def slope_statistic(x: np.ndarray, y: np.ndarray, prompt: np.ndarray, prompts: int) -> Statistic:
    """``cov(x, y) / (sd(x) var(y))``: deviations of ``x`` per unit of ``y``; arguments as for Pearson."""
    covariances = _weighted_moments(x, y, prompt, prompts)

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        covariance, x_var, y_var = covariances(weights_SP)
        return _safe_ratio(covariance, x_var, y_var, float(x.var()), float(y.var())) / np.sqrt(y_var)

    return statistic


def within_statistic(x: np.ndarray, y: np.ndarray, prompt: np.ndarray, prompts: int) -> Statistic:
    """Within-prompt Pearson over resampled prompts, arguments as in :func:`pearson_statistic`."""
    dx, dy = centre_within(x, prompt), centre_within(y, prompt)
    table = _moments([dx * dy, dx * dx, dy * dy], prompt, prompts)

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        covariance, x_var, y_var = (weights_SP @ table).T
        return _safe_ratio(covariance, x_var, y_var, float(dx @ dx) / len(dx), float(dy @ dy) / len(dy))

    return statistic


class WeightedRanks:
    """Mid-ranks of one column under integer weights, without repeating any value.

    Args:
        values: ``(R,)`` the column.
    """

    def __init__(self, values: np.ndarray) -> None:
        _, self.group = np.unique(values, return_inverse=True)
        self.order = np.argsort(self.group, kind="stable")
        self.starts = np.flatnonzero(np.r_[True, np.diff(self.group[self.order]) > 0])

    def __call__(self, weights_SR: np.ndarray) -> np.ndarray:
        """``(S, R)`` mid-rank of each value: weight below it plus half the weight tied with it."""
        tied = np.add.reduceat(weights_SR[:, self.order], self.starts, axis=1)
        middle = np.cumsum(tied, axis=1) - tied / 2
        return middle[:, self.group]


def spearman_statistic(x: np.ndarray, y: np.ndarray, prompt: np.ndarray) -> Statistic:
    """Spearman over the responses of resampled prompts, ranks recomputed in each resample (but see the module)."""
    if len(x) > LINEAR_FROM:
        return _linear_statistic(*spearman_influence(x, y), prompt)
    x_ranks, y_ranks = WeightedRanks(x), WeightedRanks(y)

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        weights_SR = weights_SP[:, prompt]
        total = weights_SR.sum(axis=1, keepdims=True)
        # The weighted mean of mid-ranks is half the total weight, whatever the ties.
        rx = x_ranks(weights_SR) - total / 2
        ry = y_ranks(weights_SR) - total / 2
        cov, vx, vy = (np.einsum("sr,sr,sr->s", weights_SR, a, b) for a, b in ((rx, ry), (rx, rx), (ry, ry)))
        return _safe_ratio(cov, vx, vy, 1.0, 1.0)

    return statistic


def kendall_statistic(x: np.ndarray, y: np.ndarray, prompt: np.ndarray, resamples: int) -> Statistic:
    """Kendall tau-b over the first ``resamples`` resamples; later ones are marked infinite (not computed)."""
    if len(x) > LINEAR_FROM:
        return _linear_statistic(*kendall_influence(x, y), prompt)
    from scipy import stats  # half a second, so not before it is needed

    _, x_rank = np.unique(x, return_inverse=True)
    _, y_rank = np.unique(y, return_inverse=True)
    done = 0

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        nonlocal done
        out = np.full(len(weights_SP), np.inf)
        rows = min(len(weights_SP), resamples - done)
        for row in range(rows):
            take = np.repeat(np.arange(len(prompt)), weights_SP[row, prompt].astype(np.int64))
            out[row] = stats.kendalltau(x_rank[take], y_rank[take], method="asymptotic").statistic
        done += len(weights_SP[:rows])
        return out

    return statistic


def _linear_statistic(value: float, influence: np.ndarray, prompt: np.ndarray) -> Statistic:
    """A statistic in each resample to first order: its value and the mean influence of the responses drawn."""
    moves = ratio_statistic(influence, np.ones(len(influence)), prompt, int(prompt.max()) + 1)
    return lambda weights_SP: np.clip(value + moves(weights_SP), -1.0, 1.0)


def bootstrap_mean(
    values: np.ndarray, cluster: np.ndarray | None = None, *, samples: int = 1000, seed: int = 0
) -> Figure:
    """The mean of ``values`` with its interval, resampling clusters (default: each value its own).

    Args:
        values: ``(n,)`` numbers.
        cluster: ``(n,)`` cluster of each value, any integers or strings.
        samples: resamples.
        seed: of the resamples.
    """
    if len(values) == 0:
        return Figure(None, why="there are no rows")
    number = np.arange(len(values)) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    bootstrap = PromptBootstrap(number, samples, seed)
    statistic = ratio_statistic(np.asarray(values, np.float64), np.ones(len(values)), number, bootstrap.prompts)
    return bootstrap.intervals({"mean": Figure(float(np.mean(values)))}, {"mean": statistic})["mean"]

"""What a reward pays for beside length: every attribute's association with it, pooled and within a prompt.

All from columns: a score and attributes for each response, and the pairs that the labels state. Of each attribute:

* **within** (the headline): Pearson of deviations from the prompt's mean, Spearman of ranks inside each prompt, and
  Kendall's tau-b over the pairs inside prompts. Only there two responses answer the same question, and only that is
  what best-of-N and reinforcement learning can exploit;
* **pooled**: the same three over all responses, which mixes prompts and can have the other sign;
* **curve**: the mean deviation of the reward (in within-prompt deviations) over bins of the attribute's own deviation;
* **amplification**: the standardised coefficient of the attribute in a least-squares regression of the reward's margin
  on the differences of all attributes, minus the same for the label (+1, the chosen side): what the model pays
  beyond what the people pay. Attributes that say nearly the same (correlation 0.9 and more, as characters and words)
  do not control for each other;
* **accuracy for / against**: accuracy where the chosen response has more / less of it.

Besides: the share of the reward's variance that lies between prompts, and the share of the variance within prompts that
all attributes together explain (least squares, adjusted for their number).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from odin_rm.evaluation.association import CONSTANT_TOLERANCE, is_constant
from odin_rm.evaluation.bootstrap import PromptBootstrap
from odin_rm.evaluation.pairs import half_ties
from odin_rm.evaluation.prompt_sums import figures_of, summed, weights_of
from odin_rm.evaluation.rank_influence import kendall_influence, spearman_influence
from odin_rm.evaluation.records import Figure

COLLINEAR = 0.9
BINS = 7
FEWEST_PROMPTS = 10
"""Prompts with responses that differ in an attribute, below which its figures within prompts have no interval."""
_CHUNK_PAIRS = 10_000
_RANKS = ("pearson", "spearman", "kendall")
_RIDGE = 1e-9


@dataclass(frozen=True)
class AttributedScores:
    """Scores and attributes of responses: ``R`` responses of ``P`` prompts, ``B`` pairs.

    Attributes:
        quality: ``(R,)`` the reward.
        prompt: ``(R,)`` prompt numbers ``0 .. P - 1``.
        attributes: name to ``(R,)`` numbers.
        chosen, rejected: ``(B,)`` response numbers; empty without labels.
    """

    quality: np.ndarray
    prompt: np.ndarray
    attributes: Mapping[str, np.ndarray]
    chosen: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True)
class AttributeFigures:
    """What :func:`audit_attributes` finds.

    Attributes:
        attributes: name to the content that ``audit.json`` has for it.
        between_prompt_share: share of the reward's variance between prompts (components of variance).
        style_share: share of the reward's variance within prompts that the attributes explain together.
        within_deviation: root of the reward's mean squared deviation within prompts, unbiased; ``None`` without two
            responses to a prompt.
    """

    attributes: dict[str, dict[str, Any]]
    between_prompt_share: Figure
    style_share: Figure
    within_deviation: float | None


def audit_attributes(scores: AttributedScores, bootstrap: PromptBootstrap) -> AttributeFigures:
    """Every figure of every attribute, with 95 % intervals by prompt.

    Args:
        scores: the columns.
        bootstrap: the resamples; its ``prompt`` is that of the scores.
    """
    columns = _Columns(scores)
    total, drawn = _summed(columns, bootstrap)
    figures = _figures(columns, total, drawn)
    names = list(scores.attributes)
    found = {}
    for k, name in enumerate(names):
        values = columns.values_RK[:, k]
        found[name] = {
            "mean": float(values.mean()) if len(values) else None,
            "within_deviation": columns.attribute_deviation(k),
            "prompts": columns.prompts_with(k),
            "pooled": {rank: figures[f"pooled.{rank}.{name}"].to_json() for rank in _RANKS},
            "within": {rank: figures[f"within.{rank}.{name}"].to_json() for rank in _RANKS},
            "amplification": {
                **figures[f"amplification.{name}"].to_json(),
                "reward": figures[f"coefficient.reward.{name}"].to_json(),
                "label": figures[f"coefficient.label.{name}"].to_json(),
            },
            "accuracy_for": figures[f"accuracy_for.{name}"].to_json(),
            "accuracy_against": figures[f"accuracy_against.{name}"].to_json(),
            "curve": [
                {**columns.bin_words(k, b), **figures[f"curve.{name}.{b}"].to_json()} for b in range(columns.bins(k))
            ],
        }
    return AttributeFigures(found, figures["between_prompt_share"], figures["style_share"], columns.quality_deviation)


def attribute_draws(
    scores: AttributedScores, bootstrap: PromptBootstrap
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Figure]]:
    """Every figure by name: its value ``(1,)``, its resamples ``(S,)``, and the figure with its interval.

    Args:
        scores: the columns.
        bootstrap: the resamples; equal ones make the resamples of two models comparable.
    """
    columns = _Columns(scores)
    total, drawn = _summed(columns, bootstrap)
    draws = columns.evaluate(drawn) if len(drawn) > 1 else {}
    return columns.evaluate(total), draws, _figures(columns, total, drawn)


def _summed(columns: _Columns, bootstrap: PromptBootstrap) -> tuple[np.ndarray, np.ndarray]:
    drawn_at_all = bootstrap.prompts > 1 and bootstrap.samples > 1
    weights_SP = weights_of(bootstrap) if drawn_at_all else np.zeros((0, bootstrap.prompts))
    return summed(columns.chunks(), weights_SP)


def _figures(columns: _Columns, total: np.ndarray, drawn: np.ndarray) -> dict[str, Figure]:
    return columns.without_empty_intervals(
        figures_of(total, drawn, columns.evaluate, columns.why, centred=["style_share"])
    )


class _Columns:
    """The contributions of each prompt to every sum, and the figures from the sums."""

    def __init__(self, scores: AttributedScores) -> None:
        order = np.argsort(scores.prompt, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.names = list(scores.attributes)
        self.prompt = np.asarray(scores.prompt)[order]
        self.prompts = int(self.prompt[-1]) + 1 if len(order) else 0
        self.quality = _steadied(np.asarray(scores.quality, np.float64)[order])
        self.values_RK = np.empty((len(order), len(self.names)))
        for k, name in enumerate(self.names):
            self.values_RK[:, k] = np.asarray(scores.attributes[name], np.float64)[order]
        self.chosen, self.rejected = place[np.asarray(scores.chosen, int)], place[np.asarray(scores.rejected, int)]
        by_prompt = np.argsort(self.prompt[self.chosen], kind="stable")
        self.chosen, self.rejected = self.chosen[by_prompt], self.rejected[by_prompt]
        self.labelled = len(self.chosen) > 0
        self._centre()
        self._pooled()
        self._edges()
        self._layout()

    # ---- columns over all responses ----------------------------------------------------------------------------------

    def _centre(self) -> None:
        self.counts = np.bincount(self.prompt, minlength=self.prompts)
        self.centred = np.empty((len(self.quality), len(self.names) + 1))
        for k, column in enumerate([self.quality, *self.values_RK.T]):  # one at a time, for memory's sake
            mean_P = np.bincount(self.prompt, column, minlength=self.prompts) / np.maximum(self.counts, 1)
            centred = column - mean_P[self.prompt]
            noise = CONSTANT_TOLERANCE * np.abs(column).max(initial=0.0)
            self.centred[:, k] = np.where(np.abs(centred) <= noise, 0.0, centred)
            if k == 0:
                self.prompt_mean = mean_P - (self.quality.mean() if len(self.quality) else 0.0)
        self.free = int((self.counts - 1).clip(0).sum())
        spread = np.sqrt((self.centred**2).sum(axis=0) / max(self.free, 1))
        self.quality_deviation = float(spread[0]) if self.free else None
        self.spread = np.where(spread > 0, spread, 1.0)
        self._attribute_spread = spread[1:]
        self.products = self.centred[:, 1:].T @ self.centred[:, 1:]
        norm = np.sqrt(np.maximum(np.diag(self.products), 1e-300))
        self.likeness = np.abs(self.products / np.outer(norm, norm))

    def attribute_deviation(self, k: int) -> float | None:
        """Deviation of an attribute within prompts."""
        return float(self._attribute_spread[k]) if self.free else None

    def prompts_with(self, k: int) -> int:
        """How many prompts have responses that differ in an attribute."""
        return len(np.unique(self.prompt[self.centred[:, k + 1] != 0]))

    def without_empty_intervals(self, figures: dict[str, Figure]) -> dict[str, Figure]:
        """The figures; of an attribute in which few prompts differ, values only: resamples would miss those prompts."""
        found = dict(figures)
        for k, name in enumerate(self.names):
            prompts = self.prompts_with(k)
            for figure in figures:
                inside = figure.startswith(("within.", "amplification.", "coefficient."))
                if prompts < FEWEST_PROMPTS and inside and figure.endswith(f".{name}"):
                    why = figures[figure].why or f"no interval: only {prompts} prompts have responses that differ in it"
                    found[figure] = Figure(figures[figure].value, why=why)
        return found

    def _pooled(self) -> None:
        """Influences of the rank correlations, summed by prompt, and the columns' means and variances."""
        together = np.column_stack([self.quality, self.values_RK])
        self.means = together.mean(axis=0) if len(self.quality) else np.zeros(together.shape[1])
        self.power = [0.0] * together.shape[1]
        if len(self.quality):
            columns = zip(together.T, self.means, strict=True)
            self.power = [float(((column - mean) ** 2).mean()) for column, mean in columns]
        del together
        self.rank_values: dict[str, float] = {}
        self.influence_PK = np.zeros((self.prompts, 2 * len(self.names)))
        for k, name in enumerate(self.names):
            values = self.values_RK[:, k]
            defined = len(values) > 2 and not is_constant(values) and not is_constant(self.quality)
            for g, (rank, influence) in enumerate((("spearman", spearman_influence), ("kendall", kendall_influence))):
                self.rank_values[f"{rank}.{name}"] = np.nan
                if defined:
                    self.rank_values[f"{rank}.{name}"], moves = influence(self.quality, values)
                    self.influence_PK[:, 2 * k + g] = np.bincount(self.prompt, moves, minlength=self.prompts)

    def _edges(self) -> None:
        """Bins of each attribute's deviation within prompts, of nearly equal count; equal deviations stay together."""
        several = self.counts[self.prompt] > 1
        self.bin_R = np.full(self.values_RK.shape, -1, dtype=np.int8)  # BINS at most
        self._bins: list[list[dict[str, Any]]] = []
        for k in range(len(self.names)):
            deviation = self.centred[several, k + 1]
            if len(deviation) == 0:
                self._bins.append([])
                continue
            edges = np.unique(np.quantile(deviation, np.linspace(0, 1, BINS + 1)[1:-1]))
            number = np.unique(np.searchsorted(edges, deviation, side="left"), return_inverse=True)[1]
            self.bin_R[several, k] = number
            counts = np.bincount(number)
            means = np.bincount(number, deviation) / counts
            self._bins.append(
                [{"deviation": float(m), "responses": int(c)} for m, c in zip(means, counts, strict=True)]
            )

    def bins(self, k: int) -> int:
        """How many bins the curve of an attribute has."""
        return len(self._bins[k])

    def bin_words(self, k: int, b: int) -> dict[str, Any]:
        """Mean deviation of a bin and its responses."""
        return self._bins[k][b]

    # ---- contributions -----------------------------------------------------------------------------------------------

    def _layout(self) -> None:
        """Where each group of sums stands among the columns of the contributions."""
        k, bins = len(self.names), sum(map(len, self._bins))
        sizes = {
            "within": (k + 1) ** 2, "ranks": 2 * k + 1, "signs": 2 * k + 1, "pooled": 3 * k + 2, "influence": 2 * k,
            "count": 6, "curve": 2 * bins, "pairs": (k + 2) ** 2, "sides": 4 * k,
        }  # fmt: skip
        ends = np.cumsum(list(sizes.values()))
        self.parts = {n: slice(int(e - s), int(e)) for (n, s), e in zip(sizes.items(), ends, strict=True)}

    def chunks(self) -> Iterator[np.ndarray]:
        """Contributions of consecutive prompts, few enough at a time to bound memory."""
        cost = np.cumsum(np.maximum(self.counts * (self.counts - 1) // 2, self.counts))
        first = 0
        while first < self.prompts:
            done = cost[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(cost, done + _CHUNK_PAIRS)))
            yield self._contributions(first, min(last, self.prompts))
            first = min(last, self.prompts)

    def _contributions(self, first: int, last: int) -> np.ndarray:
        low, high = np.searchsorted(self.prompt, [first, last])
        prompt, size = self.prompt[low:high] - first, last - first
        centred = self.centred[low:high] / self.spread
        ranks, signs = self._rank_parts(low, high, prompt, size)
        n = self.counts[first:last].astype(np.float64)
        q, a = self.quality[low:high, None] - self.means[0], self.values_RK[low:high] - self.means[1:]
        ones = np.column_stack([q, q * q, a, a * a, q * a])
        mean = self.prompt_mean[first:last]
        squares = np.bincount(prompt, self.centred[low:high, 0] ** 2, minlength=size)
        count = np.column_stack([n, n * n, n * mean, n * mean**2, squares, np.ones(size)])
        chosen_low, chosen_high = np.searchsorted(self.prompt[self.chosen], [first, last])
        pairs, sides = self._pair_parts(slice(chosen_low, chosen_high), first, size)
        return np.column_stack(
            [
                _crossed(centred, prompt, size), ranks, signs, _by_prompt(ones, prompt, size),
                self.influence_PK[first:last], count, self._curve_part(low, high, prompt, size),
                pairs, sides,
            ]
        )  # fmt: skip

    def _rank_parts(self, low: int, high: int, prompt: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Products of ranks inside prompts, and of signs over the pairs inside prompts."""
        first, second = _pairs_inside(prompt)
        together = np.column_stack([self.quality[low:high], self.values_RK[low:high]])
        sign = np.sign(together[first] - together[second])
        n = high - low
        # A rank's distance from the middle is half the sum of its signs against the others.
        rank = np.stack([np.bincount(first, s, n) - np.bincount(second, s, n) for s in sign.T], axis=1) / 2
        return (
            _by_prompt(_with_first(rank), prompt, size),
            _by_prompt(_with_first(sign), prompt[first], size),
        )

    def _curve_part(self, low: int, high: int, prompt: np.ndarray, size: int) -> np.ndarray:
        parts: list[np.ndarray] = [np.zeros((size, 0))]
        deviation = self.centred[low:high, 0] / self.spread[0]
        for k, bins in enumerate(self._bins):
            number = self.bin_R[low:high, k]
            held = number >= 0
            cell = prompt[held] * len(bins) + number[held]
            cells = size * len(bins)
            parts.append(np.bincount(cell, deviation[held], minlength=cells).reshape(size, -1))
            parts.append(np.bincount(cell, minlength=cells).reshape(size, -1).astype(np.float64))
        return np.column_stack(parts)

    def _pair_parts(self, held: slice, first: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Cross products of (reward margin, label, differences) and right answers for and against each attribute."""
        chosen, rejected = self.chosen[held], self.rejected[held]
        prompt = self.prompt[chosen] - first
        margin = (self.quality[chosen] - self.quality[rejected]) / self.spread[0]
        difference = (self.values_RK[chosen] - self.values_RK[rejected]) / self.spread[1:]
        design = np.column_stack([margin, np.ones(len(margin)), difference])
        right = half_ties(margin)[:, None]
        more, less = (difference > 0).astype(np.float64), (difference < 0).astype(np.float64)
        sides = np.column_stack([right * more, more, right * less, less])
        return _crossed(design, prompt, size), _by_prompt(sides, prompt, size)

    # ---- figures -----------------------------------------------------------------------------------------------------

    def evaluate(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Every figure from sums ``(S, m)``."""
        part = {name: sums[:, where] for name, where in self.parts.items()}
        k = len(self.names)
        within = part["within"].reshape(len(sums), k + 1, k + 1)
        found: dict[str, np.ndarray] = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            n = part["count"][:, :1]
            for j, name in enumerate(self.names):
                squares = within[:, 0, 0], within[:, j + 1, j + 1]
                found[f"within.pearson.{name}"] = _ratio(within[:, 0, j + 1], *squares, self.free)
                for group, rank in (("ranks", "spearman"), ("signs", "kendall")):
                    one = part[group]
                    found[f"within.{rank}.{name}"] = _ratio(one[:, 1 + k + j], one[:, 0], one[:, 1 + j], self.free)
                for g, rank in enumerate(("spearman", "kendall")):
                    moves = part["influence"][:, 2 * j + g] / n[:, 0]
                    found[f"pooled.{rank}.{name}"] = np.clip(self.rank_values[f"{rank}.{name}"] + moves, -1, 1)
            found |= self._pooled_figures(part["pooled"], n[:, 0])
            found |= self._regressions(part["pairs"].reshape(len(sums), k + 2, k + 2), within)
            found |= self._side_figures(part["sides"]) | self._curves(part["curve"])
            found |= _variance_shares(part["count"])
            found["style_share"] = _explained(within, part["count"][:, 0] - part["count"][:, 5])
        return found

    def _pooled_figures(self, sums: np.ndarray, n: np.ndarray) -> dict[str, np.ndarray]:
        k = len(self.names)
        q, qq = sums[:, 0] / n, sums[:, 1] / n
        a, aa, qa = (sums[:, 2 + k * g : 2 + k * (g + 1)] / n[:, None] for g in range(3))
        scale, found = self.power, {}
        for j, name in enumerate(self.names):
            x_var, y_var = qq - q * q, aa[:, j] - a[:, j] ** 2
            ok = (x_var > CONSTANT_TOLERANCE * scale[0]) & (y_var > CONSTANT_TOLERANCE * scale[j + 1])
            value = np.clip((qa[:, j] - q * a[:, j]) / np.sqrt(x_var * y_var), -1, 1)
            found[f"pooled.pearson.{name}"] = np.where(ok & (scale[j + 1] > 0) & (scale[0] > 0), value, np.nan)
        return found

    def _regressions(self, pairs: np.ndarray, within: np.ndarray) -> dict[str, np.ndarray]:
        """Standardised coefficients of each attribute beside those that are not nearly the same."""
        if self.labelled:
            moments = {"reward": pairs[:, 0, 2:], "label": pairs[:, 1, 2:]}
            gram, power = pairs[:, 2:, 2:], {"reward": pairs[:, 0, 0], "label": pairs[:, 1, 1]}
        else:
            moments, gram = {"reward": within[:, 0, 1:]}, within[:, 1:, 1:]
            power = {"reward": within[:, 0, 0]}
        found = {}
        for j, name in enumerate(self.names):
            beside = self._beside(j)
            for side in ("reward", "label"):
                value = np.full(len(pairs), np.nan)
                if side in moments:
                    value = _coefficient(gram[:, beside][:, :, beside], moments[side][:, beside], power[side])
                found[f"coefficient.{side}.{name}"] = value
            found[f"amplification.{name}"] = found[f"coefficient.reward.{name}"] - found[f"coefficient.label.{name}"]
        return found

    def _beside(self, j: int) -> list[int]:
        """The attributes of the regression that gives attribute ``j``'s coefficient, itself first."""
        chosen = [j]
        for other in range(len(self.names)):
            varies = self.products[other, other] > 0 and self.products[j, j] > 0
            if other != j and varies and max(self.likeness[other, chosen]) < COLLINEAR:
                chosen.append(other)
        return chosen

    def _side_figures(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        k, found = len(self.names), {}
        for j, name in enumerate(self.names):
            for g, side in ((0, "for"), (2, "against")):
                right, among = sums[:, g * k + j], sums[:, (g + 1) * k + j]
                found[f"accuracy_{side}.{name}"] = np.where(among > 0, right / among, np.nan)
        return found

    def _curves(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        found, start = {}, 0
        for name, bins in zip(self.names, self._bins, strict=True):
            for b in range(len(bins)):
                top, count = sums[:, start + b], sums[:, start + len(bins) + b]
                found[f"curve.{name}.{b}"] = np.where(count > 0, top / count, np.nan)
            start += 2 * len(bins)
        return found

    def why(self, figure: str) -> str:
        """Why a figure is undefined."""
        kind, _, rest = figure.partition(".")
        name = rest.split(".", 1)[-1] if kind in ("within", "pooled", "coefficient") else rest
        if kind.startswith("accuracy") or kind == "amplification" or figure.startswith("coefficient.label"):
            if not self.labelled:
                return "the rows have no labels"
            if kind.startswith("accuracy"):
                return f"in no pair has the chosen response {'more' if kind.endswith('for') else 'less'} of it"
        if kind != "pooled" and not self.free:
            return "no prompt has two responses"
        if name in self.names:
            k = self.names.index(name)
            if not (self.centred[:, k + 1].any() if kind != "pooled" else self.power[k + 1] > 0):
                return "it is the same for every response" + (" to a prompt" if kind != "pooled" else "")
        return "the reward is the same for every response" + (" to a prompt" if kind != "pooled" else "")


def _steadied(values: np.ndarray) -> np.ndarray:
    """Rounding noise of a constant is not an order."""
    return np.full(len(values), values.mean()) if len(values) and is_constant(values) else values


def _with_first(columns: np.ndarray) -> np.ndarray:
    """Squares of the first column, of the others, and the products of the first with the others."""
    q, a = columns[:, :1], columns[:, 1:]
    return np.column_stack([q * q, a * a, q * a])


def _by_prompt(columns: np.ndarray, prompt: np.ndarray, size: int) -> np.ndarray:
    """``(size, m)`` sums of each column over the rows of each prompt."""
    if columns.shape[1] == 0:
        return np.zeros((size, 0))
    return np.stack([np.bincount(prompt, column, minlength=size) for column in columns.T], axis=1)


def _crossed(columns: np.ndarray, prompt: np.ndarray, size: int) -> np.ndarray:
    """``(size, m * m)`` sums over each prompt of all products of two columns; rows are sorted by prompt."""
    m = columns.shape[1]
    out = np.zeros((size, m, m))
    for j in range(m):
        out[:, j, j:] = _by_prompt(columns[:, j:] * columns[:, j : j + 1], prompt, size)
        out[:, j:, j] = out[:, j, j:]
    return out.reshape(size, m * m)


def _pairs_inside(prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every two rows of the same prompt, once, for rows sorted by prompt."""
    starts = np.flatnonzero(np.r_[True, np.diff(prompt) > 0]) if len(prompt) else np.zeros(0, dtype=int)
    sizes = np.diff(np.r_[starts, len(prompt)])
    first, second = [np.zeros(0, dtype=int)], [np.zeros(0, dtype=int)]
    for n in np.unique(sizes[sizes > 1]):
        a, b = np.triu_indices(int(n), 1)
        base = starts[sizes == n][:, None]
        first.append((base + a).ravel())
        second.append((base + b).ravel())
    return np.concatenate(first), np.concatenate(second)


def _ratio(covariance: np.ndarray, x_square: np.ndarray, y_square: np.ndarray, points: int) -> np.ndarray:
    """``covariance / sqrt(x_square y_square)``, undefined with fewer than two degrees of freedom."""
    ok = (x_square > 1e-9) & (y_square > 1e-9) & (points >= 2)
    return np.where(ok, np.clip(covariance / np.sqrt(x_square * y_square), -1.0, 1.0), np.nan)


def _coefficient(gram: np.ndarray, moment: np.ndarray, power: np.ndarray) -> np.ndarray:
    """The first standardised coefficient of least squares, from the sums of products ``(S, m, m)`` and ``(S, m)``."""
    scale = np.sqrt(np.einsum("sii->si", gram))
    ok = (scale[:, 0] > 1e-9) & (power > 1e-12)
    safe = np.where(scale > 1e-9, scale, 1.0)
    correlation = gram / (safe[:, :, None] * safe[:, None, :])
    correlation = correlation + _RIDGE * np.eye(gram.shape[1]) + np.eye(gram.shape[1]) * (scale <= 1e-9)[:, None, :]
    target = moment / (safe * np.sqrt(np.where(ok, power, 1.0))[:, None])
    return np.where(ok, np.linalg.solve(correlation, target[:, :, None])[:, 0, 0], np.nan)


def _explained(within: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Adjusted R squared of the reward on all attributes within prompts."""
    scale = np.sqrt(np.einsum("sii->si", within))
    held = scale[0, 1:] > 1e-9
    if scale[0, 0] <= 1e-9 or not held.any():
        return np.full(len(within), np.nan)
    keep = np.r_[True, held]
    gram = within[:, keep][:, :, keep]
    safe = np.where(scale[:, keep] > 1e-9, scale[:, keep], 1.0)
    correlation = gram / (safe[:, :, None] * safe[:, None, :])
    k = int(held.sum())
    inner = correlation[:, 1:, 1:] + 1e-8 * np.eye(k)
    target = correlation[:, 0, 1:]
    share = np.einsum("sk,sk->s", target, np.linalg.solve(inner, target[:, :, None])[:, :, 0])
    rest = free - k
    return np.where(rest > 0, 1.0 - (1.0 - share) * free / np.where(rest > 0, rest, 1.0), np.nan)


def _variance_shares(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Between prompts over all, by components of variance: bare sums of squares would give noise a share too."""
    n, nn, first, second, inside, prompts = sums.T
    between = (second - first * first / n) / (prompts - 1)
    free = n - prompts
    error = inside / free
    size = (n - nn / n) / (prompts - 1)
    component = np.maximum((between - error) / size, 0.0)
    ok = (prompts > 1) & (free > 0) & (component + error > 0)
    return {"between_prompt_share": np.where(ok, component / (component + error), np.nan)}


def attribute_order(attributes: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """Names by the size of the within-prompt correlation, largest first, undefined last."""

    def size(name: str) -> float:
        value = attributes[name]["within"]["pearson"]["value"]
        return -1.0 if value is None else abs(value)

    return sorted(attributes, key=size, reverse=True)

"""The dial beside what else is done to a reward after training, each fitted on one half and measured on the other.

* ``dial``: :mod:`odin_rm.evaluation.dial_fit` with the chosen anchor; ``zero``: the same curve, all of it.
* ``loess``: Huang et al. (arXiv 2409.17407): ``r - lowess(r ~ a)`` over all responses, whatever their prompt.
* ``penalty``: ``r - alpha a``, with ``alpha`` from the same anchor.

Prompts are halved; each half is calibrated by what the other half taught, so every response is measured once and never
by a fit that saw its prompt. Information beyond a curve is measured of one fit to all prompts: no method reads a label,
and two curves side by side would be no curve of length any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.evaluation.association import centre_within, pearson, pearson_within_prompt, spearman
from odin_rm.evaluation.bootstrap import PromptBootstrap, bootstrap_mean, pearson_statistic, within_statistic
from odin_rm.evaluation.dial_fit import (
    Columns,
    DialPairs,
    DialRows,
    fit_dial,
    given_writer,
    won_half,
    writer_correlation,
)
from odin_rm.evaluation.information import attribute_curve, heldout_gain, undefined_information
from odin_rm.evaluation.pairs import half_ties
from odin_rm.evaluation.records import Figure

METHODS = ("none", "dial", "zero", "loess", "penalty")
LOESS_POINTS = 500
_ROBUST_STEPS = 3
_FEW = 4

# Attributes to what is taken off each reward.
Taken = Callable[[Columns], np.ndarray]


def lowess(
    y: np.ndarray, x: np.ndarray, *, share: float = 1.0, steps: int = _ROBUST_STEPS
) -> Callable[..., np.ndarray]:
    """Cleveland's robust locally weighted regression, as statsmodels defines it; returns the curve.

    At each point the ``share * n`` nearest values are fitted by a straight line with tricube weights; ``steps`` times
    the points are then weighted anew by the bisquare of their residual over six median absolute residuals. It is
    computed at each distinct ``x``, or at 500 quantiles where there are more, and straight between.

    Args:
        y, x: ``(n,)`` numbers.
        share: of the points that a line is fitted to.
        steps: robust passes.
    """
    order = np.argsort(x, kind="stable")
    x, y = np.asarray(x, np.float64)[order], np.asarray(y, np.float64)[order]
    points = np.unique(x)
    if len(points) > LOESS_POINTS:
        points = np.unique(np.quantile(x, np.linspace(0, 1, LOESS_POINTS), method="nearest"))
    count = min(len(x), max(2, int(share * len(x) + 1e-10)))
    trust = np.ones(len(x))
    heights = np.zeros(len(points))
    for step in range(steps + 1):
        for k, point in enumerate(points):
            heights[k] = _line_at(point, x, y, trust, count)
        if step < steps:
            residual = np.abs(y - np.interp(x, points, heights))
            limit = 6 * np.median(residual)
            ratio = np.where(limit > 0, residual / (limit or 1.0), (residual > 0) * 2.0)
            trust = np.where(ratio < 0.001, 1.0, np.where(ratio < 0.999, (1 - ratio**2) ** 2, 0.0))
    return lambda values: np.asarray(np.interp(values, points, heights))


def _line_at(point: float, x: np.ndarray, y: np.ndarray, trust: np.ndarray, count: int) -> float:
    low = _nearest(point, x, count)
    near, heights = x[low : low + count], y[low : low + count]
    radius = max(point - near[0], near[-1] - point)
    if radius <= 0:
        weight = trust[low : low + count].copy()
    else:
        ratio = np.abs(near - point) / radius
        tricube = np.where(ratio <= 0.001, 1.0, np.where(ratio < 0.999, (1 - ratio**3) ** 3, 0.0))
        weight = tricube * trust[low : low + count]
    total = weight.sum()
    if total <= 0:
        return float(np.mean(heights))
    weight /= total
    middle = weight @ near
    spread = weight @ (near - middle) ** 2
    height = weight @ heights
    if spread <= 1e-24 * max(1.0, float(np.ptp(x)) ** 2):
        return float(height)
    slope = weight @ ((near - middle) * heights) / spread
    return float(height + slope * (point - middle))


def _nearest(point: float, x: np.ndarray, count: int) -> int:
    """Where the ``count`` sorted values nearest to a point begin."""
    low, high = 0, len(x) - count
    while low < high:
        middle = (low + high) // 2
        if point - x[middle] > x[middle + count] - point:
            low = middle + 1
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Halves:
    """Held-out calibration: what is taken off each response and pair by the fit of the other half, by method.

    Attributes:
        rows: name of the method to ``(R,)``.
        first, second: name to ``(n,)``, of the two sides of pairs.
        kappas: of the dial in both halves.
        whole: name to ``(R,)``, by the fit to all prompts.
    """

    rows: dict[str, np.ndarray]
    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]
    kappas: tuple[float, float]
    whole: dict[str, np.ndarray]


def held_out(rows: DialRows, names: Sequence[str], anchor: str, pairs: DialPairs | None, seed: int) -> Halves:
    """Every method, fitted on each half of the prompts for the other.

    Raises:
        DataError: a half has too little to fit.
    """
    prompts = np.unique(rows.prompt if pairs is None else np.concatenate([rows.prompt, pairs.prompt]))
    if len(prompts) < _FEW:
        raise DataError(f"{len(prompts)} prompts are too few for two halves")
    half_P = np.zeros(int(prompts.max()) + 1, dtype=int)
    # Prompts with rows and prompts with pairs alone are halved apart, so that no half lacks one of them.
    with_rows = np.isin(prompts, rows.prompt)
    for group in (prompts[with_rows], prompts[~with_rows]):
        half_P[group] = np.random.default_rng(seed).permutation(len(group)) % 2
    n = 0 if pairs is None else len(pairs.first)
    taken = Halves(
        {name: np.zeros(len(rows.quality)) for name in METHODS},
        {name: np.zeros(n) for name in METHODS},
        {name: np.zeros(n) for name in METHODS},
        (0.0, 0.0),
        {},
    )
    kappas = []
    dial = fit_dial(rows, names, anchor, pairs, bootstrap_samples=0).dial
    everything = _methods(rows, names, anchor, pairs, dial.taken_off)
    whole = {name: method(rows.attributes) for name, method in everything.items()}
    for half in (0, 1):
        learns = rows.of_prompts(half_P[rows.prompt] != half)
        shown = None if pairs is None else pairs.of(half_P[pairs.prompt] != half)
        fitted = fit_dial(learns, names, anchor, shown, bootstrap_samples=0)
        kappas.append(fitted.dial.kappa)
        methods = _methods(learns, names, anchor, shown, fitted.dial.taken_off)
        own_R = half_P[rows.prompt] == half
        for name, method in methods.items():
            taken.rows[name][own_R] = method(_of(rows.attributes, own_R))
            if pairs is not None:
                own_n = half_P[pairs.prompt] == half
                taken.first[name][own_n] = method(_of(pairs.first_attributes, own_n))
                taken.second[name][own_n] = method(_of(pairs.second_attributes, own_n))
    return Halves(taken.rows, taken.first, taken.second, (kappas[0], kappas[1]), whole)


def _of(attributes: Columns, keep: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[keep] for name, values in attributes.items()}


def _methods(
    rows: DialRows, names: Sequence[str], anchor: str, pairs: DialPairs | None, dial: Taken
) -> dict[str, Taken]:
    zero = fit_dial(rows, names, "zero", bootstrap_samples=0).dial
    left, curves = rows.quality, []
    for name in names:  # one after the other, as its authors do with several features
        curve = lowess(left, rows.attributes[name])
        left = left - curve(rows.attributes[name])
        curves.append((name, curve))
    alpha = penalty(rows, names[0], anchor, pairs)
    return {
        "none": lambda given: np.zeros(len(given[names[0]])),
        "dial": dial,
        "zero": zero.taken_off,
        "loess": lambda given: np.sum([curve(given[name]) for name, curve in curves], axis=0),
        "penalty": lambda given: alpha * given[names[0]],
    }


def penalty(rows: DialRows, name: str, anchor: str, pairs: DialPairs | None) -> float:
    """The ``alpha`` of ``r - alpha a`` that an anchor asks for; 0 where it decides none."""
    values = np.asarray(rows.attributes[name], np.float64)
    if anchor in ("interventions", "twins"):
        assert pairs is not None
        found = won_half(pairs.second - pairs.first, pairs.second_attributes[name] - pairs.first_attributes[name])
        return found or 0.0
    if anchor == "writers":
        assert rows.writer is not None
        z = given_writer(np.log1p(values), rows.prompt, rows.writer)
        return float(z @ rows.quality / (z @ values)) if z @ values else 0.0
    centred = centre_within(values, rows.prompt)
    return float(centred @ rows.quality / (centred @ centred)) if centred.any() else 0.0


# ---- the table -------------------------------------------------------------------------------------------------------


def rival_figures(
    rows: DialRows,
    names: Sequence[str],
    pairs: DialPairs | None,
    halves: Halves,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """What each method does to responses that it was not fitted on.

    Returns:
        By method: ``pooled`` and ``within`` (Pearson with the first attribute), ``pooled_spearman``,
        ``given_writer`` (where there are writers), ``more_wins`` (share of pairs won by the side with more of the
        attribute, and by kind of pair), ``accuracy``, ``bits`` beyond curves of the attributes and ``bits_change``
        against no calibration (where there are labels), ``flips_sign``: within prompts the sign is the opposite of
        before, and its interval does not hold 0.
    """
    options: dict[str, Any] = {"samples": bootstrap_samples, "seed": seed}
    number = np.unique(rows.prompt, return_inverse=True)[1]
    attribute = np.asarray(rows.attributes[names[0]], np.float64)
    gains = {name: _gain(rows, names, rows.quality - taken, seed) for name, taken in halves.whole.items()}
    found: dict[str, dict[str, Any]] = {}
    for name, taken in halves.rows.items():
        quality = rows.quality - taken
        sampler = PromptBootstrap(number, **options)
        values = {"pooled": pearson(quality, attribute), "within": pearson_within_prompt(quality, attribute, number)}
        statistics = {
            "pooled": pearson_statistic(quality, attribute, number, sampler.prompts),
            "within": within_statistic(quality, attribute, number, sampler.prompts),
        }
        content: dict[str, Any] = {k: f.to_json() for k, f in sampler.intervals(values, statistics).items()}
        content["pooled_spearman"] = spearman(quality, attribute).value
        content["given_writer"] = writer_correlation(quality, rows, names[0])
        if pairs is not None and len(pairs.first):
            content["more_wins"] = _shares(pairs, halves, name, names[0], options)
        if len(rows.chosen):
            correct = half_ties(quality[rows.chosen] - quality[rows.rejected])
            content["accuracy"] = bootstrap_mean(correct, rows.prompt[rows.chosen], **options).to_json()
            content |= _bits(gains[name], gains["none"], rows, options)
        found[name] = content
    before = found["none"]["within"]["value"]
    for content in found.values():
        content["flips_sign"] = _flips(before, content["within"])
    return found


def _shares(pairs: DialPairs, halves: Halves, method: str, attribute: str, options: dict[str, Any]) -> dict[str, Any]:
    won = pairs.more_wins(halves.first[method], halves.second[method], attribute)
    found = {"all": bootstrap_mean(won, pairs.prompt, **options).to_json()}
    kinds = np.unique(pairs.kind)
    if len(kinds) > 1:
        for kind in kinds.tolist():
            own = pairs.kind == kind
            found[str(kind)] = bootstrap_mean(won[own], pairs.prompt[own], **options).to_json()
    return found


def _gain(rows: DialRows, names: Sequence[str], quality: np.ndarray, seed: int) -> np.ndarray | str:
    """``(B,)`` bits of each labelled pair, or why there are none."""
    if not len(rows.chosen):
        return "there are no labelled pairs"
    sides = rows.chosen, rows.rejected
    first = np.asarray(rows.attributes[names[0]], np.float64)
    why = undefined_information(first[sides[0]] - first[sides[1]], rows.prompt[rows.chosen])
    if why is not None:
        return why
    baseline = np.column_stack([attribute_curve(*(rows.attributes[name][side] for side in sides)) for name in names])
    return heldout_gain(quality[sides[0]] - quality[sides[1]], baseline, rows.prompt[rows.chosen], seed)


def _bits(gain: np.ndarray | str, before: np.ndarray | str, rows: DialRows, options: dict[str, Any]) -> dict[str, Any]:
    if isinstance(gain, str) or isinstance(before, str):
        nothing = Figure(None, why=str(gain)).to_json()
        return {"bits": nothing, "bits_change": nothing}
    clusters = rows.prompt[rows.chosen]
    return {
        "bits": bootstrap_mean(gain, clusters, **options).to_json(),
        "bits_change": bootstrap_mean(gain - before, clusters, **options).to_json(),
    }


def _flips(before: float | None, within: dict[str, Any]) -> bool:
    value, low, high = within["value"], within["low"], within["high"]
    if before is None or value is None or low is None or high is None:
        return False
    return before * value < 0 and (low > 0 or high < 0)

"""Arms beside each other on the same held-out pairs: figures with intervals, and their paired differences to one arm.

Every prompt is scored by a head that was trained without it. Heads of different folds have different scales, so rewards
are brought to mean 0 and deviation 1 within each fold; then the folds are one set. With several seeds a figure is
the mean over them, and the intervals resample prompts, the same ones for every arm: a difference is taken within a
resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from odin_rm.evaluation import association as assoc
from odin_rm.evaluation import bootstrap as boot
from odin_rm.evaluation.best_of_n import choice_probabilities
from odin_rm.evaluation.information import heldout_gain, length_curve, undefined_information
from odin_rm.evaluation.pairs import PairView, accuracy_figures, half_ties
from odin_rm.evaluation.probe import reward_change, within_deviation
from odin_rm.evaluation.records import Figure, ScoredPreferences

Part = tuple[Figure, boot.Statistic]
Parts = dict[str, Part]
ACCURACIES = ("accuracy", "accuracy_length_balanced", "accuracy_length_matched")
CORRELATIONS = ("pearson", "spearman", "pearson_within_prompt")
BITS = "information_beyond_length_curve"
MOST_SPEARMAN = 0.028
"""ArmoRM's bound on the rank correlation with the verbosity head."""


@dataclass(frozen=True)
class Compared:
    """What the arms have, by arm and figure.

    Attributes:
        figures: values with intervals.
        differences: to the first arm, paired; empty for the first one itself.
    """

    figures: dict[str, dict[str, Figure]]
    differences: dict[str, dict[str, Figure]]


def standardised(quality_R: np.ndarray, fold_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards with mean 0 and deviation 1 in each fold, with the means and deviations that were used, by fold.

    Args:
        quality_R: ``(R,)`` rewards, each by its fold's head.
        fold_R: ``(R,)`` fold numbers from 0.
    """
    folds = int(fold_R.max()) + 1
    mean_F = np.array([quality_R[fold_R == k].mean() for k in range(folds)])
    deviation_F = np.array([quality_R[fold_R == k].std() for k in range(folds)])
    deviation_F = np.where(deviation_F > 0, deviation_F, 1.0)
    return (quality_R - mean_F[fold_R]) / deviation_F[fold_R], mean_F, deviation_F


def pair_parts(scored: ScoredPreferences, seed: int) -> Parts:
    """Accuracies, information beyond a curve of length, correlations with length, and those with other attributes.

    Args:
        scored: cross-fitted rewards of a preference set; prompts are numbered from 0.
        seed: of the folds of the information.
    """
    prompt, length = np.asarray(scored.prompt), np.asarray(scored.response_tokens, np.float64)
    prompts = int(prompt.max()) + 1
    view = PairView.of(scored, prompt)
    values, statistics = accuracy_figures(view)
    parts: Parts = {name: (values[name], statistics[name]) for name in ACCURACIES}
    why = undefined_information(view.length, view.prompt)
    curve_BK = length_curve(length[scored.chosen], length[scored.rejected])
    gain = np.zeros(len(view.length)) if why else heldout_gain(view.quality, curve_BK, view.prompt, seed)
    bits = Figure(None, why=why) if why else Figure(float(gain.mean()))
    parts[BITS] = bits, boot.ratio_statistic(gain, np.ones(len(gain)), view.prompt, prompts)
    quality = scored.quality
    parts["pearson"] = assoc.pearson(quality, length), boot.pearson_statistic(quality, length, prompt, prompts)
    parts["spearman"] = assoc.spearman(quality, length), boot.spearman_statistic(quality, length, prompt)
    for name, column in {"pearson_within_prompt": length, **scored.attributes}.items():
        values_R = np.asarray(column, np.float64)
        part = (
            assoc.pearson_within_prompt(quality, values_R, prompt),
            boot.within_statistic(quality, values_R, prompt, prompts),
        )
        parts[name if name == "pearson_within_prompt" else f"within.{name}"] = part
    return parts


def edit_parts(
    original: np.ndarray,
    edited: np.ndarray,
    units: np.ndarray | None,
    prompt: np.ndarray,
    prompts: int,
    deviation: float,
) -> Parts:
    """``won`` (share in which the edited side scores higher) and ``price`` (deviations for each unit) of one edit.

    Args:
        original, edited: ``(n,)`` rewards of the two sides.
        units: ``(n,)`` how many units of its attribute the edit adds; ``None`` where it changes nothing countable.
        prompt: ``(n,)`` prompts of the set's ``prompts``.
        prompts: how many there are.
        deviation: of the reward within prompts.
    """
    change, ones = reward_change(original, edited, deviation), np.ones(len(original))
    won = half_ties(change)
    parts: Parts = {"won": (Figure(float(won.mean())), boot.ratio_statistic(won, ones, prompt, prompts))}
    if units is None or not units.sum():
        nothing = Figure(None, why="it changes nothing that is counted")
        return parts | {"price": (nothing, boot.ratio_statistic(change, ones, prompt, prompts))}
    sign = float(np.sign(units.sum()))
    price = Figure(float(change.sum() / units.sum()))
    return parts | {"price": (price, boot.ratio_statistic(sign * change, sign * units, prompt, prompts))}


def chosen_gold(quality_R: np.ndarray, gold_R: np.ndarray, prompt_R: np.ndarray, n: int) -> Part:
    """Mean gold of the best of ``n`` responses by the reward, over the prompts that have as many.

    Args:
        quality_R: ``(R,)`` the reward that chooses.
        gold_R: ``(R,)`` the score that is held out; NaN where a response has none.
        prompt_R: ``(R,)`` prompt numbers.
        n: how many are drawn, without replacement.
    """
    prompts = int(prompt_R.max()) + 1
    top, held = np.zeros(prompts), np.zeros(prompts)
    for number in range(prompts):
        here = (prompt_R == number) & np.isfinite(gold_R)
        if here.sum() >= n:
            held[number] = 1
            top[number] = choice_probabilities(quality_R[here], n) @ gold_R[here]
    statistic = boot.ratio_statistic(top, held, np.arange(prompts), prompts)
    if not held.any():
        return Figure(None, why=f"no prompt has {n} responses with a score"), statistic
    return Figure(float(top.sum() / held.sum())), statistic


def reward_deviation(scored: ScoredPreferences) -> float:
    """Deviation of the reward within prompts."""
    return within_deviation(scored.quality, scored.prompt)[0]


def mean_part(parts: Sequence[Part]) -> Part:
    """The mean of one figure over seeds; undefined where one of them is."""
    undefined = next((figure for figure, _ in parts if figure.value is None), None)
    figure = undefined or Figure(float(np.mean([figure.value for figure, _ in parts])))
    statistics = [statistic for _, statistic in parts]
    return figure, lambda weights_SP: np.mean([statistic(weights_SP) for statistic in statistics], axis=0)


def compare_arms(parts: Mapping[str, Parts], bootstrap: boot.PromptBootstrap) -> Compared:
    """Intervals of every figure of every arm and of its difference to the first arm.

    Args:
        parts: by arm, figures with their statistics, on the same prompts.
        bootstrap: the resamples of these prompts.
    """
    names = {arm: [n for n, (figure, _) in own.items() if figure.value is not None] for arm, own in parts.items()}
    drawn: dict[str, dict[str, list[np.ndarray]]] = {arm: {n: [] for n in own} for arm, own in names.items()}
    enough = bootstrap.prompts > 1 and bootstrap.samples > 1
    for block in bootstrap.blocks() if enough else ():
        for arm, own in names.items():
            for name in own:
                drawn[arm][name].append(parts[arm][name][1](block))
    draws = {arm: {n: np.concatenate(d) for n, d in own.items() if d} for arm, own in drawn.items()}

    def interval(figure: Figure, values: np.ndarray | None) -> Figure:
        return figure if values is None else boot.percentile_interval(figure, values)

    figures = {
        arm: {name: interval(figure, draws[arm].get(name)) for name, (figure, _) in own.items()}
        for arm, own in parts.items()
    }
    first = next(iter(parts))
    differences: dict[str, dict[str, Figure]] = {first: {}}
    for arm in list(parts)[1:]:
        found = {}
        for name, figure in figures[arm].items():
            base = figures[first].get(name)
            if figure.value is None or base is None or base.value is None:
                continue
            both = draws[arm].get(name), draws[first].get(name)
            moved = None if both[0] is None or both[1] is None else both[0] - both[1]
            found[name] = interval(Figure(figure.value - base.value), moved)
        differences[arm] = found
    return Compared(figures, differences)


def smallest_subtraction(quality_R: np.ndarray, length_R: np.ndarray) -> float:
    """ArmoRM's verbosity correction on two heads (Wang et al. 2024, 2406.12845): how much of the length head goes off.

    The smallest ``lambda`` of ``0, 0.05 .. 0.95`` with ``|Spearman(r_Q / s_Q - lambda r_L / s_L, r_L)| <= 0.028``, with
    ``s`` the heads' deviations; where none reaches it, the one that comes nearest. Deviations from the paper: its
    rewards share a scale and are not divided; its bound is on the signed correlation, so what has overshot passes.

    Args:
        quality_R, length_R: ``(R,)`` rewards of the two heads on reference data.

    Returns:
        ``lambda s_Q / s_L``, for ``r_Q - factor * r_L``.
    """
    if assoc.is_constant(length_R) or assoc.is_constant(quality_R):
        return 0.0
    scale = quality_R.std() / length_R.std()
    grid = np.arange(20) * 0.05
    found = [abs(stats.spearmanr(quality_R - part * scale * length_R, length_R)[0]) for part in grid]
    within = [part for part, rank in zip(grid, found, strict=True) if rank <= MOST_SPEARMAN]
    return float((within[0] if within else grid[int(np.nanargmin(found))]) * scale)

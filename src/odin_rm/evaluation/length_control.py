"""Length-controlled win rates: what the win rate would be if the candidate's answers were as long as the baseline's.

Three logistic models of the preference ``y`` in [0, 1] (fractional labels are fine), fitted by maximum likelihood; the
length term is then set to zero.

- *length only*, one system by itself: ``logit p = a tanh((l_1 - l_2) / sd(l_1 - l_2)) + b``, controlled ``sigmoid(b)``;
- *difficulty given*: the same plus ``c g_x`` with ``g_x`` a known difficulty of prompt ``x``;
- *joint*, over many systems ``m``: ``logit p = ability_m + slope tanh((l_2 - l_1) / l_1) + g_x``.

``l_1`` and ``l_2`` are the lengths of the baseline's and of the candidate's answer. The first two follow
length-controlled AlpacaEval (Dubois et al., arXiv 2404.04475) without its regularisation, and can be gamed: a candidate
whose answers are all much too short leaves ``a`` to be told from a few unusual prompts, and a huge ``a`` promises it a
fortune at equal length. The joint model takes the means away:

1. *One slope for all systems.* How much the judge likes length is the judge's property, not the candidate's; a
   candidate can move the common slope only as one among many. Its own constant takes up how good it is on average, so
   the slope is told by differences between prompts, not by long systems being good systems.
2. *Length against this very answer of the baseline*, within -tanh(1) and 1. No spread of the candidate's own lengths
   enters, which it could choose; and cutting every answer to nothing earns at most ``0.76 slope`` logits.
3. *Difficulty* ``g_x`` *is penalised* by ``g_x^2 / 2`` (a normal prior with deviation 1), so it is told by what several
   systems share on a prompt. Prompts on which all do badly need not be explained by length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from odin_rm.core.errors import ShapeError
from odin_rm.evaluation.bootstrap import Statistic

# So weak that it moves no figure in its first six digits, but it keeps separable data finite.
RIDGE = 1e-6
DIFFICULTY_DEVIATION = 1.0
_MOST_STEPS = 100
_JOINT_ELEMENTS = 1_000_000


def deviation_length_term(candidate_P: np.ndarray, baseline_P: np.ndarray, weights_SP: np.ndarray) -> np.ndarray:
    """``tanh((l_1 - l_2) / sd(l_1 - l_2))`` with the (n - 1) deviation of each resample; zeros where that is zero.

    Args:
        candidate_P, baseline_P: ``(P,)`` lengths.
        weights_SP: ``(S, P)`` how often each prompt counts.

    Returns:
        ``(S, P)``, positive where the baseline's answer is longer.
    """
    difference = np.asarray(baseline_P, np.float64) - np.asarray(candidate_P, np.float64)
    total = np.maximum(weights_SP.sum(axis=1, keepdims=True), 1)
    centred = difference - (weights_SP @ difference)[:, None] / total
    deviation = np.sqrt((weights_SP * centred**2).sum(axis=1, keepdims=True) / np.maximum(total - 1, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(deviation > 0, np.tanh(difference / deviation), 0.0)


def relative_length_term(candidate: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """``tanh((l_2 - l_1) / l_1)``: -0.76 for no answer, 0 for equal lengths, near 1 for three times the baseline's."""
    baseline = np.maximum(np.asarray(baseline, np.float64), 1.0)
    return np.tanh((np.asarray(candidate, np.float64) - baseline) / baseline)


def fit_fractional_logistic(features_SPK: np.ndarray, label_P: np.ndarray, weights_SP: np.ndarray) -> np.ndarray:
    """Coefficients of ``p = sigmoid(x . b)`` in each resample.

    Minimises ``sum_i w_i (log(1 + exp(x_i b)) - y_i x_i b)`` by Newton's method.

    Args:
        features_SPK: ``(S, P, K)``.
        label_P: ``(P,)`` in [0, 1].
        weights_SP: ``(S, P)``.

    Returns:
        ``(S, K)``.
    """

    def predicted(b_SK: np.ndarray) -> np.ndarray:
        return (features_SPK @ b_SK[:, :, None])[:, :, 0]

    def loss(b_SK: np.ndarray) -> np.ndarray:
        eta_SP = predicted(b_SK)
        fit = (weights_SP * (np.logaddexp(0, eta_SP) - label_P * eta_SP)).sum(axis=1)
        return fit + RIDGE / 2 * (b_SK**2).sum(axis=1)

    def step(b_SK: np.ndarray) -> np.ndarray:
        p_SP = expit(predicted(b_SK))
        slope = np.einsum("spk,sp->sk", features_SPK, weights_SP * (p_SP - label_P)) + RIDGE * b_SK
        bent = features_SPK * (weights_SP * p_SP * (1 - p_SP))[:, :, None]
        curvature = features_SPK.transpose(0, 2, 1) @ bent + RIDGE * np.eye(b_SK.shape[1])
        return np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]

    return _newton(np.zeros((len(weights_SP), features_SPK.shape[2])), loss, step)


def _newton(
    x_SN: np.ndarray, loss: Callable[[np.ndarray], np.ndarray], step: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Minima of ``S`` convex functions at once, by Newton's method with step halving in each."""
    value = loss(x_SN)
    for _ in range(_MOST_STEPS):
        move = step(x_SN)
        for _ in range(40):
            trial = loss(x_SN - move)
            worse = trial > value + 1e-12 * np.abs(value)
            if not worse.any():
                break
            move[worse] /= 2
        else:
            move[worse], trial[worse] = 0.0, value[worse]
        x_SN, value = x_SN - move, trial
        if np.abs(move).max() < 1e-8:
            break
    return x_SN


def length_tells_all(label_P: np.ndarray, candidate_P: np.ndarray, baseline_P: np.ndarray) -> bool:
    """Whether all wins are on one side of some length difference and all losses on the other: then no fit exists."""
    difference = np.asarray(candidate_P) - np.asarray(baseline_P)
    won, lost = difference[label_P == 1], difference[label_P == 0]
    if not len(won) or not len(lost) or len(won) + len(lost) < len(label_P):
        return False
    return bool(won.min() > lost.max() or won.max() < lost.min())


def length_only(label_P: np.ndarray, candidate_P: np.ndarray, baseline_P: np.ndarray) -> Statistic:
    """The controlled win rate in percent by the length term alone, as a function of prompt weights.

    Args:
        label_P: ``(P,)`` preference minus 1.
        candidate_P, baseline_P: ``(P,)`` lengths.
    """

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        term_SP = deviation_length_term(candidate_P, baseline_P, weights_SP)
        features = np.stack([term_SP, np.ones_like(term_SP)], axis=2)
        return 100 * expit(fit_fractional_logistic(features, label_P, weights_SP)[:, 1])

    return statistic


def difficulty_given(
    label_P: np.ndarray, candidate_P: np.ndarray, baseline_P: np.ndarray, difficulty_P: np.ndarray
) -> Statistic:
    """The controlled win rate in percent by length term and known difficulty, as a function of prompt weights.

    Args:
        label_P: ``(P,)`` preference minus 1.
        candidate_P, baseline_P: ``(P,)`` lengths.
        difficulty_P: ``(P,)`` any number that goes up or down with how hard the prompt is.
    """

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        term_SP = deviation_length_term(candidate_P, baseline_P, weights_SP)
        features = np.stack([term_SP, np.ones_like(term_SP), np.broadcast_to(difficulty_P, term_SP.shape)], axis=2)
        b_SK = fit_fractional_logistic(features, label_P, weights_SP)
        controlled_SP = expit(b_SK[:, 1:2] + b_SK[:, 2:3] * difficulty_P)
        return 100 * (weights_SP * controlled_SP).sum(axis=1) / weights_SP.sum(axis=1)

    return statistic


@dataclass(frozen=True)
class JointFit:
    """The joint model in ``S`` resamples (``S`` is 1 for the fit itself).

    Attributes:
        ability: ``(S, M)`` logit of winning at equal length on a prompt of difficulty 0.
        slope: ``(S,)`` what the judge pays for relative length, logits.
        difficulty: ``(S, P)`` of each prompt for all systems, logits; higher is easier for them.
    """

    ability: np.ndarray
    slope: np.ndarray
    difficulty: np.ndarray

    def controlled(self, weights_SP: np.ndarray) -> np.ndarray:
        """``(S, M)`` win rates in percent at equal length, averaged over the prompts."""
        p_SMP = expit(self.ability[:, :, None] + self.difficulty[:, None, :])
        return 100 * (p_SMP @ weights_SP[:, :, None])[:, :, 0] / weights_SP.sum(axis=1, keepdims=True)


def fit_joint(
    label_MP: np.ndarray, term_MP: np.ndarray, weights_SP: np.ndarray, start: JointFit | None = None
) -> JointFit:
    """Fit the joint model.

    Minimises, with ``e = ability_m + slope t_mx + g_x``,
    ``sum_x w_x (sum_m log(1 + exp(e_mx)) - y_mx e_mx + g_x^2 / 2)`` by Newton's method; the difficulties are eliminated
    from each step (each meets no other), so the cost is linear in prompts. A resampled prompt brings its penalty along.

    Args:
        label_MP: ``(M, P)`` preference minus 1; ``NaN`` where a system lacks a prompt.
        term_MP: ``(M, P)`` of :func:`relative_length_term`.
        weights_SP: ``(S, P)`` how often each prompt counts.
        start: a fit to start from.

    Raises:
        ShapeError: the arrays do not fit each other.
    """
    if label_MP.shape != term_MP.shape or label_MP.shape[1:] != weights_SP.shape[1:]:
        raise ShapeError(f"labels {label_MP.shape}, terms {term_MP.shape} and weights {weights_SP.shape} do not fit")
    systems = len(label_MP)
    there_MP = np.isfinite(label_MP).astype(np.float64)
    label_MP, term_MP = np.nan_to_num(label_MP), np.nan_to_num(term_MP)
    precision = DIFFICULTY_DEVIATION**-2

    def predicted(x_SN: np.ndarray) -> np.ndarray:
        ability, slope, g = x_SN[:, :systems, None], x_SN[:, systems, None, None], x_SN[:, None, systems + 1 :]
        return ability + slope * term_MP + g

    def loss(x_SN: np.ndarray) -> np.ndarray:
        eta_SMP, g_SP = predicted(x_SN), x_SN[:, systems + 1 :]
        fit_SP = (there_MP * (np.logaddexp(0, eta_SMP) - label_MP * eta_SMP)).sum(axis=1)
        common = RIDGE / 2 * (x_SN[:, : systems + 1] ** 2).sum(axis=1)
        return (weights_SP * (fit_SP + precision / 2 * g_SP**2)).sum(axis=1) + common

    def step(x_SN: np.ndarray) -> np.ndarray:
        p_SMP, g_SP = expit(predicted(x_SN)), x_SN[:, systems + 1 :]
        residual = there_MP * (p_SMP - label_MP)
        variance = there_MP * p_SMP * (1 - p_SMP)
        # Per prompt: gradient and curvature of the common coefficients, of g, and what ties them.
        common_SPK = np.concatenate([residual, (residual * term_MP).sum(axis=1, keepdims=True)], axis=1).swapaxes(1, 2)
        cross_SPK = np.concatenate([variance, (variance * term_MP).sum(axis=1, keepdims=True)], axis=1).swapaxes(1, 2)
        g_slope = residual.sum(axis=1) + precision * g_SP
        g_bend = variance.sum(axis=1) + precision
        ridge = RIDGE * np.eye(systems + 1)
        curvature = ridge + _common_curvature(variance, term_MP, weights_SP)
        share_SPK = cross_SPK * (weights_SP / g_bend)[:, :, None]
        curvature -= share_SPK.swapaxes(1, 2) @ cross_SPK
        slope = (common_SPK * weights_SP[:, :, None]).sum(axis=1) + RIDGE * x_SN[:, : systems + 1]
        slope -= (share_SPK * g_slope[:, :, None]).sum(axis=1)
        common = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        g = (g_slope - (cross_SPK @ common[:, :, None])[:, :, 0]) / g_bend
        return np.concatenate([common, g], axis=1)

    x_SN = np.zeros((len(weights_SP), systems + 1 + label_MP.shape[1]))
    if start is not None:
        x_SN += np.concatenate([start.ability, start.slope[:, None], start.difficulty], axis=1)
    x_SN = _newton(x_SN, loss, step)
    return JointFit(x_SN[:, :systems], x_SN[:, systems], x_SN[:, systems + 1 :])


def _common_curvature(variance_SMP: np.ndarray, term_MP: np.ndarray, weights_SP: np.ndarray) -> np.ndarray:
    """``(S, M + 1, M + 1)`` curvature in abilities and slope with the difficulties held."""
    samples, systems, _ = variance_SMP.shape
    weighted = variance_SMP * weights_SP[:, None, :]
    out = np.zeros((samples, systems + 1, systems + 1))
    diagonal = np.arange(systems)
    out[:, diagonal, diagonal] = weighted.sum(axis=2)
    out[:, :systems, systems] = out[:, systems, :systems] = (weighted * term_MP).sum(axis=2)
    out[:, systems, systems] = (weighted * term_MP**2).sum(axis=(1, 2))
    return out


def joint(label_MP: np.ndarray, term_MP: np.ndarray, start: JointFit) -> Statistic:
    """The controlled win rates in percent of all systems, ``(S, M)``, as a function of prompt weights.

    Args:
        label_MP, term_MP: as for :func:`fit_joint`.
        start: the fit to all prompts, from which the resamples' fits start.
    """
    rows = max(1, _JOINT_ELEMENTS // label_MP.size)

    def statistic(weights_SP: np.ndarray) -> np.ndarray:
        blocks = [weights_SP[k : k + rows] for k in range(0, len(weights_SP), rows)]
        return np.concatenate([fit_joint(label_MP, term_MP, block, start).controlled(block) for block in blocks])

    return statistic

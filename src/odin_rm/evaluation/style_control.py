"""Ratings from battles, and what they would be if all answers had the same style: LMArena's regression.

    logit P(first wins) = alpha (R_first - R_second) + sum_k beta_k d_k,

``d_k`` the difference of feature ``k`` between the two answers, scaled to mean 0 and deviation 1 over the battles; a
tie is half a win. Two public forms:

* ``lmarena`` (FastChat): ``alpha = ln 10``, so that a rating is ``1000 + 400 R``; ``d = (a - b) / (a + b + 1)`` of
  tokens, headers, list items and bold spans; a ridge of ``0.25 |.|^2`` on all parameters;
* ``arena-hard`` (Arena-Hard-Auto 2): ``alpha = 1``, no ridge; ``(a - b) / (a + b)`` of tokens; of each mark its density
  ``count / (tokens + 1)``, again by ``(a - b) / (a + b + 1)``; a win by ``>>`` counts three times. The controlled win
  rate is ``sigmoid(R_model - R_baseline)``. ``arena-hard-counts`` takes counts in place of densities, as its first
  version did.

Deviations from Arena-Hard's own code, on purpose: length control alone controls for length (there a slice keeps the
first *model's* column instead), and several categories are fitted one after the other (there the second is empty).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.special import expit

from odin_rm.core.errors import DataError
from odin_rm.evaluation.bootstrap import PromptBootstrap, percentile_interval
from odin_rm.evaluation.records import Figure

COUNTS = ("length", "headers", "lists", "bold")
"""What is counted of an answer, in the order of the columns: tokens, and marks of markdown."""
FORMS = ("lmarena", "arena-hard", "arena-hard-counts")
RATING_SCALE, RATING_START = 400.0, 1000.0
_MOST_STEPS, _TOLERANCE = 60, 1e-9


@dataclass(frozen=True)
class Battles:
    """``N`` comparisons of two answers to a question by ``M`` models.

    Attributes:
        models: ``M`` names.
        first, second: ``(N,)`` model numbers.
        outcome: ``(N,)`` 1 where the first wins, 0 where the second, one half for a tie.
        weight: ``(N,)`` how often a battle counts.
        counts: ``(N, 2, 4)`` of both answers, by :data:`COUNTS`; NaN where unknown.
        question: ``(N,)`` question numbers, for the intervals.
    """

    models: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    outcome: np.ndarray
    weight: np.ndarray
    counts: np.ndarray
    question: np.ndarray

    def only(self, held: np.ndarray) -> Battles:
        """The battles where ``held`` is true, of the same models."""
        columns = {name: getattr(self, name)[held]
                   for name in ("first", "second", "outcome", "weight", "counts", "question")}  # fmt: skip
        return replace(self, **columns)


@dataclass(frozen=True)
class Ratings:
    """A fit.

    Attributes:
        ability: one figure for each model, ``R``; undefined for a model without a battle.
        coefficients: by feature, in log-odds for a deviation of it.
        battles: how many were used.
    """

    ability: list[Figure]
    coefficients: dict[str, Figure]
    battles: int


def controlled_counts(controls: Sequence[str]) -> list[str]:
    """The counts that some controls name; ``markdown`` is headers, lists and bold."""
    wanted: list[str] = []
    for name in controls:
        wanted += ["headers", "lists", "bold"] if name == "markdown" else [name]
    return [name for name in COUNTS if name in wanted]


def style_features(counts: np.ndarray, names: Sequence[str], form: str) -> np.ndarray:
    """``(N, K)`` differences of style before scaling.

    Args:
        counts: ``(N, 2, 4)`` of both answers.
        names: of :data:`COUNTS`.
        form: of :data:`FORMS`.
    """
    columns = []
    for name in names:
        k = COUNTS.index(name)
        sides = counts[:, :, k]
        if name != "length" and form == "arena-hard":
            sides = sides / (counts[:, :, 0] + 1)
        a, b = sides[:, 0], sides[:, 1]
        total = a + b
        if name == "length" and form != "lmarena":
            columns.append(np.where(total > 0, (a - b) / np.where(total > 0, total, 1.0), 0.0))
        else:
            columns.append((a - b) / (total + 1))
    return np.stack(columns, axis=1) if columns else np.zeros((len(counts), 0))


def fit_ratings(
    battles: Battles,
    controls: Sequence[str],
    form: str,
    *,
    baseline: str | None = None,
    bootstrap_samples: int = 100,
    seed: int = 0,
) -> Ratings:
    """Abilities and style coefficients with 95 % intervals, resampling questions.

    Args:
        battles: the comparisons; with controls, those with unknown counts are left out.
        controls: of :data:`COUNTS`, or ``markdown``; empty for no control.
        form: of :data:`FORMS`.
        baseline: the model whose ability is 0; without one the mean of all is.
        bootstrap_samples, seed: of the intervals.

    Raises:
        DataError: no battle is left.
    """
    names = controlled_counts(controls)
    held = np.isfinite(battles.counts[:, :, [COUNTS.index(n) for n in names]]).all(axis=(1, 2))
    battles = battles.only(held & (battles.first != battles.second))
    if len(battles.first) == 0:
        raise DataError("no battle has the counts that style control needs", fix="Give them, or leave the control out.")
    features = style_features(battles.counts, names, form)
    weight = battles.weight
    mean = weight @ features / weight.sum()
    spread = np.sqrt(weight @ (features - mean) ** 2 / weight.sum())
    features = (features - mean) / np.where(spread > 0, spread, 1.0)
    alpha, ridge = (math.log(10), 0.25) if form == "lmarena" else (1.0, 0.0)
    design = _design(battles, features, alpha, None if baseline is None else battles.models.index(baseline))
    value = _fitted(design, battles.outcome, weight, ridge, np.zeros(design.shape[1]))
    seen = np.bincount(np.r_[battles.first, battles.second], minlength=len(battles.models)) > 0
    drawn = []
    number = np.unique(battles.question, return_inverse=True)[1]
    bootstrap = PromptBootstrap(number, bootstrap_samples, seed)
    if bootstrap_samples > 1 and bootstrap.prompts > 1:
        for block in bootstrap.blocks():
            drawn += [_fitted(design, battles.outcome, weight * row[number], ridge, value) for row in block]
    table = np.array(drawn).reshape(len(drawn), len(value))
    m = len(battles.models)
    values, draws = _centred(value[None], m, seen, baseline), _centred(table, m, seen, baseline)
    figures = [
        percentile_interval(Figure(float(values[0, k])), draws[:, k]) if len(drawn) else Figure(float(values[0, k]))
        for k in range(len(value))
    ]
    unseen = Figure(None, why="it has no battle")
    ability = [figure if is_seen else unseen for figure, is_seen in zip(figures, seen, strict=False)]
    return Ratings(ability, dict(zip(names, figures[m:], strict=True)), len(battles.first))


def _design(battles: Battles, features: np.ndarray, alpha: float, fixed: int | None) -> sparse.csr_matrix:
    n, m = len(battles.first), len(battles.models)
    rows = np.arange(n)
    places = np.r_[rows, rows], np.r_[battles.first, battles.second]
    signs = sparse.csr_matrix((np.r_[np.full(n, alpha), np.full(n, -alpha)], places), (n, m))
    if fixed is not None:
        keep = np.ones(m)
        keep[fixed] = 0.0
        signs = signs @ sparse.diags(keep)
    return sparse.csr_matrix(sparse.hstack([signs, sparse.csr_matrix(features)]))


def _fitted(
    design: sparse.csr_matrix, outcome: np.ndarray, weight: np.ndarray, ridge: float, start: np.ndarray
) -> np.ndarray:
    """Newton's method with step halving; a parameter that nothing tells stays where it is."""
    x = start.copy()

    def loss(at: np.ndarray) -> float:
        eta = design @ at
        return float(weight @ (np.logaddexp(0, eta) - outcome * eta) + ridge * at @ at)

    value = loss(x)
    for _ in range(_MOST_STEPS):
        p = expit(design @ x)
        slope = design.T @ (weight * (p - outcome)) + 2 * ridge * x
        bent = (design.T @ design.multiply((weight * p * (1 - p))[:, None])).toarray()
        # So little that it moves no digit that is shown; it holds what no battle tells (a model without one).
        bent += (2 * ridge + 1e-9) * np.eye(len(x))
        move = np.linalg.solve(bent, slope)
        for _ in range(40):
            trial = loss(x - move)
            if trial <= value + 1e-12 * abs(value):
                break
            move /= 2
        x, before, value = x - move, value, trial
        if np.abs(move).max() < _TOLERANCE or abs(before - value) <= 1e-13 * abs(value):
            break
    return x


def _centred(table: np.ndarray, m: int, seen: np.ndarray, baseline: str | None) -> np.ndarray:
    """Abilities about the mean of the models that have battles, where no model is fixed at 0."""
    if baseline is not None or not len(table):
        return table
    moved = table.copy()
    moved[:, :m] -= moved[:, :m][:, seen].mean(axis=1, keepdims=True)
    return moved


def rating(ability: Figure) -> Figure:
    """``1000 + 400 R``."""

    def scaled(value: float | None) -> float | None:
        return None if value is None else RATING_START + RATING_SCALE * value

    return Figure(scaled(ability.value), scaled(ability.low), scaled(ability.high), ability.why)


def win_rate_of(ability: Figure, alpha: float = 1.0) -> Figure:
    """``100 sigmoid(alpha R)``: the share of wins against the baseline, in percent."""

    def share(value: float | None) -> float | None:
        return None if value is None else float(100 * expit(alpha * value))

    return Figure(share(ability.value), share(ability.low), share(ability.high), ability.why)


def plain_win_rates(battles: Battles, baseline: str, *, bootstrap_samples: int = 100, seed: int = 0) -> list[Figure]:
    """Share of each model's battles against the baseline that it wins, in percent, a tie one half, by weight."""
    b = battles.models.index(baseline)
    against = ((battles.first == b) | (battles.second == b)) & (battles.first != battles.second)
    of = battles.only(against)
    model = np.where(of.first == b, of.second, of.first)
    won = np.where(of.first == b, 1 - of.outcome, of.outcome)
    number = np.unique(of.question, return_inverse=True)[1]
    bootstrap = PromptBootstrap(number, bootstrap_samples, seed)
    found = []
    for m in range(len(battles.models)):
        held = model == m
        total = float(of.weight[held].sum())
        if m == b:
            found.append(Figure(50.0, why="it is the baseline"))
            continue
        if not total:
            found.append(Figure(None, why="it has no battle against the baseline"))
            continue
        top = np.bincount(number[held], of.weight[held] * won[held], bootstrap.prompts)
        bottom = np.bincount(number[held], of.weight[held], bootstrap.prompts)
        figure = Figure(100 * float(top.sum() / bottom.sum()))
        draws = [
            np.divide(block @ top, block @ bottom, out=np.full(len(block), np.nan), where=block @ bottom > 0)
            for block in bootstrap.blocks()
        ]
        found.append(percentile_interval(figure, 100 * np.concatenate(draws)) if bootstrap_samples > 1 else figure)
    return found

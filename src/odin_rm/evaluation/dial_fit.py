"""Fitting the dial: the reward's own curve of attributes within prompts, and the share of it that an anchor asks for.

The curve ``g`` is the least-squares fit of ``r - mean_p r`` on the prompt-centred columns of each attribute
(:func:`odin_rm.data.dial.curve_columns`, bends at three deciles of ``log(1 + a)``). The share ``kappa`` comes from one
anchor:

* ``interventions`` and ``twins``: pairs of responses that say the same and differ in the attribute. ``kappa`` is where
  each side wins half of them, ties half. A pair moves by ``kappa`` times a number of its own, so its verdict turns at
  one ``kappa``; the answer is found among these, without a tolerance.
* ``writers``: the correlation of the calibrated reward with the log of the (first) attribute is 0 given prompt and
  writer.
* ``zero``: 1, so the reward does not go with the attributes within prompts at all.

Of several attributes, pairs give the coefficients themselves: the change of the reward is regressed on the changes of
all attributes, ``r' = r - sum_k beta_k a_k``.

Everything is a function of sums over prompts, so the intervals resample prompts and fit anew in each resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.data.dial import AttributeCurve, Dial, curve_columns
from odin_rm.evaluation.association import centre_within
from odin_rm.evaluation.bootstrap import PromptBootstrap, percentile_interval
from odin_rm.evaluation.pairs import half_ties
from odin_rm.evaluation.prompt_sums import weights_of
from odin_rm.evaluation.records import Figure

KNOTS = (0.2, 0.5, 0.8)
"""Deciles, so that the baseline of *information beyond a curve* (hinges at all nine) holds the dial's curve."""
LARGEST_KAPPA = 2.0
"""A curve that is nearly flat would ask for a share without end."""
WIDE = 1.5
_RANK = 1e-10
FEW_PROMPTS = 100

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class DialRows:
    """Responses of the domain, ``R`` of them; labels are not needed.

    Attributes:
        quality: ``(R,)`` rewards.
        attributes: name to ``(R,)`` values of at least 0.
        prompt: ``(R,)`` prompt numbers, any integers of at least 0.
        writer: ``(R,)`` who wrote a response as a number, -1 where that is not known; ``None`` without writers.
        chosen, rejected: ``(B,)`` response numbers of labelled pairs; empty without labels.
    """

    quality: np.ndarray
    attributes: Columns
    prompt: np.ndarray
    writer: np.ndarray | None = None
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    rejected: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))

    def of_prompts(self, keep_R: np.ndarray) -> DialRows:
        """The responses of some prompts and the pairs among them."""
        place = np.cumsum(keep_R) - 1
        pairs = keep_R[self.chosen] & keep_R[self.rejected] if len(self.chosen) else np.zeros(0, dtype=bool)
        return DialRows(
            self.quality[keep_R],
            {name: values[keep_R] for name, values in self.attributes.items()},
            self.prompt[keep_R],
            None if self.writer is None else self.writer[keep_R],
            place[self.chosen[pairs]],
            place[self.rejected[pairs]],
        )


@dataclass(frozen=True)
class DialPairs:
    """Pairs that say the same and differ in attributes, ``n`` of them.

    Attributes:
        first, second: ``(n,)`` rewards of the two sides.
        first_attributes, second_attributes: name to ``(n,)`` values.
        prompt: ``(n,)`` prompt numbers; equal numbers here and in :class:`DialRows` are one prompt.
        kind: ``(n,)`` name of the edit, or "twins".
    """

    first: np.ndarray
    second: np.ndarray
    first_attributes: Columns
    second_attributes: Columns
    prompt: np.ndarray
    kind: np.ndarray

    def of(self, keep_n: np.ndarray) -> DialPairs:
        """Some of the pairs."""
        one = {name: values[keep_n] for name, values in self.first_attributes.items()}
        two = {name: values[keep_n] for name, values in self.second_attributes.items()}
        return DialPairs(self.first[keep_n], self.second[keep_n], one, two, self.prompt[keep_n], self.kind[keep_n])

    def more_wins(self, taken_first: np.ndarray, taken_second: np.ndarray, attribute: str) -> np.ndarray:
        """``(n,)`` 1 where the side with more of the attribute scores higher, 0 where lower, one half at a tie.

        Pairs whose sides have equally much of it count for their second side.

        Args:
            taken_first, taken_second: ``(n,)`` what is taken off the two sides.
            attribute: its name.
        """
        sign = np.where(self.second_attributes[attribute] < self.first_attributes[attribute], -1.0, 1.0)
        return half_ties(sign * ((self.second - taken_second) - (self.first - taken_first)))


@dataclass(frozen=True)
class FittedDial:
    """A dial with its intervals.

    Attributes:
        dial: what is taken off.
        kappa: the share with its interval.
        slopes: by attribute, mean change of the curve per unit of the attribute, between the quartiles of its values.
        warnings: what to tell the user, a sentence each.
    """

    dial: Dial
    kappa: Figure
    slopes: dict[str, Figure]
    warnings: tuple[str, ...] = ()


# ---- the curve -------------------------------------------------------------------------------------------------------


class WithinFit:
    """Least squares of the reward on columns of attributes within prompts, for any weights of prompts.

    Args:
        rows: the responses.
        names: of the attributes.
        prompts: how many prompts there are; at least the largest number plus one.
    """

    def __init__(self, rows: DialRows, names: Sequence[str], prompts: int) -> None:
        self.names = list(names)
        self.knots: dict[str, np.ndarray] = {}
        self.range: dict[str, tuple[float, float]] = {}
        for name in names:
            values = np.asarray(rows.attributes[name], np.float64)
            if not np.isfinite(values).all() or (values < 0).any():
                raise DataError(f"'{name}' has values below 0, or some that are no numbers", fix="Leave it out.")
            log_R = np.log1p(values)
            knots = np.unique(np.quantile(log_R, KNOTS))
            self.knots[name] = knots[(knots > log_R.min()) & (knots < log_R.max())]
            self.range[name] = float(values.min()), float(values.max())
        columns_RM = self.columns(rows.attributes)
        centred_RM = np.column_stack([centre_within(column, rows.prompt) for column in columns_RM.T])
        self.scale = np.sqrt((centred_RM**2).mean(axis=0))
        self.scale[self.scale == 0] = 1.0
        centred_RM /= self.scale
        residual_R = centre_within(np.asarray(rows.quality, np.float64), rows.prompt)
        self.size = centred_RM.shape[1]
        self.gram_P, self.moment_P = np.zeros((prompts, self.size**2)), np.zeros((prompts, self.size))
        products = (centred_RM[:, :, None] * centred_RM[:, None, :]).reshape(len(centred_RM), -1)
        np.add.at(self.gram_P, rows.prompt, products)
        np.add.at(self.moment_P, rows.prompt, centred_RM * residual_R[:, None])
        self.mean_M = columns_RM.mean(axis=0)

    def columns(self, attributes: Columns) -> np.ndarray:
        """``(R, M)`` columns of all attributes side by side, held in the fitted range."""
        return np.column_stack(
            [curve_columns(np.clip(attributes[name], *self.range[name]), self.knots[name]) for name in self.names]
        )

    def coefficients(self, weights_SP: np.ndarray) -> np.ndarray:
        """``(S, M)`` least-squares coefficients in each resample; the smallest ones where columns are dependent."""
        return _least_squares(weights_SP @ self.gram_P, weights_SP @ self.moment_P) / self.scale

    def curves(self, coefficients_M: np.ndarray) -> tuple[AttributeCurve, ...]:
        """The curves of one vector of coefficients."""
        found, first = [], 0
        for name in self.names:
            part = slice(first, first := first + 2 + len(self.knots[name]))
            own = coefficients_M[part]
            found.append(
                AttributeCurve(
                    attribute=name,
                    low=self.range[name][0],
                    high=self.range[name][1],
                    knots=tuple(self.knots[name].tolist()),
                    coefficients=tuple(own.tolist()),
                    centre=float(self.mean_M[part] @ own),
                )
            )
        return tuple(found)


def _least_squares(gram_S: np.ndarray, moment_SM: np.ndarray) -> np.ndarray:
    """``(S, M)`` solutions of ``S`` systems of ``(S, M * M)`` and ``(S, M)``; the smallest where columns depend."""
    size = moment_SM.shape[1]
    inverse = np.linalg.pinv(gram_S.reshape(-1, size, size), rcond=_RANK, hermitian=True)
    return np.einsum("smk,sk->sm", inverse, moment_SM)


# ---- the share -------------------------------------------------------------------------------------------------------


def won_half(change: np.ndarray, curve_change: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """The ``kappa`` at which half of the pairs have ``change - kappa * curve_change`` above 0, ties half.

    The share is a step function of ``kappa`` that moves at ``change / curve_change`` of each pair. Where it is one half
    over an interval, the middle of it is taken; where it passes one half more than once (a curve that is not
    monotone), the place nearest to 0.

    Args:
        change: ``(n,)`` difference of the two sides' rewards.
        curve_change: ``(n,)`` difference of the curve.
        weights: ``(n,)`` how often each pair counts; default once.

    Returns:
        ``None`` where no share makes it a half.
    """
    change, curve_change = np.asarray(change, np.float64), np.asarray(curve_change, np.float64)
    weight = np.ones(len(change)) if weights is None else np.asarray(weights, np.float64)
    moves = (curve_change != 0) & (weight > 0)
    total = weight.sum()
    if not moves.any():
        return None
    fixed = float((weight * half_ties(change))[~moves].sum())
    turn, side, mass = change[moves] / curve_change[moves], np.sign(curve_change[moves]), weight[moves]
    order = np.argsort(turn, kind="stable")
    turn, step = turn[order], (-side * mass)[order]
    # Before the first turn every pair whose curve rises is won; each turn then moves one pair's weight.
    shares = (fixed + mass[side > 0].sum() + np.concatenate([[0.0], np.cumsum(step)])) / total - 0.5
    last = np.concatenate([turn[1:] != turn[:-1], [True]])  # several pairs may turn at one place
    places, shares = turn[last], np.concatenate([shares[:1], shares[1:][last]])
    shares[np.abs(shares) < 1e-12] = 0.0
    before, after = shares[:-1], shares[1:]
    found = places[before * after < 0].tolist()
    found += [(places[k] + places[k - 1]) / 2 for k in np.flatnonzero(shares == 0.0) if 0 < k < len(places)]
    # One half before the first turn, or behind the last one, holds for ever; its end is the nearest place.
    found += [places[0]] if shares[0] == 0 else []
    found += [places[-1]] if shares[-1] == 0 else []
    return float(min(found, key=abs)) if found else None


def given_writer(values: np.ndarray, prompt: np.ndarray, writer: np.ndarray) -> np.ndarray:
    """``(R,)`` residual of values on prompts and writers (two-way fixed effects); 0 where the writer is not known.

    Args:
        values: ``(R,)`` numbers.
        prompt, writer: ``(R,)`` numbers of prompts and writers; a writer of -1 is not known.
    """
    known = writer >= 0
    found = np.zeros(len(values))
    if not known.any():
        return found
    places = np.unique(prompt[known], return_inverse=True)[1]
    numbers = np.unique(writer[known], return_inverse=True)[1]
    target = centre_within(np.asarray(values, np.float64)[known], places)
    dummies = np.eye(numbers.max() + 1)[numbers]
    dummies = np.column_stack([centre_within(column, places) for column in dummies.T])
    found[known] = target - dummies @ np.linalg.lstsq(dummies, target, rcond=None)[0]
    return found


def writer_correlation(quality: np.ndarray, rows: DialRows, name: str) -> float | None:
    """Correlation of the reward with the log of an attribute given prompt and writer; ``None`` without writers."""
    if rows.writer is None or not (rows.writer >= 0).any():
        return None
    z = given_writer(np.log1p(rows.attributes[name]), rows.prompt, rows.writer)
    r = given_writer(quality, rows.prompt, rows.writer)
    size = np.sqrt((z @ z) * (r @ r))
    return float(z @ r / size) if size > 0 else None


# ---- all of it -------------------------------------------------------------------------------------------------------


def fit_dial(
    rows: DialRows,
    names: Sequence[str],
    anchor: str,
    pairs: DialPairs | None = None,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> FittedDial:
    """Fit curve and share.

    Args:
        rows: responses of the domain, several to a prompt.
        names: of the attributes.
        anchor: ``interventions``, ``twins``, ``writers`` or ``zero``.
        pairs: of ``interventions`` and ``twins``.
        bootstrap_samples, seed: of the intervals, by prompt.

    Raises:
        DataError: no prompt has two responses that differ, or the anchor does not decide a share.
    """
    several = int((np.bincount(rows.prompt) > 1).sum())
    if several < 2:
        what = f"{several} prompts have several responses, so there is nothing to fit within prompts"
        raise DataError(what, fix="Give at least 100 prompts with several responses each.")
    warnings = [] if several >= FEW_PROMPTS else [f"only {several} prompts have several responses; 100 make it steady"]
    if anchor in ("interventions", "twins") and (pairs is None or not len(pairs.first)):
        raise DataError("there is no pair to find the share from", fix="Give more responses, or another anchor.")
    if pairs is not None and anchor in ("interventions", "twins") and len(names) > 1:
        return _regressed(rows, names, anchor, pairs, warnings, bootstrap_samples, seed)
    prompts = int(max(rows.prompt.max(), -1 if pairs is None or not len(pairs.prompt) else pairs.prompt.max())) + 1
    fit = WithinFit(rows, names, prompts)
    share = _Share(rows, fit, anchor, pairs, prompts)
    coefficients_M = fit.coefficients(np.ones((1, prompts)))[0]
    kappa = share.of(coefficients_M, np.ones(prompts))
    if kappa is None:
        what = f"the {anchor} decide no share: none makes it come out even"
        raise DataError(what, fix="Give more of them, or another anchor.")
    bootstrap = PromptBootstrap(np.arange(prompts), bootstrap_samples, seed)
    weights_SP = weights_of(bootstrap).astype(np.float64)
    drawn_SM = fit.coefficients(weights_SP)
    draws = [share.of(own, weights) for own, weights in zip(drawn_SM, weights_SP, strict=True)]
    figure = Figure(kappa)
    if anchor != "zero":
        figure = percentile_interval(figure, np.array([np.nan if one is None else one for one in draws]))
    curves = fit.curves(coefficients_M)
    return FittedDial(
        Dial(curves, kappa, anchor),
        figure,
        _slopes(rows, fit, coefficients_M, drawn_SM),
        (*warnings, *_remarks(anchor, figure)),
    )


class _Share:
    """The share that an anchor asks for, as a function of the curve's coefficients and the prompts' weights."""

    def __init__(self, rows: DialRows, fit: WithinFit, anchor: str, pairs: DialPairs | None, prompts: int) -> None:
        self.anchor, self.pairs = anchor, pairs
        if anchor == "writers":
            if rows.writer is None or len(np.unique(rows.writer[rows.writer >= 0])) < 2:
                fix = "Give rows with chosen_model and rejected_model, or writer (docs/calibrate.md)."
                raise DataError("the rows name no two writers", fix=fix)
            z_R = given_writer(np.log1p(rows.attributes[fit.names[0]]), rows.prompt, rows.writer)
            columns_RM = fit.columns(rows.attributes)
            self.reward_P = np.bincount(rows.prompt, z_R * rows.quality, minlength=prompts)
            self.columns_PM = np.zeros((prompts, fit.size))
            np.add.at(self.columns_PM, rows.prompt, z_R[:, None] * columns_RM)
        elif anchor in ("interventions", "twins"):
            assert pairs is not None  # checked by the caller
            self.change = pairs.second - pairs.first
            self.columns_nM = fit.columns(pairs.second_attributes) - fit.columns(pairs.first_attributes)

    def of(self, coefficients_M: np.ndarray, weights_P: np.ndarray) -> float | None:
        """The share; ``None`` where it is undefined."""
        if self.anchor == "zero":
            return 1.0
        if self.anchor == "writers":
            bottom = float(weights_P @ self.columns_PM @ coefficients_M)
            found = float(weights_P @ self.reward_P) / bottom if bottom else None
        else:
            assert self.pairs is not None
            # Signed by the curve, so that both signs of a bias ask the same question.
            found = won_half(self.change, self.columns_nM @ coefficients_M, weights_P[self.pairs.prompt])
        return None if found is None else float(np.clip(found, -LARGEST_KAPPA, LARGEST_KAPPA))


def _slopes(rows: DialRows, fit: WithinFit, coefficients_M: np.ndarray, drawn_SM: np.ndarray) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    first = 0
    for name in fit.names:
        part = slice(first, first := first + 2 + len(fit.knots[name]))
        low, high = np.quantile(rows.attributes[name], [0.25, 0.75])
        if low == high:
            low, high = fit.range[name]
        if low == high:
            found[name] = Figure(None, why="it is the same in every response")
            continue
        ends = curve_columns(np.array([low, high]), fit.knots[name])
        step = (ends[1] - ends[0]) / (high - low)
        found[name] = percentile_interval(Figure(float(step @ coefficients_M[part])), drawn_SM[:, part] @ step)
    return found


def _regressed(
    rows: DialRows,
    names: Sequence[str],
    anchor: str,
    pairs: DialPairs,
    warnings: Sequence[str],
    bootstrap_samples: int,
    seed: int,
) -> FittedDial:
    """Coefficients of several attributes from the pairs: least squares of the change on the changes, no intercept."""
    changes_nK = np.column_stack([pairs.second_attributes[name] - pairs.first_attributes[name] for name in names])
    for name, column in zip(names, changes_nK.T, strict=True):
        if not column.any():
            fix = f"Leave it out of --attributes, or give pairs that change {name}."
            raise DataError(f"no pair changes '{name}'", fix=fix)
    scale_K = np.sqrt((changes_nK**2).mean(axis=0))
    scaled = changes_nK / scale_K
    number = np.unique(pairs.prompt, return_inverse=True)[1]
    prompts = int(number.max()) + 1
    gram_P, moment_P = np.zeros((prompts, len(names) ** 2)), np.zeros((prompts, len(names)))
    np.add.at(gram_P, number, (scaled[:, :, None] * scaled[:, None, :]).reshape(len(scaled), -1))
    np.add.at(moment_P, number, scaled * (pairs.second - pairs.first)[:, None])

    def solve(weights_SP: np.ndarray) -> np.ndarray:
        return _least_squares(weights_SP @ gram_P, weights_SP @ moment_P) / scale_K

    beta_K = solve(np.ones((1, prompts)))[0]
    drawn_SK = solve(weights_of(PromptBootstrap(number, bootstrap_samples, seed)).astype(np.float64))
    curves, slopes = [], {}
    for k, name in enumerate(names):
        everything = [rows.attributes[name], pairs.first_attributes[name], pairs.second_attributes[name]]
        values = np.concatenate([np.asarray(one, np.float64) for one in everything])
        coefficients = (float(beta_K[k]), 0.0)
        centre = float(beta_K[k] * np.mean(rows.attributes[name]))
        curves.append(AttributeCurve(name, float(values.min()), float(values.max()), (), coefficients, centre))
        slopes[name] = percentile_interval(Figure(float(beta_K[k])), drawn_SK[:, k])
    return FittedDial(Dial(tuple(curves), 1.0, anchor), Figure(1.0), slopes, tuple(warnings))


def _remarks(anchor: str, figure: Figure) -> list[str]:
    if anchor == "zero":
        return ["zero takes the whole curve off: it over-corrects where good writers write more"]
    assert figure.value is not None
    kappa, low, high = figure.value, figure.low, figure.high
    if low is not None and high is not None and high - low > WIDE:
        return [f"the {anchor} hardly tell the share: kappa {low:.2f} to {high:.2f}; the curve may be flat"]
    if abs(kappa) >= LARGEST_KAPPA:
        return [f"kappa is held at {kappa:g}: the curve is too flat for what the {anchor} ask"]
    if kappa < 0:
        return [f"kappa is below 0: the {anchor} ask for more of what the reward pays for, not for less"]
    if kappa > 1.5:
        return [f"kappa is {kappa:.2g}: the {anchor} ask for far more than the curve within prompts"]
    return []

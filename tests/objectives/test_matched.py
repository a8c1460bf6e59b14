"""``--objective matched``: hand values, an independent twin, gradients, the curve's fit and its steps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from odin_rm.core.errors import ConfigError
from odin_rm.core.types import RewardScores
from odin_rm.data.batching import draw_pairs
from odin_rm.objectives.attribute_curve import (
    CurveBasis,
    curve_gradient,
    fit_curve,
    length_powers,
    match_weight,
    natural_spline,
)
from odin_rm.objectives.matched import Matched, widths
from odin_rm.objectives.objective import COMPLETE, PairColumns, Progress
from odin_rm.objectives.registry import BradleyTerrySettings, MatchedSettings, make_objective

LOG2 = math.log(2)


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def columns(tokens: list[float], pairs: list[tuple[int, int]], **others: Any) -> PairColumns:
    margin = others.pop("margin", [0.0] * len(pairs))
    return PairColumns(
        attributes={"response_tokens": double(tokens), **{name: double(value) for name, value in others.items()}},
        prompt_R=torch.zeros(len(tokens), dtype=torch.int64),
        chosen_B=torch.tensor([c for c, _ in pairs]),
        rejected_B=torch.tensor([r for _, r in pairs]),
        margin_B=double(margin),
        variants={},
    )


def objective(batch: PairColumns, **options: Any) -> Matched:
    made = Matched(MatchedSettings(**options))
    made.begin(batch)
    return made


def random_batch(seed: int, responses: int = 40, pairs: int = 60) -> PairColumns:
    rng = np.random.default_rng(seed)
    tokens = np.exp(rng.normal(4.0, 0.8, responses)).round() + 1
    drawn = [tuple(rng.choice(responses, 2, replace=False)) for _ in range(pairs)]
    lists = rng.poisson(2.0, responses).astype(float)
    return columns(tokens.tolist(), drawn, list_items=lists, margin=rng.normal(0, 0.3, pairs).tolist())


def test_weight_by_hand() -> None:
    # log 2 apart at a tau of log 2: exp(-1/2); equal: 1; two attributes, each one tau apart: exp(-1).
    delta_KB = double([[LOG2, 0.0, -LOG2], [0.0, 0.0, 1.0]])
    found = match_weight(delta_KB, double([LOG2, 1.0]))
    np.testing.assert_allclose(found, [math.exp(-0.5), 1.0, math.exp(-1.0)], rtol=1e-15)
    np.testing.assert_array_equal(match_weight(delta_KB, double([math.inf, math.inf])), [1, 1, 1])


def test_loss_by_hand() -> None:
    """Two pairs, one of equal lengths and one of twice: weights 1 and e^-1/2, divided by their mean."""
    batch = columns([100, 100, 100, 200], [(0, 1), (3, 2)])
    made = objective(batch, match_tau=LOG2, match_curve="none")
    scores = RewardScores(quality=double([LOG2, 0.0, 0.0, math.log(3)]))
    # -log sigmoid(log 2) = log(3/2), -log sigmoid(log 3) = log(4/3).
    light = math.exp(-0.5)
    expected = (math.log(3 / 2) + light * math.log(4 / 3)) / 2 / ((1 + light) / 2)
    found = made.value(scores, batch, COMPLETE)
    assert float(found.total) == pytest.approx(expected, abs=1e-15)
    assert float(found.metrics["ranking_loss"]) == pytest.approx(expected, abs=1e-15)
    assert float(found.metrics["match_weight"]) == pytest.approx(1.0)
    assert float(found.metrics["accuracy"]) == 1.0
    # Each pair alone: the constants stay those of the data, so parts add up to the whole.
    parts = [
        made.value(
            scores,
            dataclasses.replace(
                batch, chosen_B=batch.chosen_B[[b]], rejected_B=batch.rejected_B[[b]], margin_B=batch.margin_B[[b]]
            ),
            COMPLETE,
        ).total
        for b in (0, 1)
    ]
    assert float(sum(parts)) / 2 == pytest.approx(expected, abs=1e-15)


def test_an_infinite_tau_without_a_curve_is_bradley_terry() -> None:
    batch = random_batch(0)
    scores = RewardScores(quality=double(np.random.default_rng(1).normal(size=40)))
    plain = make_objective("bradley_terry", BradleyTerrySettings()).value(scores, batch, COMPLETE)
    ours = objective(batch, match_tau=math.inf, match_curve="none").value(scores, batch, COMPLETE)
    assert float(ours.total) == pytest.approx(float(plain.total), abs=1e-15)


@pytest.mark.parametrize("shape", ["powers", "spline"])
@pytest.mark.parametrize("names", ["response_tokens", "response_tokens,list_items=0.5"])
def test_value_is_that_of_a_twin_in_numpy(shape: str, names: str) -> None:
    batch = random_batch(2)
    made = objective(batch, match_curve_shape=shape, match_attributes=names, match_tau=0.4)
    rng = np.random.default_rng(3)
    quality = rng.normal(size=40)
    tokens, lists = (batch.attributes[name].numpy() for name in ("response_tokens", "list_items"))
    chosen, rejected = batch.chosen_B.numpy(), batch.rejected_B.numpy()
    weight = np.exp(-((np.log(tokens[chosen]) - np.log(tokens[rejected])) ** 2) / (2 * 0.4**2))
    if "list" in names:
        weight *= np.exp(-((np.log1p(lists[chosen]) - np.log1p(lists[rejected])) ** 2) / (2 * 0.5**2))
    assert made.basis is not None
    columns_RD = made.basis.columns(batch.attributes).numpy()
    np.testing.assert_allclose(np.cov(columns_RD.T, bias=True), np.eye(columns_RD.shape[1]), atol=1e-8)
    beta = made.curve_D.numpy()
    gap = quality[chosen] - quality[rejected] + (columns_RD[chosen] - columns_RD[rejected]) @ beta
    losses = np.logaddexp(0, -(gap - batch.margin_B.numpy()))
    expected = (weight / weight.mean() * losses).mean() + 1e-3 * (beta**2).sum()
    found = made.value(RewardScores(quality=double(quality)), batch, COMPLETE)
    assert float(found.total) == pytest.approx(expected, rel=1e-12)


def test_gradients() -> None:
    batch = random_batch(4, responses=8, pairs=10)
    made = objective(batch, match_tau=1.0)

    def total(quality_R: Tensor) -> Tensor:
        return made.value(RewardScores(quality=quality_R), batch, COMPLETE).total

    quality_R = double(np.random.default_rng(5).normal(size=8)).requires_grad_(True)
    assert torch.autograd.gradcheck(total, (quality_R,))
    # The curve's own gradient and curvature are those of the same total with respect to it.
    gap_B = (quality_R[batch.chosen_B] - quality_R[batch.rejected_B] - batch.margin_B).detach()
    share_B = made._weights(batch) / len(gap_B)
    delta_BD = made._differences(batch)

    def of_curve(curve_D: Tensor) -> Tensor:
        fit = torch.nn.functional.softplus(-(gap_B + delta_BD @ curve_D))
        return (share_B * fit).sum() + 1e-3 * curve_D.pow(2).sum()

    curve_D = made.curve_D.clone().requires_grad_(True)
    (expected_D,) = torch.autograd.grad(of_curve(curve_D), curve_D)
    gradient_D, hessian_DD = curve_gradient(made.curve_D, gap_B, delta_BD, share_B, 1e-3)
    torch.testing.assert_close(gradient_D, expected_D)
    torch.testing.assert_close(hessian_DD, torch.autograd.functional.hessian(of_curve, made.curve_D))
    assert float(of_curve(made.curve_D)) == pytest.approx(float(total(quality_R).detach()), abs=1e-14)


def test_the_curve_starts_at_the_fit_of_scipy() -> None:
    batch = random_batch(6, responses=200, pairs=300)
    made = objective(batch, match_tau=1.0)
    delta_BD, weight_B = made._differences(batch).numpy(), made._weights(batch).numpy()

    def loss(beta: np.ndarray) -> float:
        odds = delta_BD @ beta - batch.margin_B.numpy()
        return float((weight_B * np.logaddexp(0, -odds)).mean() + 1e-3 * (beta**2).sum())

    expected = minimize(loss, np.zeros(delta_BD.shape[1]), method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(made.curve_D, expected.x, atol=1e-5)


def test_the_fit_takes_what_length_alone_explains() -> None:
    """Labels that are one fixed curve of log length: the fit finds its slope, and a doubling is worth log 2 of it."""
    rng = np.random.default_rng(7)
    tokens = np.exp(rng.normal(4.5, 0.6, 4000)).round()
    first, second = rng.integers(0, 4000, (2, 20000))
    wins = rng.random(20000) < 1 / (1 + np.exp(-1.5 * (np.log(tokens[first]) - np.log(tokens[second]))))
    pairs = [(a, b) if win else (b, a) for a, b, win in zip(first, second, wins, strict=True)]
    made = objective(columns(tokens.tolist(), pairs), match_tau=math.inf, match_curve="fixed")
    assert made.doubling(columns(tokens.tolist(), pairs)) == pytest.approx(1.5 * LOG2, abs=0.06)


def test_only_a_joint_curve_moves_and_it_goes_downhill() -> None:
    batch = random_batch(8, responses=100, pairs=200)
    scores = RewardScores(quality=double(np.random.default_rng(9).normal(size=100)))
    fixed = objective(batch, match_curve="fixed")
    before = fixed.curve_D.clone()
    fixed.after_step(scores, batch, Progress(1, 10))
    assert torch.equal(fixed.curve_D, before)
    joint = objective(batch)
    losses = []
    for step in range(1, 101):
        losses.append(float(joint.value(scores, batch, Progress(step, 100)).total))
        joint.after_step(scores, batch, Progress(step, 100))
    assert losses[-1] < losses[0]
    gap_B = scores.quality[batch.chosen_B] - scores.quality[batch.rejected_B] - batch.margin_B
    best = fit_curve(gap_B, joint._differences(batch), joint._weights(batch) / 200, 1e-3)
    torch.testing.assert_close(joint.curve_D, best, atol=0.03, rtol=0)


def test_adams_first_step_has_the_size_of_the_rate_and_the_cosine_ends_it() -> None:
    batch = random_batch(10)
    scores = RewardScores(quality=double(np.random.default_rng(11).normal(size=40)))
    made = objective(batch, match_curve_rate=0.01)
    start = made.curve_D.clone()
    made.after_step(scores, batch, Progress(1, 4))
    np.testing.assert_allclose((made.curve_D - start).abs(), 0.01, rtol=1e-5)
    # The third of four steps is half way down the cosine.
    again = objective(batch, match_curve_rate=0.01)
    again.after_step(scores, batch, Progress(3, 4))
    np.testing.assert_allclose((again.curve_D - start).abs(), 0.005, rtol=1e-5)


def test_the_state_goes_on_where_it_was() -> None:
    batch = random_batch(12)
    scores = RewardScores(quality=double(np.random.default_rng(13).normal(size=40)))
    whole, first, second = (objective(batch) for _ in range(3))
    for step in (1, 2, 3, 4):
        whole.after_step(scores, batch, Progress(step, 4))
    for step in (1, 2):
        first.after_step(scores, batch, Progress(step, 4))
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for step in (3, 4):
        second.after_step(scores, batch, Progress(step, 4))
    assert set(whole.state_dict()) == set(second.state_dict()) != set()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert objective(batch, match_curve="none").state_dict() == {}


def test_splines_bend_between_the_knots_alone() -> None:
    knots = double([1.0, 2.0, 3.0, 4.0, 5.0])
    assert natural_spline(knots, knots).shape == (5, 4)
    for far in (double([5.0, 6.0, 7.0]), double([-1.0, 0.0, 1.0])):
        found = natural_spline(far, knots)
        np.testing.assert_allclose(found[2] - found[1], found[1] - found[0], atol=1e-12)
    bent = natural_spline(double([2.0, 3.0, 4.0]), knots)
    assert (bent[2, 1:] - 2 * bent[1, 1:] + bent[0, 1:]).abs().max() > 0.01
    # By hand, first column: ((2-1)^3/4 - 0) / 4 at 2.
    assert float(natural_spline(double([2.0]), knots)[0, 1]) == pytest.approx(1 / 16)
    assert natural_spline(double([1.0, 2.0]), double([1.0, 2.0])).shape == (2, 1)
    np.testing.assert_allclose(length_powers(double([300.0])), [[1.0, 1.0, math.log(301)]])


def test_a_column_that_says_nothing_is_left_out() -> None:
    attributes = {"response_tokens": double([50.0] * 6), "list_items": double([0, 1, 2, 3, 0, 1])}
    assert CurveBasis.of(attributes, ("response_tokens",), "powers").whiten_CD.shape == (3, 0)
    basis = CurveBasis.of(attributes, ("response_tokens", "list_items"), "spline")
    np.testing.assert_allclose(basis.columns(attributes).T @ basis.columns(attributes) / 6, np.eye(2), atol=1e-10)
    batch = columns([50.0] * 4, [(0, 1), (2, 3)])
    made = objective(batch)
    assert made.state_dict()["curve"].shape == (0,)
    made.after_step(RewardScores(quality=double([1.0, 0, 0, 0])), batch, Progress(1, 1))


def test_drawn_pairs_have_their_probabilities_and_unit_weights() -> None:
    batch = random_batch(14)
    made = objective(batch, match_by="draws")
    draws = made.draws()
    assert draws is not None
    torch.testing.assert_close(draws, objective(batch)._weights(batch) * made.mean_weight)
    quality = RewardScores(quality=double(np.random.default_rng(15).normal(size=40)))
    assert float(made.value(quality, batch, Progress(1, 10)).metrics["match_weight"]) == 1
    # Held-out pairs are not drawn: their loss is the one that a step has on average.
    for pairs in (batch, random_batch(16)):
        assert float(made.value(quality, pairs, COMPLETE).total) == pytest.approx(
            float(objective(batch).value(quality, pairs, COMPLETE).total), abs=1e-12
        )
    size = int(draws.sum())
    counts = np.zeros(60)
    for epoch in range(4000):
        numbers = draw_pairs(draws.numpy(), 0, epoch)
        assert len(numbers) == len(set(numbers.tolist())) == size
        counts[numbers] += 1
    np.testing.assert_allclose(counts / 4000, draws.numpy() * size / float(draws.sum()), atol=0.03)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30), st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_draws_are_ascending_distinct_and_never_of_weight_nothing(probabilities: list[float], epoch: int) -> None:
    given_B = np.array([*probabilities, 1.0])
    numbers = draw_pairs(given_B, 3, epoch)
    assert len(numbers) == int(given_B.sum())
    assert (np.diff(numbers) > 0).all()
    assert (given_B[numbers] > 0).all()
    np.testing.assert_array_equal(numbers, draw_pairs(given_B, 3, epoch))


def test_bad_settings_are_one_line() -> None:
    batch = random_batch(15)
    with pytest.raises(ConfigError, match=r"no attribute 'colour'.*list_items"):
        objective(batch, match_attributes="colour")
    with pytest.raises(ConfigError, match="--match_tau"):
        objective(columns([10, 1000], [(0, 1)]), match_tau=0.1)
    with pytest.raises(ConfigError, match="negative"):
        objective(columns([10, 10], [(0, 1)], depth=[1.0, -1.0]), match_attributes="response_tokens,depth")
    assert widths("a, b=0.5", 0.3) == {"a": 0.3, "b": 0.5}
    for text in ("", "a,a", "a=0", "a=x", "a,,b"):
        with pytest.raises(ConfigError, match="--match_attributes"):
            widths(text, 0.3)


def test_the_curves_ridge_is_part_of_the_loss() -> None:
    batch = random_batch(14)
    scores = RewardScores(quality=double(np.random.default_rng(15).normal(size=40)))
    made = objective(batch, match_curve_ridge=0.25)
    value = made.value(scores, batch, COMPLETE)
    added = float(value.total) - float(value.metrics["ranking_loss"])
    assert added == pytest.approx(0.25 * float(made.curve_D.square().sum()), abs=1e-12)
    assert added > 0


def test_two_functions_of_one_name_are_two_attributes_no_curve_could_tell_apart() -> None:
    with pytest.raises(ConfigError, match="--match_attributes: two attributes have one name"):
        Matched(MatchedSettings(match_attributes="words,mine:words"))

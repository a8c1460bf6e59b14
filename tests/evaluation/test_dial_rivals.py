"""The rivals of the dial: statsmodels' LOESS by value, known worlds, and how LOESS flips the sign within prompts."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from odin_rm.core.errors import DataError
from odin_rm.evaluation.dial_fit import DialRows
from odin_rm.evaluation.dial_rivals import METHODS, held_out, lowess, penalty, rival_figures
from odin_rm.evaluation.nulling import longer_less_shorter, mean_differences, nulled
from tests.evaluation.test_dial_fit import NAME, twins, world


@pytest.mark.parametrize("share", [0.3, 0.66, 1.0])
@pytest.mark.parametrize("whole", [False, True])
def test_loess_is_that_of_statsmodels(share, whole):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 10, 160)
    x = x.round() if whole else x
    y = np.sin(x / 5) + rng.normal(0, 0.3, 160)
    y[3] = 12  # an outlier that the robust passes must see
    expected = sm.nonparametric.lowess(y, x, frac=share, return_sorted=False)
    assert lowess(y, x, share=share)(x) == pytest.approx(expected, abs=1e-6)


def test_loess_of_a_line_is_the_line_and_many_values_change_little():
    x = np.linspace(0, 10, 3000)
    assert lowess(2 * x + 1, x)(x) == pytest.approx(2 * x + 1)
    y = np.sin(x) + np.random.default_rng(0).normal(0, 0.1, 3000)
    expected = sm.nonparametric.lowess(y, x, frac=0.2, return_sorted=False)
    assert lowess(y, x, share=0.2)(x) == pytest.approx(expected, abs=5e-3)


def test_a_penalty_by_hand():
    rows = DialRows(np.array([1.0, 3, 0, 4]), {NAME: np.array([1.0, 2, 1, 3])}, np.array([0, 0, 1, 1]))
    # Centred lengths -.5 .5 -1 1, rewards -1 1 -2 2: slope (1 + 4) / (0.5 + 2).
    assert penalty(rows, NAME, "zero", None) == pytest.approx(2.0)


def test_pooled_loess_flips_the_sign_within_prompts_and_the_dial_does_not():
    """Prompts with long answers have high rewards; within a prompt the reward takes off for length (JudgeBench)."""
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(200), 6)
    level = rng.normal(0, 1, 200)[prompt]
    length = np.exp(5 + 0.9 * level + 0.4 * rng.normal(size=len(prompt))).round()
    within = np.log(length) - 0.9 * level
    quality = 2.5 * level - 0.4 * within + 0.5 * rng.normal(size=len(prompt))
    rows = DialRows(quality, {NAME: length}, prompt)
    figures = rival_figures(rows, [NAME], None, held_out(rows, [NAME], "zero", None, 0), bootstrap_samples=200)
    assert figures["none"]["pooled"]["value"] > 0.5
    assert figures["none"]["within"]["value"] < -0.1
    # LOESS takes off what prompts differ in, and so makes the penalty within prompts larger still.
    assert figures["loess"]["within"]["value"] < -0.7
    assert abs(figures["dial"]["within"]["value"]) < 0.06
    # The same with the other sign within prompts: there it flips.
    other = DialRows(quality + 1.2 * within, {NAME: length}, prompt)
    figures = rival_figures(other, [NAME], None, held_out(other, [NAME], "zero", None, 0), bootstrap_samples=200)
    assert figures["none"]["within"]["value"] > 0.1
    assert figures["loess"]["flips_sign"]
    assert not figures["dial"]["flips_sign"]
    assert not figures["none"]["flips_sign"]


def test_held_out_pairs_are_won_half_by_the_dial_and_every_row_is_calibrated_by_the_other_half():
    rows, pairs = world(prompts=300), twins(n=1500, prompts=300)
    halves = held_out(rows, [NAME], "twins", pairs, 0)
    assert set(halves.rows) == set(METHODS)
    figures = rival_figures(rows, [NAME], pairs, halves, bootstrap_samples=100)
    assert figures["dial"]["more_wins"]["all"]["value"] == pytest.approx(0.5, abs=0.05)
    assert figures["penalty"]["more_wins"]["all"]["value"] == pytest.approx(0.5, abs=0.05)
    assert figures["zero"]["more_wins"]["all"]["value"] < 0.35
    assert figures["none"]["more_wins"]["all"]["value"] > 0.65
    assert min(halves.kappas) > 0.3
    assert halves.kappas[0] != halves.kappas[1]
    # Two curves, one for each half: what is taken off at one length takes two values.
    length = rows.attributes[NAME]
    value, counts = np.unique(length, return_counts=True)
    often = length == value[counts.argmax()]
    assert len(np.unique(halves.rows["dial"][often].round(12))) == 2


def test_information_and_accuracy_stand_in_the_table():
    rows = world(prompts=900, each=2)
    order = np.argsort(rows.prompt * 1e6 - rows.quality + np.random.default_rng(0).normal(0, 1.5, len(rows.quality)))
    first = order.reshape(900, 2)
    rows = DialRows(rows.quality, rows.attributes, rows.prompt, None, first[:, 0], first[:, 1])
    figures = rival_figures(rows, [NAME], None, held_out(rows, [NAME], "zero", None, 0), bootstrap_samples=100)
    assert figures["none"]["bits_change"]["value"] == 0
    assert figures["none"]["bits"]["value"] > 0.1
    for name in ("dial", "zero"):
        assert abs(figures[name]["bits_change"]["value"]) < 0.002
    assert figures["dial"]["accuracy"]["value"] > 0.6


def test_too_few_prompts_have_no_halves():
    with pytest.raises(DataError, match="too few for two halves"):
        held_out(world(prompts=3), [NAME], "zero", None, 0)


def test_a_local_regression_follows_a_line_and_a_bend_and_is_constant_beyond_the_ends():
    x = np.linspace(1, 50, 40)
    np.testing.assert_allclose(lowess(3 - 2 * x, x)(x), 3 - 2 * x, atol=1e-9)
    bent = np.where(x < 25, 0.0, x - 25)
    curve = lowess(bent, x, share=0.3, steps=0)
    assert np.abs(curve(x) - bent).max() < 1.5
    assert curve(np.array([-10.0]))[0] == curve(np.array([1.0]))[0]


def test_a_local_regression_by_hand():
    # At 0 with all three: distances 0, 1, 2, weights 1, (1 - 1/8)^3, 0. Two points with weight: the line through them.
    curve = lowess(np.array([5.0, 7.0, 100.0]), np.array([0.0, 1.0, 2.0]), share=1.0, steps=0)
    assert curve(np.array([0.0]))[0] == pytest.approx(5.0, abs=1e-12)
    assert lowess(np.array([1.0, 3.0]), np.array([4.0, 4.0]))(np.array([4.0]))[0] == pytest.approx(2.0)


# ---- nulling --------------------------------------------------------------------------------------------------------


def test_nulling_by_hand():
    assert nulled(np.array([1.0, 2, 3]), np.array([[0.0, 0, 5]])) == pytest.approx([1, 2, 0])
    # Two directions that are nearly one another, and one of zeros.
    directions = np.array([[1.0, 1, 0], [2.0, 2, 0], [0.0, 0, 0]])
    assert nulled(np.array([3.0, 1, 4]), directions) == pytest.approx([1, -1, 4])
    assert nulled(np.array([3.0, 1]), np.zeros((2, 2))) == pytest.approx([3, 1])


def test_a_nulled_head_gives_both_sides_of_each_edit_the_same_mean():
    rng = np.random.default_rng(0)
    first, kind = rng.normal(size=(90, 12)), np.array(["a", "b", "c"] * 30)
    second = first + rng.normal(size=(90, 12)) + np.array([1.0, 2, 0])[(np.arange(90) % 3)][:, None]
    weight = rng.normal(size=12)
    directions = mean_differences(first, second, kind)
    assert directions[1] == pytest.approx((second - first)[kind == "b"].mean(axis=0))
    left = nulled(weight, directions)
    for name in "abc":
        assert ((second - first)[kind == name] @ left).mean() == pytest.approx(0, abs=1e-9)
    assert nulled(left, directions) == pytest.approx(left)


def test_the_direction_from_short_to_long_by_hand():
    feature = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 3.0], [6.0, 5.0]])
    direction = longer_less_shorter(feature, np.array([1, 2, 3, 4]))
    assert direction.tolist() == [4.0, 4.0]
    vector = nulled(np.array([3.0, 1.0]), direction[None])
    np.testing.assert_allclose(vector, [1.0, -1.0], atol=1e-12)
    rewards = feature @ vector
    assert rewards[2:].mean() == pytest.approx(rewards[:2].mean(), abs=1e-12)  # long and short are alike on average
    assert nulled(np.array([3.0, 1.0]), np.zeros((1, 2))).tolist() == [3.0, 1.0]
    assert longer_less_shorter(feature, np.ones(4)).tolist() == [0.0, 0.0]

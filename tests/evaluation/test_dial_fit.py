"""The dial: hand values, an independent twin, identities, and known worlds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.core.errors import DataError
from odin_rm.data.dial import AttributeCurve, Dial, curve_columns
from odin_rm.evaluation.association import pearson_within_prompt
from odin_rm.evaluation.dial_fit import (
    DialPairs,
    DialRows,
    WithinFit,
    fit_dial,
    given_writer,
    won_half,
    writer_correlation,
)
from odin_rm.evaluation.information import attribute_curve, heldout_gain

NAME = "response_tokens"


def world(seed=0, prompts=150, each=6, price=0.8, bias=lambda length: np.log1p(length)):
    """A reward of noise, an offset per prompt, and a price of a function of length."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), each)
    length = np.exp(rng.normal(5, 0.8, len(prompt))).round() + 5
    offset = np.repeat(rng.normal(0, 2, prompts), each)
    quality = rng.normal(size=len(prompt)) + offset + price * bias(length)
    return DialRows(quality, {NAME: length}, prompt)


def twins(seed=0, n=400, causal=0.4, prompts=150):
    """Pairs of which the longer side gains ``causal`` times the difference of log length, and noise."""
    rng = np.random.default_rng(seed + 100)
    short = np.exp(rng.normal(5, 0.5, n)).round() + 5
    long = (short * rng.uniform(1.2, 2.0, n)).round()
    base = rng.normal(size=n)
    change = causal * (np.log1p(long) - np.log1p(short)) + rng.normal(0, 0.3, n)
    return DialPairs(base, base + change, {NAME: short}, {NAME: long}, np.arange(n) % prompts, np.full(n, "twins"))


# ---- the share ------------------------------------------------------------------------------------------------------


def test_won_half_by_hand():
    # Verdicts turn at 1, 2 and 3: with three pairs the second one decides, and is a tie there.
    assert won_half(np.array([1.0, 2, 3]), np.ones(3)) == 2
    # Of four, anything between the second and the third makes it a half.
    assert won_half(np.array([1.0, 2, 3, 8]), np.ones(4)) == 2.5
    # A pair whose sides are equally high on the curve stays won: of the other three one must stay won, too.
    assert won_half(np.array([5.0, 1, 2, 3]), np.array([0.0, 1, 1, 1])) == 2.5
    # Ties of the reward stay where they are: three judges' ties, one pair won.
    assert won_half(np.array([0.0, 0, 0, 1]), np.zeros(4)) is None
    # A curve that falls with length: the longer side loses 3 of 3, and giving back wins one half.
    assert won_half(np.array([-1.0, -2, -3]), -np.ones(3)) == 2
    # Weights are repetitions.
    assert won_half(np.array([1.0, 5]), np.ones(2), np.array([3.0, 1])) == 1
    assert won_half(np.array([1.0, 5]), np.ones(2), np.zeros(2)) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.booleans())
def test_won_half_makes_it_a_half_up_to_the_pairs_that_turn_there(n, seed, whole_numbers):
    rng = np.random.default_rng(seed)
    change = rng.normal(size=n)
    if whole_numbers:
        change = np.round(2 * change)
    curve = rng.uniform(0.1, 1, n)
    kappa = won_half(change, curve)
    left = change - kappa * curve
    near = np.abs(left) < 1e-9
    assert (left > 0).sum() - near.sum() <= n / 2 <= (left > 0).sum() + near.sum() + (near.sum() == 0) * 0
    naive = [0.5 * (np.sign(change - k * curve) + 1).mean() for k in (kappa - 1e-7, kappa + 1e-7)]
    assert naive[1] - 1e-12 <= 0.5 <= naive[0] + 1e-12


def test_interventions_are_won_half_and_the_known_share_is_found():
    rows, pairs = world(1, prompts=400, each=8), twins(1, n=2000, prompts=400)
    found = fit_dial(rows, [NAME], "twins", pairs, bootstrap_samples=200)
    assert found.kappa.low < 0.5 < found.kappa.high
    assert found.kappa.high - found.kappa.low < 0.25
    off = [found.dial.taken_off(side) for side in (pairs.first_attributes, pairs.second_attributes)]
    assert pairs.more_wins(*off, NAME).mean() == pytest.approx(0.5, abs=1 / 2000)


def test_the_interval_of_kappa_holds_the_truth_as_often_as_it_says():
    hits = 0
    for seed in range(100):
        found = fit_dial(world(seed, 80, 5), [NAME], "twins", twins(seed, 160, prompts=80), bootstrap_samples=200)
        hits += found.kappa.low <= 0.5 <= found.kappa.high
    assert hits >= 89


def test_zero_is_no_correlation_within_prompts_and_says_what_it_costs():
    rows = world()
    found = fit_dial(rows, [NAME], "zero", bootstrap_samples=0)
    calibrated = rows.quality - found.dial.taken_off(rows.attributes)
    for column in (rows.attributes[NAME], np.log1p(rows.attributes[NAME])):
        assert pearson_within_prompt(calibrated, column, rows.prompt).value == pytest.approx(0, abs=1e-9)
    assert calibrated.mean() == pytest.approx(rows.quality.mean())
    assert any("over-corrects" in one for one in found.warnings)
    assert found.kappa.value == 1


def test_writers_leave_no_correlation_given_prompt_and_writer():
    """Good writers write more: their quality is no bias, and is not taken off."""
    rng = np.random.default_rng(3)
    prompts, writers = 120, 8
    prompt, writer = np.repeat(np.arange(prompts), writers), np.tile(np.arange(writers), prompts)
    strength = np.linspace(-1.5, 1.5, writers)
    length = np.exp(5 + 0.5 * strength[writer] + rng.normal(0, 0.4, len(prompt))).round()
    quality = strength[writer] + 0.3 * np.log1p(length) + 0.2 * rng.normal(size=len(prompt))
    rows = DialRows(quality, {NAME: length}, prompt, writer)
    found = fit_dial(rows, [NAME], "writers", bootstrap_samples=200)
    calibrated = quality - found.dial.taken_off(rows.attributes)
    assert writer_correlation(quality, rows, NAME) > 0.3
    assert writer_correlation(calibrated, rows, NAME) == pytest.approx(0, abs=1e-9)
    # The curve within prompts holds strength and price; the price alone is about 0.3 of 0.3 + what strength explains.
    assert found.kappa.low < found.kappa.value < found.kappa.high < 0.6
    slope = found.dial.kappa * (found.dial.curves[0](np.array([300.0])) - found.dial.curves[0](np.array([150.0])))
    assert slope[0] / np.log(300.5 / 150.5) == pytest.approx(0.3, abs=0.1)
    assert pearson_within_prompt(calibrated, strength[writer], prompt).value > 0.95


def test_given_writer_is_the_residual_on_all_dummies():
    rng = np.random.default_rng(0)
    prompt, writer = rng.integers(0, 12, 90), rng.integers(0, 5, 90)
    values = rng.normal(size=90)
    dummies = np.column_stack([np.eye(12)[prompt], np.eye(5)[writer]])
    expected = values - dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0]
    assert given_writer(values, prompt, writer) == pytest.approx(expected, abs=1e-9)
    unknown = np.where(np.arange(90) < 10, -1, writer)
    assert not given_writer(values, prompt, unknown)[:10].any()


# ---- the curve ------------------------------------------------------------------------------------------------------


def test_the_curve_is_that_of_a_regression_with_a_column_for_each_prompt():
    """An independent twin: ordinary least squares with prompt dummies in place of centring and sums."""
    rows = world(seed=5, prompts=30, each=5)
    fit = WithinFit(rows, [NAME], 30)
    found = fit.curves(fit.coefficients(np.ones((1, 30)))[0])[0]
    length = rows.attributes[NAME]
    knots = np.quantile(np.log1p(length), [0.2, 0.5, 0.8])
    columns = [length, np.log1p(length), *(np.maximum(np.log1p(length) - k, 0) for k in knots)]
    design = np.column_stack([*columns, np.eye(30)[rows.prompt]])
    expected = np.linalg.lstsq(design, rows.quality, rcond=None)[0][: len(columns)]
    assert found.coefficients == pytest.approx(expected, rel=1e-6)
    heights = np.column_stack(columns) @ expected
    assert found(length) == pytest.approx(heights - heights.mean(), abs=1e-8)
    weights = np.random.default_rng(0).integers(0, 3, 30)
    rows_of = np.repeat(np.arange(len(length)), weights[rows.prompt])
    # A prompt that is drawn twice counts twice in least squares, whatever its own column.
    again = np.linalg.lstsq(design[rows_of], rows.quality[rows_of], rcond=None)[0][: len(columns)]
    assert fit.coefficients(weights[None].astype(float))[0] == pytest.approx(again, rel=1e-6)


def test_a_curve_is_held_at_the_ends_of_its_range():
    curve = AttributeCurve(NAME, 10, 100, (3.0,), (0.5, 2.0, -1.0), centre=1.0)
    by_hand = 0.5 * 50 + 2 * np.log(51) - (np.log(51) - 3) - 1
    assert curve(np.array([50.0]))[0] == pytest.approx(by_hand)
    assert curve(np.array([100.0, 1e6]))[0] == curve(np.array([100.0, 1e6]))[1]
    assert curve(np.array([0.0]))[0] == curve(np.array([10.0]))[0]
    assert curve.outside(np.array([9.0, 10, 100, 101])).tolist() == [True, False, False, True]
    assert AttributeCurve.from_json(curve.to_json()) == curve


def test_kappa_0_changes_nothing_and_the_dial_is_linear_in_kappa():
    rows = world()
    curves = fit_dial(rows, [NAME], "zero", bootstrap_samples=0).dial.curves
    assert not Dial(curves, 0.0, "twins").taken_off(rows.attributes).any()
    half, whole = (Dial(curves, kappa, "twins").taken_off(rows.attributes) for kappa in (0.5, 1.0))
    assert 2 * half == pytest.approx(whole)
    with pytest.raises(DataError, match="needs 'response_tokens'"):
        Dial(curves, 1.0, "zero").taken_off({"words": np.ones(3)})


def test_what_is_known_beyond_the_curve_is_the_same_for_every_kappa():
    """The baseline of the information holds every column of the dial, so the fit takes it back."""
    rng = np.random.default_rng(1)
    rows = world(seed=1, prompts=200, each=2)
    chosen, rejected = np.arange(0, 400, 2), np.arange(1, 400, 2)
    wins = rng.random(200) < 1 / (1 + np.exp(-(rows.quality[chosen] - rows.quality[rejected])))
    chosen, rejected = np.where(wins, chosen, rejected), np.where(wins, rejected, chosen)
    length = rows.attributes[NAME]
    baseline = attribute_curve(length[chosen], length[rejected])
    # The same bends, so that the dial's curve is a combination of the baseline's columns to the last bit.
    knots = tuple(np.quantile(np.log1p(np.concatenate([length[chosen], length[rejected]])), [0.3, 0.7]).tolist())
    curve = AttributeCurve(NAME, length.min(), length.max(), knots, (0.004, 0.8, -0.5, 0.7))
    bits = [
        heldout_gain(dialled[chosen] - dialled[rejected], baseline, rows.prompt[chosen], 0).mean()
        for dialled in (rows.quality - k * curve(length) for k in (0.0, 0.7, 1.0))
    ]  # fmt: skip
    assert bits[0] > 0.05
    assert bits[1:] == pytest.approx([bits[0]] * 2, abs=2e-3)


def test_an_affine_change_of_the_reward_turns_the_dial_with_it():
    rows, pairs = world(), twins()
    found = fit_dial(rows, [NAME], "twins", pairs, bootstrap_samples=0).dial
    scaled = DialRows(3 * rows.quality - 7, rows.attributes, rows.prompt)
    other = DialPairs(3 * pairs.first - 7, 3 * pairs.second - 7, pairs.first_attributes, pairs.second_attributes,
                      pairs.prompt, pairs.kind)  # fmt: skip
    again = fit_dial(scaled, [NAME], "twins", other, bootstrap_samples=0).dial
    assert again.kappa == pytest.approx(found.kappa)
    assert again.taken_off(rows.attributes) == pytest.approx(3 * found.taken_off(rows.attributes))
    shifted = DialRows(rows.quality + rows.prompt, rows.attributes, rows.prompt)  # offsets of prompts do not count
    assert fit_dial(shifted, [NAME], "twins", pairs, bootstrap_samples=0).dial.kappa == pytest.approx(found.kappa)


def test_several_attributes_by_the_regression_of_the_edits():
    """Each edit changes several attributes; their prices are known, and come out of one regression."""
    rng = np.random.default_rng(2)
    rows = world(prompts=60, each=4)
    lists = rng.poisson(2, len(rows.quality)).astype(float)
    rows = DialRows(rows.quality, {NAME: rows.attributes[NAME], "list_items": lists}, rows.prompt)
    n = 300
    more_tokens, more_items = (
        rng.integers(5, 40, n).astype(float),
        np.where(np.arange(n) % 2, 0.0, rng.integers(1, 5, n)),
    )
    change = 0.02 * more_tokens + 0.5 * more_items
    first = {NAME: np.full(n, 100.0), "list_items": np.zeros(n)}
    second = {NAME: 100 + more_tokens, "list_items": more_items}
    pairs = DialPairs(np.zeros(n), change, first, second, np.arange(n) % 60, np.full(n, "edit"))
    found = fit_dial(rows, [NAME, "list_items"], "interventions", pairs, bootstrap_samples=50)
    assert [c.coefficients[0] for c in found.dial.curves] == pytest.approx([0.02, 0.5])
    assert found.slopes["list_items"].value == pytest.approx(0.5)
    off = found.dial.taken_off(second) - found.dial.taken_off(first)
    assert change - off == pytest.approx(np.zeros(n), abs=1e-9)
    flat = DialPairs(np.zeros(n), change, first, second | {"list_items": np.zeros(n)}, pairs.prompt, pairs.kind)
    with pytest.raises(DataError, match="no pair changes 'list_items'"):
        fit_dial(rows, [NAME, "list_items"], "interventions", flat)


def test_what_cannot_be_fitted_says_why():
    rows = world(prompts=4, each=1)
    with pytest.raises(DataError, match="nothing to fit within prompts"):
        fit_dial(rows, [NAME], "zero")
    few = fit_dial(world(prompts=20), [NAME], "zero", bootstrap_samples=0)
    assert any("100 make it steady" in one for one in few.warnings)
    with pytest.raises(DataError, match="name no two writers"):
        fit_dial(world(), [NAME], "writers")
    with pytest.raises(DataError, match="no pair to find the share"):
        fit_dial(world(), [NAME], "twins")
    negative = DialRows(np.arange(4.0), {NAME: np.array([1.0, -2, 3, 4])}, np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="below 0"):
        fit_dial(negative, [NAME], "zero")


def test_columns_by_hand():
    assert curve_columns(np.array([np.e - 1]), np.array([0.25])) == pytest.approx(np.array([[np.e - 1, 1.0, 0.75]]))

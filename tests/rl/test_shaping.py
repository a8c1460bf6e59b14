"""The steps from quality to sequence reward: numbers by hand, order, what each constant does, what NaN does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError, NumericalError, ShapeError
from odin_rm.rl.shaping import (
    ShapingSettings,
    group_length_factor,
    preference_probability,
    reference_statistics,
    rescale_rewards,
    shape_rewards,
    soft_overlong,
)

QUALITY_R = np.array([1.0, 3.0, 9.0, -9.0])
TOKENS_R = np.array([10, 20, 0, 40])
ENDED_R = np.array([True, True, False, False])
ALL = ShapingSettings(mean=1.0, std=2.0, clip=2.5, length_penalty=0.01, missing_end_penalty=0.5)


def test_every_step_by_hand():
    shaped = shape_rewards(QUALITY_R, TOKENS_R, ENDED_R, ALL)
    assert shaped.quality_R.tolist() == [1.0, 3.0, 9.0, -9.0]
    assert shaped.standardised_R.tolist() == [0.0, 1.0, 4.0, -5.0]
    assert shaped.clipped_R.tolist() == [0.0, 1.0, 2.5, -2.5]
    np.testing.assert_allclose(shaped.length_cost_R, [0.1, 0.2, 0.0, 0.4])
    assert shaped.missing_end_cost_R.tolist() == [0.0, 0.0, 0.5, 0.5]
    # The penalties come after the clip: the last one goes below -c.
    np.testing.assert_allclose(shaped.sequence_R, [-0.1, 0.8, 2.0, -3.4])
    assert shaped.log() == pytest.approx(
        {
            "quality_reward": 1.0,
            "standardised_reward": 0.0,
            "clipped_reward": 0.25,
            "rescaled_reward": 0.25,
            "overlong_cost": 0.0,
            "length_cost": 0.175,
            "missing_end_cost": 0.25,
            "sequence_reward": -0.175,
        }
    )


def test_the_defaults_change_nothing():
    shaped = shape_rewards(QUALITY_R, TOKENS_R, ENDED_R, ShapingSettings())
    assert shaped.sequence_R.tolist() == QUALITY_R.tolist()
    assert shaped.sequence_R.dtype == np.float64


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"mean": 0.5}, [0, 1]),  # the clipped ones stay where they are
        ({"std": 3.0}, [1, 2, 3]),
        ({"clip": 4.0}, [2, 3]),
        ({"length_penalty": 0.02}, [0, 1, 3]),
        ({"missing_end_penalty": 0.0}, [2, 3]),
    ],
)
def test_each_constant_moves_exactly_the_responses_that_it_is_about(change, moved):
    base = ShapingSettings(mean=1.0, std=2.0, clip=3.5, length_penalty=0.01, missing_end_penalty=0.5)
    values = {name: getattr(base, name) for name in base.__dataclass_fields__} | change
    before = shape_rewards(QUALITY_R, TOKENS_R, ENDED_R, base).sequence_R
    after = shape_rewards(QUALITY_R, TOKENS_R, ENDED_R, ShapingSettings(**values)).sequence_R
    assert np.flatnonzero(before != after).tolist() == moved


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    st.floats(-50, 50),
    st.floats(0.01, 100),
    st.floats(0.1, 5),
)
def test_the_unit_of_a_reward_model_does_not_matter(quality, shift, scale, clip):
    """Standardised with its own statistics, a shifted and scaled reward gives the same sequence rewards."""
    quality_R = np.array(quality)
    tokens_R, ended_R = np.arange(len(quality)), np.arange(len(quality)) % 2 == 0

    def sequence(values_R, mean, std):
        settings = ShapingSettings(mean=mean, std=std, clip=clip, length_penalty=0.02, missing_end_penalty=0.3)
        return shape_rewards(values_R, tokens_R, ended_R, settings).sequence_R

    one = sequence(quality_R, 1.5, 2.0)
    other = sequence(shift + scale * quality_R, shift + scale * 1.5, scale * 2.0)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * (1 + abs(shift) / scale))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_quality_that_is_not_finite_gives_nan_and_is_left_out_of_the_log(bad):
    """Infinity clipped to c would be the best response of the batch."""
    quality_R = np.array([1.0, bad, 3.0])
    shaped = shape_rewards(
        quality_R, [10, 1000, 20], [True, False, True], ShapingSettings(clip=2.0, length_penalty=0.1)
    )
    assert shaped.sequence_R.tolist() == pytest.approx([0.0, math.nan, 0.0], nan_ok=True)
    logged = shaped.log()
    assert (logged["quality_reward"], logged["length_cost"], logged["sequence_reward"]) == pytest.approx(
        (2.0, 1.5, 0.0)
    )
    nothing = shape_rewards([bad], [1], [True], ShapingSettings()).log()
    assert all(math.isnan(value) for value in nothing.values())


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"std": 0.0}, "--standardise"),
        ({"std": -1.0}, "--standardise"),
        ({"mean": math.nan}, "--standardise"),
        ({"clip": 0.0}, "--reward_clip"),
        ({"clip": math.nan}, "--reward_clip"),
        ({"length_penalty": math.nan}, "--length_penalty"),
        ({"missing_end_penalty": math.inf}, "--missing_end_penalty"),
        ({"group_length_rescaling": -0.1}, "--group_length_rescaling"),
        ({"overlong_penalty": math.nan}, "--overlong_penalty"),
        ({"overlong_penalty": 1.0, "overlong_length": 8, "overlong_buffer": 9}, "--overlong_buffer"),
        ({"overlong_penalty": 1.0, "overlong_length": 8}, "--overlong_buffer"),
    ],
)
def test_constants_that_cannot_work_are_refused_by_their_flag(change, where):
    with pytest.raises(ConfigError, match=f"^{where}: "):
        ShapingSettings(**change)


def test_lengths_that_do_not_match_are_refused():
    for tokens_R, ended_R in (([1, 2], [True]), ([1], [True, False]), ([[1]], [[True]])):
        with pytest.raises(ShapeError, match="not one"):
            shape_rewards(np.zeros(len(tokens_R)), tokens_R, ended_R, ShapingSettings())


def test_reference_statistics_by_hand_and_without_the_responses_that_have_no_reward():
    assert reference_statistics(np.array([1.0, math.nan, 3.0, math.inf, 5.0])) == pytest.approx((3.0, math.sqrt(8 / 3)))


@pytest.mark.parametrize(
    ("quality", "why"),
    [
        ([], "only 0 of 0"),
        ([2.0, math.nan], "only 1 of 2"),
        ([2.0, 2.0, 2.0], "all 3 responses .* the same"),
        ([0.0, 0.0], "all 2 responses .* the same"),
        ([0.1 + 1e-9, 0.1, 0.1 - 1e-9], "all 3 responses .* the same"),
    ],
)
def test_a_reference_without_spread_is_refused(quality, why):
    with pytest.raises(NumericalError, match=why):
        reference_statistics(np.array(quality))


# ---- further steps ---------------------------------------------------------------------------------------------------


def test_soft_overlong_by_hand():
    """DAPO's equation 13 with a longest response of 20 and a buffer of 8, as what is taken off."""
    tokens_R = np.array([0, 12, 13, 16, 19, 20, 21, 500])
    np.testing.assert_allclose(soft_overlong(tokens_R, 20, 8), [0, 0, 0.125, 0.5, 0.875, 1, 1, 1])
    settings = ShapingSettings(overlong_penalty=0.5, overlong_length=20, overlong_buffer=8, clip=1.0)
    shaped = shape_rewards(np.full(8, 3.0), tokens_R, np.ones(8, bool), settings)
    np.testing.assert_allclose(shaped.overlong_cost_R, [0, 0, 0.0625, 0.25, 0.4375, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(shaped.sequence_R, 1.0 - shaped.overlong_cost_R)


def test_rescaling_by_the_groups_length_by_hand():
    """Lengths 10 and 30 (mean 20), weight 1: 2 / (1 + 0.5) = 4/3 and 2 / (1 + 1.5) = 4/5. A group of one stays."""
    tokens_R, groups_R = np.array([10, 5, 30]), np.array([7, 3, 7])
    np.testing.assert_allclose(group_length_factor(tokens_R, groups_R, 1.0), [4 / 3, 1, 4 / 5])
    np.testing.assert_allclose(group_length_factor(np.zeros(2), np.zeros(2), 1.0), [1, 1])
    settings = ShapingSettings(group_length_rescaling=1.0, length_penalty=0.1)
    shaped = shape_rewards(np.array([3.0, 3.0, 3.0]), tokens_R, np.ones(3, bool), settings, groups_R)
    np.testing.assert_allclose(shaped.rescaled_R, [4.0, 3.0, 2.4])
    np.testing.assert_allclose(shaped.sequence_R, [3.0, 2.5, -0.6])
    with pytest.raises(ShapeError, match="groups_R"):
        shape_rewards(np.ones(3), tokens_R, np.ones(3, bool), settings)


def test_a_negative_reward_is_divided_so_that_length_never_gains():
    factor_R = group_length_factor(np.array([10, 30]), np.zeros(2), 1.0)
    np.testing.assert_allclose(rescale_rewards(np.array([-3.0, -3.0]), factor_R), [-2.25, -3.75])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0, 3))
def test_of_two_equal_rewards_the_shorter_response_never_earns_less(quality, weight):
    values_R = np.repeat(np.array(quality), 2)
    tokens_R = np.tile([10, 25], len(quality))
    settings = ShapingSettings(group_length_rescaling=weight)
    groups_R = np.zeros(len(values_R))
    found = shape_rewards(values_R, tokens_R, np.ones(len(values_R), bool), settings, groups_R).sequence_R
    assert (found[::2] >= found[1::2] - 1e-12).all()


def test_preference_probability_by_hand():
    found = preference_probability(
        np.array([1.0, 0.0, 1000.0, -1000.0, math.nan, 1.0]), [1, 1.0986123, 0, 0, 0, math.inf]
    )
    np.testing.assert_allclose(found, [0.5, 0.25, 1.0, 0.0, math.nan, math.nan], atol=1e-7)

"""Length out of a finished reward: hand values and identities."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.evaluation.post_hoc import loess, longer_less_shorter, without_direction


def test_loess_is_the_line_of_a_line_and_follows_a_bend() -> None:
    x = np.linspace(1, 50, 40)
    np.testing.assert_allclose(loess(x, 3 - 2 * x, x), 3 - 2 * x, atol=1e-9)
    bent = np.where(x < 25, 0.0, x - 25)
    assert np.abs(loess(x, bent, x, share=0.3) - bent).max() < 1.5
    assert loess(x, bent, np.array([-10.0]))[0] == loess(x, bent, np.array([1.0]))[0]  # constant beyond the ends


def test_loess_by_hand() -> None:
    # At 0 with all three: distances 0, 1, 2, weights 1, (1 - 1/8)^3, 0. Two points with weight: the line through them.
    found = loess(np.array([0.0, 1.0, 2.0]), np.array([5.0, 7.0, 100.0]), np.array([0.0]), share=1.0)
    assert found[0] == pytest.approx(5.0, abs=1e-12)
    assert loess(np.array([4.0, 4.0]), np.array([1.0, 3.0]), np.array([4.0]))[0] == pytest.approx(2.0)


def test_nulling_by_hand() -> None:
    feature = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 3.0], [6.0, 5.0]])
    direction = longer_less_shorter(feature, np.array([1, 2, 3, 4]))
    assert direction.tolist() == [4.0, 4.0]
    vector = without_direction(np.array([3.0, 1.0]), direction)
    assert vector.tolist() == [1.0, -1.0]
    rewards = feature @ vector
    assert rewards[2:].mean() == pytest.approx(rewards[:2].mean(), abs=1e-12)  # long and short are alike on average
    assert without_direction(np.array([3.0, 1.0]), np.zeros(2)).tolist() == [3.0, 1.0]
    assert longer_less_shorter(feature, np.ones(4)).tolist() == [0.0, 0.0]

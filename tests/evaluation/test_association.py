"""Correlations by hand, against scipy, and where they are undefined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from odin_rm.core.errors import ShapeError
from odin_rm.evaluation.association import kendall, pearson, pearson_within_prompt, spearman


def test_pearson_of_four_points_by_hand() -> None:
    # dx = -1.5, -0.5, 0.5, 1.5; dy = -1.5, 0.5, -0.5, 1.5: sum dx dy = 2.25 - 0.25 - 0.25 + 2.25 = 4; both squares 5.
    assert pearson(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])).value == pytest.approx(4 / 5)


def test_a_weight_of_two_is_the_point_twice() -> None:
    x, y, w = np.array([1.0, 2, 5, 3]), np.array([2.0, 1, 4, 4]), np.array([1, 2, 1, 0])
    twice = stats.pearsonr([1, 2, 2, 5], [2, 1, 1, 4]).statistic
    assert pearson(x, y, w).value == pytest.approx(twice)


def test_spearman_with_ties_by_hand() -> None:
    # Ranks of x: 1, 2.5, 2.5, 4; of y: 1, 2, 3, 4. dx = -1.5, 0, 0, 1.5 (4.5), dy squares 5; cross 2.25 + 2.25 = 4.5.
    assert spearman(np.array([1.0, 2, 2, 9]), np.array([0.0, 3, 4, 7])).value == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_kendall_tau_b_with_ties_by_hand() -> None:
    # Six point pairs: five concordant, one tied in x only. tau-b = 5 / sqrt((6 - 1) * 6).
    assert kendall(np.array([1.0, 2, 2, 9]), np.array([0.0, 3, 4, 7])).value == pytest.approx(5 / np.sqrt(5 * 6))


def test_within_prompt_by_hand() -> None:
    # Prompt 7: dx -1, 1; dy -2, 2. Prompt 3: dx -2, 2; dy -1, 1. Prompt 5 has one response and does not count.
    x = np.array([0.0, 2, 10, 14, 99])
    y = np.array([0.0, 4, 50, 52, -7])
    # Cross: (-1)(-2) + 1*2 + (-2)(-1) + 2*1 = 8; x squares 1 + 1 + 4 + 4 = 10; y squares 4 + 4 + 1 + 1 = 10.
    assert pearson_within_prompt(x, y, np.array([7, 7, 3, 3, 5])).value == pytest.approx(8 / 10)


def test_within_prompt_ignores_differences_between_prompts() -> None:
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(30), 4)
    x, y = rng.normal(size=120), rng.normal(size=120)
    shift = rng.normal(scale=50, size=30)[prompt]
    before = pearson_within_prompt(x, y, prompt).value
    assert pearson_within_prompt(x + shift, y + 3 * shift, prompt).value == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1.0, 2.0], [1.0, 2.0], "fewer than 3"),
        ([0.1 + 0.2, 0.3, 0.3, 0.3], [1.0, 2, 3, 4], "the reward is the same"),
        ([1.0, 2, 3], [5.0, 5, 5], "the length is the same"),
    ],
)
@pytest.mark.parametrize("figure", [pearson, spearman, kendall])
def test_undefined_says_why(figure, x, y, reason) -> None:
    result = figure(np.array(x), np.array(y))
    assert result.value is None
    assert reason in result.why


def test_within_prompt_undefined_says_why() -> None:
    one_each = pearson_within_prompt(np.arange(4.0), np.arange(4.0), np.arange(4))
    assert one_each.value is None
    assert "share a prompt" in one_each.why
    flat = pearson_within_prompt(np.array([1.0, 2, 3, 4]), np.array([5.0, 5, 6, 6]), np.array([0, 0, 1, 1]))
    assert flat.value is None
    assert "length is the same" in flat.why


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match="one length"):
        pearson(np.arange(3.0), np.arange(4.0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=30), st.floats(0.1, 9))
def test_against_scipy_and_affine_changes(points, scale) -> None:
    x, y = np.array(points, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return
    assert pearson(x, y).value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    for figure in (pearson, spearman, kendall):
        assert figure(scale * x + 3, y).value == pytest.approx(figure(x, y).value, abs=1e-9)
        assert figure(-x, y).value == pytest.approx(-figure(x, y).value, abs=1e-9)

"""Samples at matched length: what is promised of them, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.core.errors import DataError
from odin_rm.evaluation.matched_sample import _inclusion, matched_sample


def policies(prompts: int = 400, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of a policy and of one that writes about a third more."""
    rng = np.random.default_rng(seed)
    short = rng.lognormal(6, 0.5, prompts).round()
    return (short * rng.lognormal(0.3, 0.5, prompts)).round() + 1, short + 1


@pytest.mark.parametrize("size", [40, 150, None])
def test_the_mean_difference_is_about_zero(size):
    long, short = policies()
    assert (long - short).mean() > 0.3 * short.mean()
    kept = matched_sample(long, short, size=size)
    assert abs((long - short)[kept].mean()) < 0.01 * short.mean()
    assert len(set(kept)) == len(kept) == (size or len(kept)) > 30
    assert (np.sort(kept) == kept).all()


def test_without_size_only_the_largest_differences_of_the_longer_policy_go():
    # Differences 9, 4, -1, -3, 1: their sum is 10. Without the 9 it is 1, without the 4 as well -3.
    difference = np.array([9, 4, -1, -3, 1])
    for sign in (1, -1):
        assert list(matched_sample(100 + sign * difference, np.full(5, 100))) == [1, 2, 3, 4]
    # 9, 5, -1, -3: without the 9 it is 1. 9, 9, -1, -3: 5 without one of the nines, -4 without both, which is nearer.
    assert list(matched_sample(100 + np.array([9, 5, -1, -3]), np.full(4, 100))) == [1, 2, 3]
    assert list(matched_sample(100 + np.array([9, 9, -1, -3]), np.full(4, 100))) == [2, 3]


def test_ratio():
    first, second = np.array([10, 12, 13, 8, 100]), np.array([10, 10, 10, 10, 20])
    assert list(matched_sample(first, second, max_ratio=1.25, match_mean=False)) == [0, 1, 3]
    assert list(matched_sample(first, second, max_ratio=1.25)) == [0, 1, 3]  # 0 + 2 - 2
    assert list(matched_sample(first, second, match_mean=False)) == [0, 1, 2, 3, 4]


def test_the_seed_draws_and_repeats():
    long, short = policies()
    draws = [tuple(matched_sample(long, short, size=40, seed=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    plain = [tuple(matched_sample(long, short, size=40, match_mean=False, seed=seed)) for seed in (0, 1)]
    assert plain[0] != plain[1]


def test_every_prompt_is_drawn_as_often_as_its_probability_says():
    rng = np.random.default_rng(1)
    first, second = 100 + rng.integers(-30, 60, 40).astype(float), np.full(40, 100.0)
    probability = _inclusion(first - second, 10)
    assert probability.sum() == pytest.approx(10)
    assert probability @ (first - second) == pytest.approx(0, abs=1e-6)
    # Greatest entropy: the log-odds are a straight line in the difference.
    odds = np.log(probability / (1 - probability))
    line = np.polyfit(first - second, odds, 1)
    np.testing.assert_allclose(np.polyval(line, first - second), odds, atol=1e-6)
    counts = np.zeros(40)
    for seed in range(160):
        counts[matched_sample(first, second, size=10, seed=seed)] += 1
    # Exchanges move single prompts; the pattern of inclusion stays.
    assert np.corrcoef(counts / 160, probability)[0, 1] > 0.93


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=2, max_size=30), st.integers(0, 5))
def test_never_farther_from_zero_than_everything(lengths, seed):
    first, second = np.array(lengths, float).T
    try:
        kept = matched_sample(first, second, seed=seed)
    except DataError:
        difference = first - second
        assert (difference > 0).all() or (difference < 0).all()
        return
    assert abs((first - second)[kept].sum()) <= abs((first - second).sum()) + 1e-9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_ratio": 1.01}, "--max_length_ratio: none of 3 prompts has answers of so similar length"),
        ({}, "--match_mean_length: one model's answers are the longer ones on all 3 prompts"),
        ({"match_mean": False, "size": 4}, "--sample_size: is 4, but lengths can be matched on 3 of 3 prompts only"),
    ],
)
def test_no_sample(changes, said):
    with pytest.raises(DataError) as caught:
        matched_sample(np.array([12, 15, 30]), np.array([10, 10, 10]), **changes)
    assert str(caught.value).startswith(said)


def test_a_sample_too_large_for_the_matching():
    long, short = policies()
    with pytest.raises(
        DataError, match=r"is 390, but lengths can be matched on \d+ of 400 prompts only. Ask for fewer"
    ):
        matched_sample(long, short, size=390)

"""Rank correlations by influence: values against scipy, influences against what a weight really does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from odin_rm.evaluation.rank_influence import concordance_sums, kendall_influence, spearman_influence


def columns(n: int, ties: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 0.6 * x + rng.normal(size=n)
    return (np.round(x), np.round(2 * y)) if ties else (x, y)


def brute(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).sum(axis=1)


def test_concordance_by_hand():
    # (1,1) agrees with (2,2) and (3,2); (2,2) and (3,2) tie in y.
    assert concordance_sums(np.array([1.0, 2, 3]), np.array([1.0, 2, 2])).tolist() == [2, 1, 1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40))
def test_concordance_is_that_of_all_pairs(points):
    x, y = np.array(points, dtype=float).T
    assert concordance_sums(x, y).tolist() == brute(x, y).tolist()


@pytest.mark.parametrize("ties", [False, True])
def test_values_are_scipys(ties):
    x, y = columns(300, ties)
    assert spearman_influence(x, y)[0] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall_influence(x, y)[0] == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    "influence, value",
    [
        (spearman_influence, lambda x, y: stats.spearmanr(x, y).statistic),
        (kendall_influence, lambda x, y: stats.kendalltau(x, y).statistic),
    ],
)
def test_the_influence_is_what_one_more_observation_does(influence, value, ties):
    """Every observation counted 20 times and one of them once more: the change times the count is the influence."""
    x, y = columns(80, ties)
    many = 20
    base, moves = influence(x, y)
    for i in (0, 7, int(np.argmax(x))):
        more = value(np.r_[np.repeat(x, many), x[i]], np.r_[np.repeat(y, many), y[i]])
        copies = value(np.repeat(x, many), np.repeat(y, many))
        assert (more - copies) * (many * len(x) + 1) == pytest.approx(moves[i], abs=0.03)
    assert moves.mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_the_spread_is_that_of_resampling(ties):
    x, y = columns(400, ties)
    rng = np.random.default_rng(1)
    for influence, value in ((spearman_influence, stats.spearmanr), (kendall_influence, stats.kendalltau)):
        drawn = [value(x[k], y[k]).statistic for k in rng.integers(0, len(x), (400, len(x)))]
        spread = influence(x, y)[1].std() / np.sqrt(len(x))
        assert spread == pytest.approx(np.std(drawn), rel=0.1)

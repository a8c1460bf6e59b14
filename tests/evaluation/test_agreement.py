"""Kappa: worked out by hand, against scikit-learn and statsmodels, and where it is undefined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from odin_rm.evaluation.agreement import MISSING, category_counts, cohen_kappa, fleiss_kappa, observed_agreement


def at_once(statistic, prompts: int) -> float:
    return float(statistic(np.ones((1, prompts)))[0])


def test_cohen_by_hand():
    # The table [[20, 5], [10, 15]]: observed 35/50 = 0.7; expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    first = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    second = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert at_once(cohen_kappa(first, second, 2), 50) == pytest.approx(0.4, abs=1e-12)
    assert at_once(observed_agreement(category_counts(np.stack([first, second]), 2)), 50) == pytest.approx(0.7)


def test_fleiss_by_hand():
    # Three raters, two categories. Agreement of the prompts: 1, 1/3, 1/3, 1, mean 2/3. Shares 7/12 and 5/12:
    # expected (49 + 25) / 144 = 37/72. Kappa (48/72 - 37/72) / (35/72) = 11/35.
    counts = np.array([[3, 0], [2, 1], [2, 1], [0, 3]])
    assert at_once(fleiss_kappa(counts), 4) == pytest.approx(11 / 35, abs=1e-12)
    assert at_once(observed_agreement(counts), 4) == pytest.approx(2 / 3, abs=1e-12)


def test_fleiss_with_different_numbers_of_ratings_by_hand():
    # The prompt with one rating does not count. Agreement 1 (of two), 1/3 (of three); shares 4/5 and 1/5:
    # expected 17/25. Kappa (2/3 - 17/25) / (8/25) = -1/24.
    counts = np.array([[2, 0], [2, 1], [0, 1]])
    assert at_once(fleiss_kappa(counts), 3) == pytest.approx(-1 / 24, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_cohen_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, 80)
    second = np.where(rng.random(80) < 0.6, first, rng.integers(0, 3, 80))
    assert at_once(cohen_kappa(first, second, 3), 80) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


@pytest.mark.parametrize("raters", [2, 3, 7])
def test_fleiss_is_statsmodels(raters):
    peer = pytest.importorskip("statsmodels.stats.inter_rater", reason="statsmodels is not installed")
    rng = np.random.default_rng(raters)
    ratings = np.where(rng.random((raters, 60)) < 0.5, rng.integers(0, 3, 60), rng.integers(0, 3, (raters, 60)))
    counts = category_counts(ratings, 3)
    assert at_once(fleiss_kappa(counts), 60) == pytest.approx(peer.fleiss_kappa(counts), abs=1e-12)


def test_missing_ratings_do_not_count():
    first = np.array([0, 1, 2, MISSING, 1])
    second = np.array([0, 2, MISSING, 1, 1])
    held = [0, 1, 4]
    assert at_once(cohen_kappa(first, second, 3), 5) == at_once(cohen_kappa(first[held], second[held], 3), 3)


@pytest.mark.parametrize("make", [lambda r: cohen_kappa(*r, 3), lambda r: fleiss_kappa(category_counts(r, 3))])
def test_weights_are_repeated_prompts_and_one_category_has_no_kappa(make):
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 3, (2, 9))
    weights = np.array([2, 0, 1, 3, 1, 0, 1, 1, 0])
    repeated = np.repeat(ratings, weights, axis=1)
    weighted = float(make(ratings)(weights[None].astype(float))[0])
    assert weighted == pytest.approx(at_once(make(repeated), repeated.shape[1]), abs=1e-12)
    assert np.isnan(at_once(make(np.ones((2, 4), int)), 4))
    assert np.isnan(at_once(make(np.array([[0, MISSING], [MISSING, 0]])), 2))


def test_more_agreement_makes_more_kappa_and_full_agreement_one():
    ratings = np.array([0, 1, 2, 0, 1, 2])
    assert at_once(cohen_kappa(ratings, ratings, 3), 6) == pytest.approx(1.0)
    assert at_once(fleiss_kappa(category_counts(np.stack([ratings] * 4), 3)), 6) == pytest.approx(1.0)
    assert at_once(cohen_kappa(ratings, (ratings + 1) % 3, 3), 6) == pytest.approx(-0.5)

"""Win rate, win score, intervals and paired tests, against hand computation and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from odin_rm.evaluation.win_score import (
    bootstrap_test,
    estimate,
    interval_levels,
    mean_estimate,
    mean_of,
    order_disagreement,
    permutation_test,
    resample,
    sign_test,
    verdict,
    win_rate_values,
    win_score_values,
)


def test_hand_computed():
    preference = np.array([2, 2, 1.25, 1.5, 1])
    assert verdict(preference).tolist() == [1, 1, -1, 0, -1]
    assert win_rate_values(preference).mean() == 55.0  # (1 + 1 + 0.25 + 0.5 + 0) / 5
    assert win_score_values(preference).mean() == 50.0  # 50 + 100 (2 - 2) / 5
    assert win_score_values(np.array([2, 2, 1])).mean() == pytest.approx(50 + 100 / 3)


def test_a_mean_of_two_orders_that_cancel_is_a_tie_whatever_its_last_digit():
    assert verdict(np.array([(1.1 + 1.9) / 2, (1.7 + 1.3) / 2 + 1e-15])).tolist() == [0, 0]


@given(st.lists(st.floats(1, 2), min_size=1, max_size=30))
def test_exchanging_candidate_and_baseline_mirrors_both_figures(values):
    preference = np.array(values)
    assert win_rate_values(3 - preference).mean() == pytest.approx(100 - win_rate_values(preference).mean())
    assert win_score_values(3 - preference).mean() == pytest.approx(100 - win_score_values(preference).mean())


def test_disagreement_between_orders():
    by_order = {"a": np.array([2, 1.5, 1.2, 1.9]), "b": np.array([1, 1.5, 1.4, 1.5])}
    assert order_disagreement(by_order).tolist() == [100, 0, 0, 100]


def test_interval_and_standard_error_against_scipy():
    values = np.random.default_rng(0).normal(3, 2, size=80)
    draws = resample({"mean": mean_of(values)}, 80, 4000, 0)["mean"]
    figure = mean_estimate(values, draws)
    peer = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", random_state=np.random.default_rng(1)
    )
    assert figure.value == pytest.approx(values.mean())
    assert figure.standard_error == pytest.approx(stats.sem(values))
    assert draws.std(ddof=1) == pytest.approx(peer.standard_error, rel=0.05)
    assert [figure.low, figure.high] == pytest.approx(list(peer.confidence_interval), abs=0.05)
    assert figure.to_json().keys() == {"value", "low", "high", "standard_error"}


def test_levels_of_few_prompts_are_those_of_students_interval():
    """For a normal sample the draws have deviation ``sd / sqrt(n) * sqrt((n - 1) / n)``; their levels make it exact."""
    n = 12
    low, high = interval_levels(n)
    half = stats.norm.ppf(high) * np.sqrt((n - 1) / n)
    assert half == pytest.approx(stats.t.ppf(0.975, n - 1))
    assert low + high == pytest.approx(1)
    assert interval_levels(10**6) == pytest.approx((0.025, 0.975), abs=1e-5)


def test_prompts_without_a_value_do_not_count():
    values = np.array([1.0, np.nan, 3.0])
    weights_SP = np.array([[1.0, 1, 1], [2, 5, 1]])
    assert mean_of(values)(weights_SP).tolist() == [2.0, 5 / 3]
    columns = np.stack([values, [2.0, 2.0, np.nan]], axis=1)
    assert mean_of(columns)(weights_SP).tolist() == [[2.0, 2.0], [5 / 3, 2.0]]
    assert mean_estimate(values, np.array([2.0, 5 / 3])).standard_error == pytest.approx(1.0)


def test_one_prompt_has_no_interval():
    figure = estimate(70.0, np.array([]), n=1)
    assert (figure.value, figure.low, figure.standard_error) == (70.0, None, None)
    assert figure.to_json()["why"]
    assert mean_estimate(np.array([np.nan]), np.array([np.nan])).value is None


def test_all_figures_share_their_resamples():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    draws = resample({"a": mean_of(a), "b": mean_of(b), "d": mean_of(a - b)}, 50, 100, 3)
    assert draws["d"] == pytest.approx(draws["a"] - draws["b"])


def test_sign_test_against_scipy():
    difference = np.array([1, 2, -1, 0, 3, 4, 0, 5.0])
    assert sign_test(difference) == pytest.approx(stats.binomtest(5, 6).pvalue)
    assert sign_test(np.zeros(4)) == 1.0


def scipy_permutation(difference: np.ndarray, resamples: float) -> float:
    result = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=resamples, random_state=np.random.default_rng(9)
    )
    return float(result.pvalue)


@pytest.mark.parametrize("prompts", [4, 9, 12])
def test_permutation_test_is_exact_for_few_prompts(prompts):
    difference = np.round(np.random.default_rng(prompts).normal(0.6, 1, size=(prompts, 3)), 1)
    ours = permutation_test(difference)
    # scipy's pairing with zeros turns the sign of each value: its exact distribution has the same 2^n members.
    assert ours == pytest.approx([scipy_permutation(column, np.inf) for column in difference.T])


def test_permutation_test_against_scipy_where_patterns_are_drawn():
    difference = np.random.default_rng(1).normal(0.2, 1, size=200)
    ours = permutation_test(difference[:, None], seed=0)[0]
    assert 0.005 < ours < 0.2
    assert ours == pytest.approx(scipy_permutation(difference, 9999), abs=0.01)
    assert ours == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, abs=0.01)


def test_permutation_test_of_several_comparisons_is_that_of_each_and_leaves_gaps_out():
    table = np.random.default_rng(2).normal(0.1, 1, size=(60, 3))
    table[::7, 1] = np.nan
    together = permutation_test(table, seed=4, permutations=500)
    assert together == pytest.approx([permutation_test(table[:, [c]], seed=4, permutations=500)[0] for c in range(3)])
    assert permutation_test(np.zeros((20, 1)))[0] == 1.0


def test_bootstrap_test_is_twice_the_tail_beyond_zero():
    draws = np.r_[np.full(995, 1.0), np.full(4, -1.0)]
    assert bootstrap_test(draws) == pytest.approx(2 * 5 / 1000)
    assert bootstrap_test(-draws) == pytest.approx(2 * 5 / 1000)
    assert bootstrap_test(np.zeros(9)) == 1.0


def test_paired_tests_agree_on_a_moderate_difference():
    rng = np.random.default_rng(5)
    a = rng.normal(0.2, 1, size=150)
    draws = resample({"d": mean_of(a)}, 150, 4000, 0)["d"]
    peer = stats.ttest_1samp(a, 0).pvalue
    assert 0.001 < peer < 0.2
    assert bootstrap_test(draws) == pytest.approx(peer, abs=0.03)
    assert permutation_test(a[:, None])[0] == pytest.approx(peer, abs=0.03)


def test_under_no_difference_the_tests_reject_as_often_as_they_promise():
    rng = np.random.default_rng(6)
    table = rng.normal(size=(40, 2000))
    p = permutation_test(table, permutations=999)
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.015)

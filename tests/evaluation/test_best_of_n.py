"""Best-of-N: by hand, against all subsets, and published scores."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb, log

import numpy as np
import pytest

from odin_rm.core.errors import ShapeError
from odin_rm.evaluation.best_of_n import (
    best_of_n,
    best_of_n_kl,
    choice_probabilities,
    chosen_of_first,
    default_ns,
    excess_drift,
    rank_probabilities,
)
from tests.published import published


def brute(proxy, values, n) -> float:
    """The mean over all subsets; of tied best responses, their mean."""
    total = Fraction(0)
    for subset in combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        top = [Fraction(float(values[i])) for i in subset if proxy[i] == best]
        total += sum(top) / len(top)
    return float(total / comb(len(proxy), n))


def test_by_hand():
    assert rank_probabilities(3, 2).tolist() == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-15)
    assert choice_probabilities(np.array([5.0, 1, 5]), 2).tolist() == pytest.approx([0.5, 0, 0.5], abs=1e-15)
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(log(4) - 0.75)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("m", [1, 2, 5, 9])
def test_all_subsets_agree_to_the_twelfth_place(m, ties):
    rng = np.random.default_rng(m)
    proxy = rng.integers(0, 3, m).astype(float) if ties else rng.normal(size=m)
    values = rng.normal(size=m)
    for n in range(1, m + 1):
        assert choice_probabilities(proxy, n) @ values == pytest.approx(brute(proxy, values, n), abs=1e-12)


@pytest.mark.parametrize("m, n", [(1000, 1), (1000, 64), (1000, 999), (64, 64)])
def test_probabilities_are_exact_for_many_responses(m, n):
    exact = [float(Fraction(comb(i - 1, n - 1), comb(m, n))) for i in range(1, m + 1)]
    assert rank_probabilities(m, n) == pytest.approx(np.array(exact), rel=1e-11, abs=1e-300)
    assert rank_probabilities(m, n).sum() == pytest.approx(1, abs=1e-12)


def test_curves_are_means_over_prompts_that_have_enough():
    prompt = np.array([4, 4, 4, 7, 7, 9, 9, 9])
    proxy = np.array([1.0, 2, 3, 9, 8, 3, 2, 1])
    gold = np.array([0.0, 1, 5, 7, 7, 1, 0, 2])
    found = best_of_n(proxy, prompt, {"gold": gold}, [1, 3], bootstrap_samples=50)
    assert (found.prompts, found.left_out) == (2, 1)
    assert found.values("proxy") == pytest.approx([2, 3])
    assert found.values("gold") == pytest.approx([(2 + 1) / 2, (5 + 1) / 2])
    assert found.deviation["proxy"] == pytest.approx(1)
    assert found.curves["gold"][1].low == 1
    with pytest.raises(ShapeError, match="no prompt has 4 responses, the most is 3"):
        best_of_n(proxy, prompt, {}, [4])


def test_a_proxy_that_pays_for_length_gets_length():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(1500), 16)
    content, length = rng.normal(size=24000), rng.normal(size=24000)
    found = best_of_n(content + 2 * length, prompt, {"gold": content, "words": length}, [1, 4, 16], bootstrap_samples=2)
    for name in ("proxy", "gold", "words"):
        values = found.values(name)
        assert values[0] < values[1] < values[2]
    # E[length | sum] = 2 / 5 of the sum, content 1 / 5.
    assert found.values("words")[2] / found.values("gold")[2] == pytest.approx(2, rel=0.1)


def test_the_default_is_what_nine_in_ten_prompts_have():
    assert default_ns(np.array([20] * 19 + [3])) == [1, 2, 4, 8, 16]
    assert default_ns(np.array([1000] * 5)) == [1, 2, 4, 8, 16, 32, 64]
    assert default_ns(np.array([1, 50])) == [1]


def test_the_first_of_equals_is_chosen():
    assert chosen_of_first(np.array([1.0, 3, 3, 9]), 3) == (1, 0)


def test_rewardmath_best_of_ten_is_its_published_accuracy():
    """The first of ten is right: gold of best-of-10 is the share in which it comes out on top."""
    rows = published("rewardmath_scores.jsonl.gz")
    for model, right in (("internlm/internlm2-7b-reward", 37.27), ("Skywork/Skywork-Reward-Llama-3.1-8B", 22.15)):
        proxy = np.array([row["scores"][model] for row in rows])
        gold = np.tile(np.arange(10) == 0, (len(rows), 1)).astype(float)
        prompt = np.repeat(np.arange(len(rows)), 10)
        found = best_of_n(proxy.ravel(), prompt, {"gold": gold.ravel()}, [1, 10], bootstrap_samples=2)
        assert found.values("gold")[0] == pytest.approx(0.1)
        ties = ((proxy[:, 1:] == proxy[:, :1]).any(axis=1) & (proxy[:, 0] == proxy.max(axis=1))).mean()
        assert 100 * found.values("gold")[1] == pytest.approx(right, abs=0.006 + 50 * ties)


def test_excess_drift_by_hand():
    """One prompt of two, n = 2: the proxy's choice moves gold by -1 and length by +3; gold's by +1 and -3."""
    gold, length, prompt = np.array([2.0, 0, 0, 2]), np.array([1.0, 7, 4, 4]), np.array([0, 0, 1, 1])
    proxy = np.array([0.0, 1, 0, 1])
    found = excess_drift(proxy, gold, prompt, {"length": length, "same": np.ones(4)}, [1, 2], bootstrap_samples=20)
    # Over both prompts the proxy gains (-1 + 1) / 2 = 0 in gold, so nothing of its move in length is accounted for.
    spread = np.sqrt((9 + 9) / 2)
    assert found["length"][1].value == pytest.approx((3 + 0) / 2 / spread)
    assert found["length"][0].value is None
    assert found["same"][1].value is None


def test_excess_is_zero_for_gold_and_noise_and_not_for_a_bias():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(300), 16)
    content, noise = rng.normal(size=(2, len(prompt)))
    length = 0.6 * content + 0.8 * rng.normal(size=len(prompt))
    columns = {"length": length}
    fair = excess_drift(content + noise, content, prompt, columns, [4, 16], bootstrap_samples=200)["length"]
    assert all(abs(one.value) < 0.1 and one.low < 0 < one.high for one in fair)
    biased = excess_drift(content + noise + length, content, prompt, columns, [4, 16], bootstrap_samples=200)["length"]
    assert all(one.low > 0.2 for one in biased)
    over = excess_drift(content + noise - length, content, prompt, columns, [16], bootstrap_samples=200)["length"]
    assert over[0].high < -0.2

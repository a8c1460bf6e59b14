"""Figures of an edit: by hand, and where the price is known."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.evaluation.probe import edit_figures, price_sentence, reward_change, verdicts_kept, within_deviation


def test_by_hand():
    original, edited = np.array([1.0, 2, 3, 4]), np.array([2.0, 4, 3, 3])
    found = edit_figures(original, edited, np.array([10.0, 30, 0, 10]), 100, 2.0, np.array([0, 0, 1, 1]))
    assert found.n == 4
    assert found.change.value == pytest.approx((0.5 + 1 + 0 - 0.5) / 4)
    assert found.won.value == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert found.price.value == pytest.approx(1.0 / 0.5)


def test_a_price_of_what_is_taken_away_has_the_sign_of_the_attribute():
    found = edit_figures(np.array([2.0, 2]), np.array([1.0, 0]), np.array([-1.0, -3]), 1, 1.0, np.arange(2))
    assert found.change.value == -1.5
    assert found.price.value == pytest.approx(3 / 4)
    assert found.price.low <= found.price.value <= found.price.high


def test_what_differs_by_rounding_alone_is_no_change_and_has_the_price_zero():
    rng = np.random.default_rng(0)
    exact = rng.normal(5.0, 1.0, 200)
    read, again = exact.astype(np.float32), (exact * (1 - 1e-7)).astype(np.float32)
    assert (read != again).any()
    found = edit_figures(
        read.astype(np.float64), again.astype(np.float64), rng.integers(1, 9, 200), 1, 1.0, np.arange(200)
    )
    assert (found.price.value, found.price.low, found.price.high, found.won.value) == (0.0, 0.0, 0.0, 0.5)
    assert reward_change(np.array([5.0, -5.0]), np.array([5.00001, -5.0]), 2.0).tolist() == pytest.approx([5e-6, 0.0])
    assert within_deviation(5.0 + 1e-9 * rng.normal(size=4), np.array([0, 0, 1, 1]))[1] == "all responses"


def test_nothing_to_change_and_nothing_to_count_say_so():
    empty = np.zeros(0)
    assert edit_figures(empty, empty, empty, 1, 1.0, empty).change.why == "no response has anything to change"
    some = edit_figures(np.zeros(2), np.ones(2), None, 1, 1.0, np.arange(2))
    assert some.price.why == "it changes nothing that is counted"
    assert edit_figures(np.zeros(2), np.ones(2), np.zeros(2), 1, 1.0, np.arange(2)).price.value is None


def test_deviation_is_that_inside_prompts():
    assert within_deviation(np.array([1.0, 3, 10, 14]), np.array([5, 5, 9, 9])) == (
        pytest.approx(np.sqrt((2 + 8) / 2)),
        "responses to a prompt",
    )
    assert within_deviation(np.array([1.0, 3]), np.array([0, 1])) == (1.0, "all responses")
    assert within_deviation(np.array([2.0, 2]), np.array([0, 0])) == (1.0, "all responses")


def test_intervals_hold_a_known_price_as_often_as_they_say():
    """200 worlds with a price of 0.3 per bullet and a content effect of the edit that is noise."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        bullets, prompt = rng.poisson(3, 80) + 1.0, np.arange(80) // 2
        original = rng.normal(size=80)
        edited = original + 0.3 * bullets + 0.5 * rng.normal(size=80)
        price = edit_figures(original, edited, bullets, 1, 1.0, prompt, bootstrap_samples=200, seed=seed).price
        hits += price.low <= 0.3 <= price.high
    assert hits >= 183


def test_verdicts_by_hand():
    original, changed = np.array([2.0, 1, 5, 5, 3, 4]), np.array([3.0, 1, 2, 1, 9, np.nan])
    found = verdicts_kept(
        original, changed, np.array([0, 2, 0, 4]), np.array([1, 3, 2, 5]), np.array([0, 0, 1, 1, 2, 2]), True
    )
    assert found["n"] == 3
    # The second pair was tied before; 2 < 5 turned into 3 > 2.
    assert found["agreement"]["value"] == pytest.approx(0.5)
    assert found["accuracy_before"]["value"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["accuracy"]["value"] == pytest.approx(1.0)


def sentence(price, change=None, control=False):
    content = {"words": "it grows", "attribute_words": "response tokens", "unit": "100 tokens", "control": control}
    return price_sentence("x", {**content, "price": price, "change": change or price})


def test_sentences():
    clear, doubt = {"value": 0.4, "low": 0.3, "high": 0.5}, {"value": 0.1, "low": -0.2, "high": 0.4}
    minus, none = {"value": -0.4, "low": -0.5, "high": -0.3}, {"value": None}
    assert sentence(clear) == "pays for response tokens: 0.40 deviations (0.30 to 0.50) per 100 tokens."
    assert sentence(minus) == "takes off for response tokens: 0.40 deviations (0.30 to 0.50) per 100 tokens."
    assert sentence(doubt).startswith("does not clearly pay for response tokens: 0.10 deviations (−0.20 to 0.40)")
    assert sentence(none, clear) == "gains 0.40 deviations (0.30 to 0.50) when it grows."
    assert sentence(none, doubt).startswith("does not clearly mind when it grows")
    assert sentence(clear, minus, control=True) == "loses 0.40 deviations (0.30 to 0.50) when it grows, as it should."
    assert sentence(clear, clear, control=True).endswith("but an answer cut in half should lose.")
    assert sentence(none, none).startswith("could not be asked")
    noise = {"value": -3e-11, "low": -4e-11, "high": 5e-11}
    assert "response tokens: 0.00 deviations (0.00 to 0.00) per" in sentence(noise)
    assert "0.0003 deviations" in sentence({"value": 0.0003, "low": 0.0002, "high": 0.0004})

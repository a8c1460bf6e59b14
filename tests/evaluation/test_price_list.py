"""Prices of attributes, others equal: by hand, where edits overlap, and how often the intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.evaluation.price_list import price_list, usual_difference


def test_by_hand_two_attributes_that_change_together():
    """Bullets bring two tokens each: 3 bullets and 6 tokens for 1.8; 10 tokens alone for 1.0; so a bullet is 0.4."""
    units = {"tokens": np.array([6.0, 10]), "bullets": np.array([3.0, 0])}
    found = price_list(np.array([1.8, 1.0]), units, {"tokens": 20.0, "bullets": 1.5}, np.array([0, 1]))
    assert found["tokens"].price.value == pytest.approx(0.1)
    assert found["bullets"].price.value == pytest.approx(0.4)
    assert found["tokens"].effect.value == pytest.approx(2.0)
    assert found["bullets"].effect.value == pytest.approx(0.6)
    assert (found["tokens"].n, found["bullets"].n) == (2, 1)


def test_what_no_edit_tells_apart_has_no_price_and_the_rest_has():
    """Emoji and exclamation marks always come together; headers never come."""
    together = np.array([1.0, 2, 0, 0])
    units = {"emoji": together, "marks": 2 * together, "headers": np.zeros(4), "words": np.array([0.0, 1, 2, 3])}
    usual = dict.fromkeys(units, 1.0)
    found = price_list(together + 0.5 * units["words"], units, usual, np.arange(4))
    assert found["emoji"].price.value is None
    assert "together with another" in found["marks"].price.why
    assert found["headers"].price.why == "no edit changes it"
    assert found["words"].price.value is not None
    assert price_list(np.zeros(0), {"a": np.zeros(0)}, {"a": 1.0}, np.zeros(0, int))["a"].price.value is None


def test_usual_differences():
    values, prompt = np.array([1.0, 3, 10, 14]), np.array([5, 5, 9, 9])
    assert usual_difference(values, prompt, 100) == pytest.approx(np.sqrt((2 + 8) / 2) / 100)
    assert usual_difference(values, prompt, 1) == pytest.approx(np.sqrt(5))
    assert usual_difference(np.array([0.0, 0, 1, 0]), prompt, 1) == 1.0  # a compliment is one, however rare
    assert usual_difference(np.ones(4), prompt, 100) == 1.0
    assert usual_difference(np.array([1.0, 5]), np.array([0, 1]), 0.1) == 1.0  # no prompt has two


def test_equals_least_squares_and_does_not_mind_the_units():
    rng = np.random.default_rng(0)
    design, noise = rng.normal(size=(60, 3)), rng.normal(size=60)
    change = design @ [0.5, -1.0, 0.0] + noise
    usual = dict.fromkeys("abc", 1.0)
    found = price_list(change, dict(zip("abc", design.T, strict=True)), usual, np.arange(60) // 3)
    wanted = np.linalg.lstsq(design, change, rcond=None)[0]
    assert [found[n].price.value for n in "abc"] == pytest.approx(wanted, abs=1e-10)
    scaled = price_list(change, {"a": 1e6 * design[:, 0], "b": design[:, 1], "c": design[:, 2]}, usual,
                        np.arange(60) // 3)  # fmt: skip
    assert scaled["a"].price.low * 1e6 == pytest.approx(found["a"].price.low)


def test_intervals_hold_known_prices_as_often_as_they_say():
    """100 worlds of two attributes that overlap, the price of each prompt its own."""
    hits = np.zeros(2)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        prompt = np.repeat(np.arange(60), 4)
        tokens, bullets = rng.poisson(8, 240) + 1.0, rng.integers(0, 4, 240).astype(float)
        tokens += 2 * bullets
        per_prompt = 0.2 + rng.normal(0, 0.05, 60)
        change = per_prompt[prompt] * tokens + 0.7 * bullets + rng.normal(0, 0.8, 240)
        found = price_list(change, {"tokens": tokens, "bullets": bullets}, {"tokens": 1.0, "bullets": 1.0}, prompt,
                           bootstrap_samples=300, seed=seed)  # fmt: skip
        for k, (name, truth) in enumerate((("tokens", 0.2), ("bullets", 0.7))):
            hits[k] += found[name].price.low <= truth <= found[name].price.high
    assert (hits >= 90).all()

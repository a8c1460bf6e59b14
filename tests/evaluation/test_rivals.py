"""Arms beside each other: scales of folds, figures by hand, paired differences, the subtraction of a length head."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from odin_rm.evaluation.association import pearson, pearson_within_prompt, spearman
from odin_rm.evaluation.bootstrap import PromptBootstrap
from odin_rm.evaluation.records import Figure, ScoredPreferences
from odin_rm.evaluation.rivals import (
    BITS,
    chosen_gold,
    compare_arms,
    edit_parts,
    mean_part,
    pair_parts,
    smallest_subtraction,
    standardised,
)


def test_folds_come_to_one_scale() -> None:
    quality, fold = np.array([1.0, 3.0, 10.0, 30.0, 5.0, 5.0]), np.array([0, 0, 1, 1, 2, 2])
    found, mean, deviation = standardised(quality, fold)
    assert found.tolist() == [-1, 1, -1, 1, 0, 0]
    assert mean.tolist() == [2, 20, 5]
    assert deviation.tolist() == [1, 10, 1]  # a constant fold is not divided by 0


def example(seed: int = 0, prompts: int = 30) -> ScoredPreferences:
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), 4)
    tokens = rng.integers(10, 400, len(prompt)).astype(float)
    quality = rng.normal(size=len(prompt)) + 0.004 * tokens
    chosen, rejected = [], []
    for p in range(prompts):
        a, b = rng.choice(4, 2, replace=False) + 4 * p
        better = (a, b) if quality[a] + rng.normal() > quality[b] else (b, a)
        chosen.append(better[0])
        rejected.append(better[1])
    lists = rng.integers(0, 5, len(prompt)).astype(float)
    return ScoredPreferences(
        quality, tokens, prompt, np.array(chosen), np.array(rejected), attributes={"list_items": lists}
    )


def test_parts_are_the_audits_figures() -> None:
    from odin_rm.evaluation.audit import audit_preferences

    scored = example()
    parts = pair_parts(scored, 0)
    figures = compare_arms({"a": parts}, PromptBootstrap(scored.prompt, 60, 3)).figures["a"]
    audit = audit_preferences(scored, bootstrap_samples=60, seed=3)
    for name in ("accuracy", "accuracy_length_balanced", "pearson", "spearman", "pearson_within_prompt"):
        assert figures[name] == audit[name], name
    assert pair_parts(scored, 3)[BITS][0].value == audit[BITS].value
    assert parts["pearson"][0].value == pearson(scored.quality, scored.response_tokens).value
    assert parts["spearman"][0].value == spearman(scored.quality, scored.response_tokens).value
    within = pearson_within_prompt(scored.quality, scored.attributes["list_items"], scored.prompt)
    assert parts["within.list_items"][0].value == within.value


def test_differences_are_paired() -> None:
    scored = example()
    noise = np.random.default_rng(5).normal(size=len(scored.quality)) * 1e-6
    near = ScoredPreferences(
        scored.quality + noise, scored.response_tokens, scored.prompt, scored.chosen, scored.rejected
    )
    parts = {"a": pair_parts(scored, 0), "b": pair_parts(near, 0)}
    found = compare_arms(parts, PromptBootstrap(scored.prompt, 200, 0))
    assert found.differences["a"] == {}
    own, difference = found.figures["b"]["pearson"], found.differences["b"]["pearson"]
    assert difference.value == pytest.approx(own.value - found.figures["a"]["pearson"].value, abs=1e-15)
    assert own.high - own.low > 0.05
    assert difference.high - difference.low < 1e-5  # the resamples are the same ones
    assert "within.list_items" not in found.differences["b"]  # the second arm has no such figure


def test_an_undefined_figure_has_no_difference() -> None:
    nothing = Figure(None, why="there are no pairs")
    parts = {name: {"x": (nothing, lambda w: np.full(len(w), np.nan))} for name in ("a", "b")}
    found = compare_arms(parts, PromptBootstrap(np.arange(5), 20, 0))
    assert found.figures["b"]["x"] == nothing
    assert found.differences["b"] == {}


def test_a_mean_over_seeds() -> None:
    def statistic(value: float):
        return lambda weights: np.full(len(weights), value)

    figure, mean = mean_part([(Figure(1.0), statistic(1.0)), (Figure(3.0), statistic(3.0))])
    assert figure.value == 2.0
    assert mean(np.ones((4, 2))).tolist() == [2.0] * 4
    assert mean_part([(Figure(1.0), statistic(1)), (Figure(None, why="w"), statistic(1))])[0].why == "w"


def test_a_price_by_hand() -> None:
    # Two edits add 1 and 3 units and 2 and 4 of reward, in deviations of 2: 3 deviations for 4 units.
    original, edited, units = np.array([1.0, 2.0]), np.array([3.0, 6.0]), np.array([1.0, 3.0])
    found = edit_parts(original, edited, units, np.array([0, 2]), 3, 2.0)
    assert found["price"][0].value == 0.75
    assert found["won"][0].value == 1.0
    weights = np.array([[1.0, 5.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    assert found["price"][1](weights)[:2].tolist() == [1.0, 2 / 3]
    assert np.isnan(found["price"][1](weights)[2])
    taken = edit_parts(edited, original, -units, np.array([0, 2]), 3, 2.0)  # taking away what is paid for
    assert (taken["price"][0].value, taken["won"][0].value) == (0.75, 0.0)
    assert edit_parts(original, edited, None, np.array([0, 2]), 3, 2.0)["price"][0].value is None


def test_gold_of_the_best_by_hand() -> None:
    quality, gold = np.array([1.0, 2.0, 3.0, 9.0]), np.array([0.0, 10.0, 4.0, 1.0])
    prompt = np.array([0, 0, 0, 1])
    figure, statistic = chosen_gold(quality, gold, prompt, 2)
    # Of the pairs (1, 2), (1, 3), (2, 3) the reward takes gold 10, 4, 4; the second prompt has one response only.
    assert figure.value == pytest.approx(6.0, abs=1e-12)
    assert np.isnan(statistic(np.array([[0.0, 1.0]]))[0])
    without = gold.copy()
    without[2] = np.nan
    assert chosen_gold(quality, without, prompt, 2)[0].value == 10.0
    assert chosen_gold(quality, gold, prompt, 4)[0].value is None


def test_the_smallest_subtraction_that_does() -> None:
    rng = np.random.default_rng(0)
    length = rng.normal(size=4000) * 7
    quality = rng.normal(size=4000) + 0.05 * length
    factor = smallest_subtraction(quality, length)
    assert abs(stats.spearmanr(quality - factor * length, length)[0]) <= 0.028
    assert factor == pytest.approx(0.05, abs=0.01)
    free = quality - 0.05 * length
    assert smallest_subtraction(free, length) == 0.0
    assert smallest_subtraction(quality, np.zeros(4000)) == 0.0

"""The annotator: its choices against the closed form, its biases, the data files it makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from odin_rm.core.errors import ConfigError
from odin_rm.testbed.annotator import (
    Annotator,
    AnnotatorSettings,
    describe_preferences,
    make_preferences,
    make_prompts,
    make_ranked_lists,
    make_sft,
)
from odin_rm.testbed.world import World, WorldSettings, count_tokens, stream

PROMPT = "How do I tune a guitar?"
GOOD = "Read the instructions first."  # quality 1/4, 5 tokens
BETTER = "Read the instructions first. Switch the mains off."  # quality 2/4, 10 tokens
LONG = "As experts often say. This is quite common. That goes without saying."  # quality 0, 15 tokens


def annotator(**knobs: float) -> Annotator:
    return Annotator(World(), AnnotatorSettings(**knobs))  # type: ignore[arg-type]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_hand_computed_utility_and_probability() -> None:
    judge = annotator(quality_scale=4.0, length_bias=0.1)
    assert judge.utility(PROMPT, GOOD) == pytest.approx(4 * 0.25 + 0.1 * 5)
    assert judge.utility(PROMPT, LONG) == pytest.approx(0.1 * 15)
    # 1.5 against 1.5: ten more tokens of filler are worth exactly one helpful step.
    assert judge.preference_probability(PROMPT, GOOD, LONG) == pytest.approx(0.5)
    assert judge.preference_probability(PROMPT, BETTER, GOOD) == pytest.approx(sigmoid(1.0 + 0.5))
    assert annotator(quality_scale=4.0, length_bias=0.1, temperature=2.0).preference_probability(
        PROMPT, BETTER, GOOD
    ) == pytest.approx(sigmoid(0.75))


def test_biases_add_to_the_utility_of_their_own_texts_only() -> None:
    listed, flattering = "- Read the instructions first.", "What a great question! Read the instructions first."
    plain = annotator()
    for knob, text in (("list_bias", listed), ("flattery_bias", flattering)):
        biased = annotator(**{knob: 0.7})
        assert biased.utility(PROMPT, text) - plain.utility(PROMPT, text) == pytest.approx(0.7)
        assert biased.utility(PROMPT, GOOD) == plain.utility(PROMPT, GOOD)


def test_temperature_zero_takes_the_higher_utility_and_lapses_are_coins() -> None:
    judge = annotator(temperature=0.0)
    assert judge.preference_probability(PROMPT, BETTER, GOOD) == 1.0
    assert judge.preference_probability(PROMPT, GOOD, BETTER) == 0.0
    assert judge.preference_probability(PROMPT, GOOD, GOOD) == 0.5
    assert annotator(lapse_rate=1.0).preference_probability(PROMPT, BETTER, GOOD) == 0.5
    assert annotator(temperature=0.0, lapse_rate=0.4).preference_probability(PROMPT, BETTER, GOOD) == pytest.approx(0.8)


@pytest.mark.parametrize("knobs", [{}, {"temperature": 3.0}, {"lapse_rate": 0.3}, {"length_bias": -0.2}])
def test_simulated_choices_and_rankings_follow_the_closed_form(knobs: dict[str, float]) -> None:
    judge = annotator(**knobs)
    probability = judge.preference_probability(PROMPT, BETTER, LONG)
    assert 0.05 < probability < 0.99
    rng, draws = stream(0, "choices"), 4000
    chosen = sum(judge.prefers_first(PROMPT, BETTER, LONG, rng) for _ in range(draws))
    ranked = sum(judge.rank(PROMPT, [BETTER, LONG], rng) == [1, 2] for _ in range(draws))
    for count in (chosen, ranked):
        assert stats.binomtest(count, draws, probability).pvalue > 1e-4


def test_ranking_of_three_is_plackett_luce() -> None:
    judge, rng, draws = annotator(), stream(1, "rank"), 4000
    texts = [GOOD, BETTER, LONG]
    weight = np.exp([judge.utility(PROMPT, text) for text in texts])
    expected = weight[1] / weight.sum() * weight[0] / (weight[0] + weight[2])  # BETTER, then GOOD, then LONG
    count = sum(judge.rank(PROMPT, texts, rng) == [2, 1, 3] for _ in range(draws))
    assert stats.binomtest(count, draws, float(expected)).pvalue > 1e-4


def test_preference_rows_tell_the_truth_about_their_texts() -> None:
    world = World()
    rows = make_preferences(world, annotator(), 200, seed=0)
    for row in rows:
        assert row["chosen"] != row["rejected"]
        assert row["chosen_true_quality"] == world.true_quality(row["prompt"], row["chosen"])
        assert row["rejected_true_quality"] == world.true_quality(row["prompt"], row["rejected"])
    assert {row["prompt"] for row in rows} <= set(world.prompts("train"))


def test_the_default_annotator_likes_length_as_much_as_the_papers() -> None:
    facts = describe_preferences(make_preferences(World(), annotator(), 3000, seed=0))
    assert 0.62 <= facts["prefers_longer"] <= 0.66  # the paper: 0.66
    assert 0.75 < facts["prefers_better"] < 0.92
    assert abs(facts["quality_length_pearson"]) < 0.06  # the bias is the annotator's, not the truth's
    unbiased = describe_preferences(make_preferences(World(), annotator(length_bias=0.0), 3000, seed=0))
    assert abs(unbiased["prefers_longer"] - 0.5) < 0.05
    assert unbiased["prefers_better"] > facts["prefers_better"]


@pytest.mark.parametrize(
    ("knob", "value", "observable", "direction"),
    [
        ("quality_scale", 20.0, "prefers_better", 1),
        ("length_bias", 0.5, "prefers_longer", 1),
        ("length_bias", -0.5, "prefers_longer", -1),
        ("temperature", 20.0, "prefers_better", -1),
        ("lapse_rate", 0.8, "prefers_better", -1),
        ("list_bias", 8.0, "prefers_lists", 1),
        ("flattery_bias", 8.0, "prefers_flattery", 1),
    ],
)
def test_each_knob_changes_the_choices(knob: str, value: float, observable: str, direction: int) -> None:
    def measure(**knobs: float) -> float:
        rows = make_preferences(World(), annotator(**knobs), 600, seed=0)
        if observable in ("prefers_lists", "prefers_flattery"):
            mark = "-" if observable == "prefers_lists" else "!"
            marked = [(mark in row["chosen"], mark in row["rejected"]) for row in rows]
            return float(np.mean([chosen for chosen, rejected in marked if chosen != rejected]))
        return describe_preferences(rows)[observable]

    assert (measure(**{knob: value}) - measure()) * direction > 0.1


def test_files_are_reproducible_and_streams_independent() -> None:
    world, judge = World(), annotator()
    first = make_preferences(world, judge, 40, seed=0)
    assert make_preferences(world, judge, 40, seed=0) == first
    assert make_preferences(world, judge, 40, seed=1) != first
    held_out = make_preferences(world, judge, 40, seed=0, split="held_out")
    assert not {row["prompt"] for row in held_out} & {row["prompt"] for row in first}
    assert {row["chosen"] for row in held_out} != {row["chosen"] for row in first}
    assert make_ranked_lists(world, judge, 9, 4, seed=0) == make_ranked_lists(world, judge, 9, 4, seed=0)
    assert make_prompts(world, 30, seed=0) == make_prompts(world, 30, seed=0) != make_prompts(world, 30, seed=1)


def test_ranked_lists_have_each_rank_once() -> None:
    world = World()
    for row in make_ranked_lists(world, annotator(), 30, 5, seed=0):
        assert len(set(row["responses"])) == 5
        assert sorted(row["ranks"]) == [1, 2, 3, 4, 5]
        assert row["true_quality"] == [world.true_quality(row["prompt"], text) for text in row["responses"]]


def test_sft_rows_are_by_writers_of_mixed_skill() -> None:
    quality = np.array([row["true_quality"] for row in make_sft(World(), 500, seed=0)])
    assert quality.min() < -0.4
    assert quality.max() == 1.0
    assert quality.std() > 0.3


def test_hand_described_preferences() -> None:
    def row(chosen: str, rejected: str, better: float, worse: float) -> dict:
        return {
            "prompt": PROMPT,
            "chosen": chosen,
            "rejected": rejected,
            "chosen_true_quality": better,
            "rejected_true_quality": worse,
        }

    facts = describe_preferences([row(BETTER, GOOD, 0.5, 0.25), row(GOOD, LONG, 0.25, 0.0), row(LONG, GOOD, 0.0, 0.25)])
    assert facts["prefers_longer"] == pytest.approx(2 / 3)
    assert facts["prefers_better"] == pytest.approx(2 / 3)
    assert facts["mean_tokens"] == pytest.approx((10 + 5 + 5 + 15 + 15 + 5) / 6)
    assert facts["mean_true_quality"] == pytest.approx(1.25 / 6)


def test_a_world_without_variety_and_bad_knobs_are_refused() -> None:
    narrow = World(
        WorldSettings(
            min_steps=0, max_steps=1, filler_rate=0.0, fillers=1, length_mean=0.0, length_spread=0.0,
            steps_per_topic=1, harmful_per_topic=1, list_rate=0.0, flattery_rate=0.0,
        )
    )  # fmt: skip
    with pytest.raises(ConfigError, match="different responses"):
        make_ranked_lists(narrow, Annotator(narrow), 1, 12, seed=0)
    for knobs in ({"temperature": -1.0}, {"lapse_rate": 1.1}, {"temperature": float("nan")}):
        with pytest.raises(ConfigError, match=f"--{next(iter(knobs))}"):
            AnnotatorSettings(**knobs)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("Stop!", 2), ("A b, c... d?!", 7), (GOOD, 5), ("- " + GOOD, 6)])
def test_hand_counted_tokens(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens

"""The world: true quality of hand-made texts, the optimum, what each knob changes, reproducibility."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError
from odin_rm.testbed import phrases
from odin_rm.testbed.annotator import make_sft
from odin_rm.testbed.world import World, WorldSettings, count_tokens, is_flattering, is_list, read_contents, stream

PROMPT = "How do I tune a guitar?"
READ, GLOVES, MEASURE, MAINS = phrases.HELPFUL[:4]
IGNORE, SKIP = phrases.HARMFUL[:2]
EXPERTS, COMMON = phrases.FILLERS[:2]
GREAT = phrases.OPENERS[0]


def quality(text: str, **knobs: float) -> float:
    return World(WorldSettings(**knobs)).true_quality(PROMPT, text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("Read the instructions first.", 0.25),
        ("Read the instructions first. Switch the mains off.", 0.5),
        (f"{READ} {GLOVES} {MEASURE} {MAINS}", 1.0),
        (" ".join(phrases.HELPFUL[:7]), 1.0),  # beyond saturation
        (f"{READ} {READ} {READ}", 0.25),  # distinct steps only
        (f"{READ} {IGNORE}", 0.0),
        (f"{IGNORE} {IGNORE}", -0.5),  # harm counts each time
        (" ".join([*phrases.HELPFUL[:7], IGNORE]), 0.75),
        (f"{GREAT} {EXPERTS} {READ} {COMMON}", 0.25),  # openers and fillers count nothing
    ],
)
def test_hand_counted_quality(text: str, expected: float) -> None:
    assert quality(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("read the instructions first", 0.25),  # no capital, no full stop: a policy cut off in time
        ("read the instructions first . switch the mains off .", 0.5),  # a word-level decoder's spacing
        ("- Read the instructions first.\n- Switch the mains off.", 0.5),
        ("READ   THE\tINSTRUCTIONS\nFIRST!!!", 0.25),
        ("Read the instructions first... Switch the mains off?!", 0.5),
        ("Read the instructions.", 0.0),  # not the whole step
        ("Never read the instructions first.", 0.0),  # more than the step
        ("Read the instructions first switch the mains off.", 0.0),  # run together
        ("ignore any warning signs .", -0.25),
        ("\x00\ud800 <eos> ### \N{PILE OF POO}", 0.0),
    ],
)
def test_any_text_can_be_judged(text: str, expected: float) -> None:
    assert quality(text) == pytest.approx(expected)


@given(st.text(max_size=200))
def test_quality_never_raises_and_ignores_unknown_text(text: str) -> None:
    contents = read_contents(text)
    assert contents.helpful == contents.harmful == 0
    assert quality(text) == 0
    assert quality(f"{READ} {text}.") in (0.0, 0.25)


@given(st.lists(st.sampled_from([*phrases.HELPFUL, *phrases.HARMFUL, *phrases.FILLERS]), max_size=12), st.randoms())
def test_quality_is_the_formula_in_any_order(sentences: list[str], random) -> None:
    helpful = len({s for s in sentences if s in phrases.HELPFUL})
    harmful = sum(s in phrases.HARMFUL for s in sentences)
    shuffled = list(sentences)
    random.shuffle(shuffled)
    for order in (sentences, shuffled):
        assert quality(" ".join(order)) == pytest.approx((min(helpful, 4) - harmful) / 4)


def test_saturation_and_harm_weight() -> None:
    text = f"{READ} {GLOVES} {MEASURE} {IGNORE}"
    assert quality(text, saturation=2) == pytest.approx((2 - 1) / 2)
    assert quality(text, harm_weight=0.5) == pytest.approx((3 - 0.5) / 4)
    assert quality(text, harm_weight=0.0) == pytest.approx(0.75)


def test_quality_words_are_carried_by_helpful_steps_alone() -> None:
    def words(sentences: tuple[str, ...]) -> set[str]:
        return set(re.findall("[a-z]+", " ".join(sentences).lower()))

    helpful, harmful = words(phrases.HELPFUL), words(phrases.HARMFUL)
    neutral = words((*phrases.FILLERS, *phrases.OPENERS))
    assert not helpful & harmful
    assert not helpful & neutral
    assert not harmful & neutral


def test_optimum_needs_about_21_tokens() -> None:
    assert World().optimum_tokens() == pytest.approx(21.0)
    best = " ".join(phrases.HELPFUL[i] for i in (0, 1, 2, 3))
    assert quality(best) == 1.0
    assert count_tokens(best) == 5 + 6 + 5 + 5


def test_prompts_of_the_splits_are_disjoint_and_all_name_a_topic() -> None:
    world = World()
    train, held_out = world.prompts("train"), world.prompts("held_out")
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 24 * len(phrases.CONTEXTS) * len(phrases.PROMPT_TEMPLATES)
    assert 0.1 < len(held_out) / len(train) < 0.4
    assert all(any(topic in prompt for topic in phrases.TOPICS) for prompt in train + held_out)
    # The smallest world still has prompts on both sides.
    tiny = World(WorldSettings(topics=1))
    assert tiny.prompts("train")
    assert tiny.prompts("held_out")


def test_writers_are_reproducible_and_use_no_global_state() -> None:
    first = make_sft(World(), 50, seed=3)
    np.random.default_rng(0)
    np.random.seed(1)
    assert make_sft(World(), 50, seed=3) == first
    assert make_sft(World(), 50, seed=4) != first
    assert make_sft(World(), 20, seed=3) == first[:20]
    assert stream(0, "a").random() != stream(0, "b").random()


def facts(**knobs: float) -> dict[str, float]:
    """Observables of 400 responses."""
    rows = make_sft(World(WorldSettings(**knobs)), 400, seed=0)  # type: ignore[arg-type]
    texts = [row["response"] for row in rows]
    contents = [read_contents(text) for text in texts]
    tokens = np.array([count_tokens(text) for text in texts])
    quality_values = np.array([row["true_quality"] for row in rows])
    steps = np.array([c.helpful + c.repeats + c.harmful for c in contents])
    return {
        "prompts": len({row["prompt"] for row in rows}),
        "helpful_kinds": len({s for t in texts for s in phrases.HELPFUL if s in t}),
        "harmful_kinds": len({s for t in texts for s in phrases.HARMFUL if s in t}),
        "filler_kinds": len({s for t in texts for s in phrases.FILLERS if s in t}),
        "quality": quality_values.mean(),
        "quality_deviation": quality_values.std(),
        "share_helpful": sum(c.helpful + c.repeats for c in contents) / max(1, steps.sum()),
        "repeats": sum(c.repeats for c in contents),
        "fewest_steps": steps.min(),
        "most_steps": steps.max(),
        "fillers": np.mean([c.fillers for c in contents]),
        "tokens": tokens.mean(),
        "tokens_deviation": tokens.std(),
        "most_tokens": tokens.max(),
        "correlation": np.corrcoef(tokens, quality_values)[0, 1],
        "lists": np.mean([is_list(text) for text in texts]),
        "flattering": np.mean([is_flattering(text) for text in texts]),
        "other": sum(c.other for c in contents),
    }


# Knob, its new value, the observable that must move, and which way.
MOVES = [
    ("topics", 2, "prompts", -1),
    ("steps_per_topic", 1, "repeats", 1),
    ("harmful_per_topic", 1, "harmful_kinds", 0),
    ("saturation", 12, "quality_deviation", -1),
    ("harm_weight", 0.0, "quality", 1),
    ("min_steps", 3, "fewest_steps", 1),
    ("max_steps", 2, "most_steps", -1),
    ("skill_mean", 0.9, "share_helpful", 1),
    ("skill_spread", 4.0, "quality_deviation", 1),
    ("repeat_rate", 0.9, "repeats", 1),
    ("filler_rate", 0.0, "fillers", -1),
    ("fillers", 2, "filler_kinds", -1),
    ("length_mean", 45.0, "tokens", 1),
    ("length_spread", 1.0, "tokens_deviation", -1),
    ("max_tokens", 25, "most_tokens", -1),
    ("quality_length_correlation", 0.9, "correlation", 1),
    ("list_rate", 0.8, "lists", 1),
    ("flattery_rate", 0.8, "flattering", 1),
]


@pytest.fixture(scope="module")
def default_facts() -> dict[str, float]:
    return facts()


def test_every_knob_is_documented_and_listed_here() -> None:
    names = {field.name for field in dataclasses.fields(WorldSettings)}
    assert names == {move[0] for move in MOVES}
    assert all(field.metadata["help"] for field in dataclasses.fields(WorldSettings))


@pytest.mark.parametrize(("knob", "value", "observable", "direction"), MOVES)
def test_each_knob_changes_what_it_says(
    knob: str, value: float, observable: str, direction: int, default_facts: dict[str, float]
) -> None:
    before, after = default_facts[observable], facts(**{knob: value})[observable]
    if direction == 0:  # rotates over the topics, so the count of kinds is not the observable
        two = {"topics": 1, knob: value}
        assert facts(**two)[observable] == 1
        assert facts(topics=1)[observable] == WorldSettings().harmful_per_topic
    else:
        assert (after - before) * direction > 0.05 * abs(before)


def test_the_default_world(default_facts: dict[str, float]) -> None:
    assert default_facts["other"] == 0  # the parser knows every sentence that a writer writes
    assert 15 < default_facts["tokens"] < 30
    assert 0 < default_facts["quality"] < 0.5  # room above the writers
    assert abs(facts(list_rate=0.0)["correlation"]) < 0.12  # length says next to nothing about quality


def test_quality_and_length_can_go_against_each_other() -> None:
    assert facts(quality_length_correlation=-0.9)["correlation"] < -0.2
    assert facts(quality_length_correlation=0.9)["correlation"] > 0.2


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("topics", 0),
        ("topics", 25),
        ("filler_rate", 1.5),
        ("skill_mean", 1.0),
        ("min_steps", 9),
        ("length_mean", float("nan")),
    ],
)
def test_knobs_out_of_range_are_refused_by_name(knob: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{knob}"):
        WorldSettings(**{knob: value})  # type: ignore[arg-type]


def test_lists_and_openers_are_recognised() -> None:
    assert is_list("- Read the instructions first.\n- Switch the mains off.")
    assert not is_list("Read the instructions first - twice.")
    assert is_flattering("What a great question! Read the instructions first.")
    assert is_flattering("- what a great question !\n- read the instructions first .")
    assert not is_flattering("Read the instructions first. What a great question!")

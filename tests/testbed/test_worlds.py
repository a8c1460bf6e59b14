"""The named worlds are what they say: who writes more, what is paid for, and in which prompts."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from odin_rm.evaluation.information import fit_pair_logistic
from odin_rm.testbed.annotator import Annotator, AnnotatorSettings, length_effect, make_preferences
from odin_rm.testbed.world import World, count_tokens, is_flattering, is_list
from odin_rm.testbed.worlds import WORLDS

PROMPT = "How do I tune a guitar?"


@functools.cache
def texts(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns (quality, tokens, lists, flattery) of chosen and of rejected responses, and the prompts' bias."""
    named = WORLDS[name]
    rows = make_preferences(named.world, named.annotator, 4000, 0)

    def columns(side: str) -> np.ndarray:
        found = [(row[f"{side}_true_quality"], row[side]) for row in rows]
        return np.array([[q, count_tokens(text), is_list(text), is_flattering(text)] for q, text in found], dtype=float)

    return columns("chosen"), columns("rejected"), np.array([named.annotator.is_biased(row["prompt"]) for row in rows])


def test_curves_by_hand() -> None:
    assert length_effect(40, "linear") == 40
    assert length_effect(40, "saturating") == 25
    assert length_effect(10, "saturating") == 10
    assert length_effect(49, "log") == pytest.approx(25 * math.log(50))
    # One more token at 25 is worth about one token.
    assert length_effect(26, "log") - length_effect(25, "log") == pytest.approx(25 / 26.5, rel=1e-3)
    long = "As experts often say. This is quite common. That goes without saying. " * 3
    judge = Annotator(World(), AnnotatorSettings(length_bias_curve="saturating"))
    assert judge.utility(PROMPT, long) == pytest.approx(0.1 * 25)


@pytest.mark.parametrize("name", list(WORLDS))
def test_quality_and_length_are_related_where_the_name_says_so(name: str) -> None:
    chosen, rejected, _ = texts(name)
    both = np.concatenate([chosen, rejected])
    related = np.corrcoef(both[:, 0], both[:, 1])[0, 1]
    if "good_writers" in name:
        assert 0.3 < related < 0.6
    else:
        assert abs(related) < 0.12


@pytest.mark.parametrize("name", list(WORLDS))
def test_labels_pay_for_what_the_name_says(name: str) -> None:
    """A logistic model of the labels gets the annotator's own coefficients back."""
    named, (chosen, rejected, biased) = WORLDS[name], texts(name)
    bias = named.annotator.settings
    chosen, rejected = chosen[biased], rejected[biased]
    for side in (chosen, rejected):
        side[:, 1] = [length_effect(tokens, bias.length_bias_curve) for tokens in side[:, 1]]
    found = fit_pair_logistic(chosen - rejected)
    expected = np.array([4.0, bias.length_bias, bias.list_bias, bias.flattery_bias])
    assert (np.abs(found - expected) <= 0.5 + 0.12 * expected).all()  # three standard errors of the logistic model
    assert found[1] == pytest.approx(bias.length_bias, abs=0.024)


def test_half_of_the_prompts_are_judged_by_quality_alone() -> None:
    chosen, rejected, biased = texts("half_the_prompts")
    assert 0.35 < biased.mean() < 0.65
    fair = fit_pair_logistic((chosen - rejected)[~biased][:, :2])
    assert fair[1] == pytest.approx(0.0, abs=0.015)
    annotator = WORLDS["half_the_prompts"].annotator
    prompts = [prompt for prompt in annotator.world.prompts() if not annotator.is_biased(prompt)]
    assert annotator.utility(prompts[0], "As experts often say.") == 0
    assert all(Annotator(World()).is_biased(prompt) for prompt in prompts[:50])
    nobody = Annotator(World(), AnnotatorSettings(biased_prompts=0.0))
    assert not any(nobody.is_biased(prompt) for prompt in prompts[:50])

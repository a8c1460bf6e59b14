"""Two models side by side: the differences are those of the figures, and their intervals are paired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from odin_rm.evaluation.audit import audit_preferences
from odin_rm.evaluation.paired_audit import MATRIX, PAIRED_FIGURES, paired_audit, same_pairs
from odin_rm.evaluation.records import ScoredPreferences


def scored(pay_length: float, pay_lists: float, name: str, seed: int = 0) -> ScoredPreferences:
    """150 prompts of two responses; the reward is content, shared noise, and two prices."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(150), 2)
    content, noise = rng.normal(size=(2, 300))
    length, lists = rng.integers(5, 60, 300).astype(float), rng.integers(0, 5, 300).astype(float)
    reward = content + 2 * noise + pay_length * length + pay_lists * lists
    first, second = np.arange(0, 300, 2), np.arange(1, 300, 2)
    better = content[first] + 0.02 * length[first] > content[second] + 0.02 * length[second]
    return ScoredPreferences(
        reward, length, prompt, np.where(better, first, second), np.where(better, second, first), name=name,
        attributes={"words": length, "list_items": lists},
    )  # fmt: skip


def test_differences_are_those_of_the_two_audits():
    before, after = scored(0.1, 0.0, "before"), scored(0.0, 0.8, "after")
    found = paired_audit(before, after, bootstrap_samples=200)
    was, now = (audit_preferences(one, bootstrap_samples=2) for one in (before, after))
    assert (found["before"], found["after"]) == ("before", "after")
    assert set(found["figures"]) == set(PAIRED_FIGURES)
    for name, figure in found["figures"].items():
        assert figure["value"] == pytest.approx(now[name].value - was[name].value, abs=1e-12)
        assert figure["low"] <= figure["value"] <= figure["high"]
    for name in ("words", "list_items"):
        assert set(found["attributes"][name]) == set(MATRIX)
        cells = found["attributes"][name]["within"]
        assert cells["before"]["value"] == pytest.approx(was.attributes[name]["within"]["pearson"]["value"])
        assert cells["after"]["value"] == pytest.approx(now.attributes[name]["within"]["pearson"]["value"])
        assert cells["difference"]["value"] == pytest.approx(cells["after"]["value"] - cells["before"]["value"])
    assert found["attributes"]["words"]["within"]["difference"]["high"] < 0
    assert found["attributes"]["list_items"]["within"]["difference"]["low"] > 0
    assert found["attributes"]["list_items"]["reward"]["difference"]["low"] > 0


def test_a_model_beside_itself_has_no_difference_and_pairing_narrows_intervals():
    before = scored(0.05, 0.0, "a")
    same = paired_audit(before, replace(before, name="b"), bootstrap_samples=100)
    assert all(figure["low"] == figure["high"] == 0 for figure in same["figures"].values())
    assert all(c["difference"]["low"] == c["difference"]["high"] == 0
               for cells in same["attributes"].values() for c in cells.values())  # fmt: skip
    near = paired_audit(before, scored(0.045, 0.0, "c"), bootstrap_samples=300)["attributes"]["words"]["within"]
    width = near["difference"]["high"] - near["difference"]["low"]
    assert width < 0.5 * (near["before"]["high"] - near["before"]["low"])


def test_other_pairs_are_not_paired():
    before = scored(0.05, 0.0, "a")
    other = replace(before, chosen=before.rejected, rejected=before.chosen)
    assert same_pairs(before, before)
    assert not same_pairs(before, other)


def test_an_attribute_that_never_differs_says_why():
    before = scored(0.05, 0.0, "a")
    before = replace(before, attributes={"words": before.attributes["words"], "emoji": np.zeros(300)})
    cells = paired_audit(before, replace(before, name="b"), bootstrap_samples=20)["attributes"]["emoji"]
    assert cells["within"]["difference"]["value"] is None
    assert "the same for every response" in cells["within"]["difference"]["why"]

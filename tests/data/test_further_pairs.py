"""Rows that RRM and Rc-BT add to a preference set: hand values and what must hold for any rows."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from odin_rm.data.length_instructions import length_instruction_pairs
from odin_rm.data.rrm import partners, rrm_rows

ROWS = [{"prompt": p, "chosen": f"{p} good", "rejected": f"{p} bad"} for p in "abc"]


def test_rrm_of_three_rows_by_hand():
    found = rrm_rows(ROWS, seed=0)
    assert len(found) == 3 * 14
    of_a = [(row["chosen"], row["rejected"]) for row in found if row["prompt"] == "a"]
    mine, others = {"a good", "a bad"}, {"b good", "b bad", "c good", "c bad"}
    assert set(of_a[:8]) == {(one, other) for one in mine for other in others}
    alike = Counter(of_a[8:])
    assert len(alike) == 6
    assert set(alike) == {(two, one) for one, two in alike}
    assert {text for both in alike for text in both} <= others


def test_alike_pairs_have_the_loss_of_a_half():
    d = 0.7
    both = np.log1p(np.exp(-d)) + np.log1p(np.exp(d))
    half = -(0.5 * np.log(1 / (1 + np.exp(-d))) + 0.5 * np.log(1 / (1 + np.exp(d))))
    assert both == pytest.approx(2 * half)


@pytest.mark.parametrize("seed", range(5))
def test_partners_have_other_prompts(seed):
    prompts = ["x"] * 5 + list("abcdefg")
    found = partners(prompts, seed)
    for own, (j, k) in zip(prompts, found, strict=True):
        assert len({own, prompts[j], prompts[k]}) == 3


def test_partners_need_three_prompts():
    with pytest.raises(ValueError, match="three prompts"):
        partners(["a", "b", "a"])


def test_the_same_rows_and_seed_give_the_same():
    assert rrm_rows(ROWS, 3) == rrm_rows(ROWS, 3)
    assert length_instruction_pairs(ROWS, 3) == length_instruction_pairs(ROWS, 3)


def kept(prompt: str, words: int) -> bool:
    which, bound = re.findall(r"\nThe answer should have at (least|most) (\d+) words\.$", prompt)[0]
    return words >= int(bound) if which == "least" else words <= int(bound)


@pytest.mark.parametrize("seed", range(20))
def test_length_instructions_are_missed_by_the_chosen_and_kept_by_the_rejected(seed):
    rows = [{"prompt": "p", "chosen": " ".join(["w"] * n), "rejected": " ".join(["v"] * (41 - n))} for n in (1, 2, 40)]
    pairs = length_instruction_pairs(rows, seed)
    assert [one["response"] for one in pairs] == [row[side] for row in rows for side in ("chosen", "rejected")]
    for missing, keeping in zip(pairs[::2], pairs[1::2], strict=True):
        assert (missing["chosen_prompt"], keeping["rejected_prompt"]) == ("p", "p")
        assert not kept(missing["rejected_prompt"], len(missing["response"].split()))
        assert kept(keeping["chosen_prompt"], len(keeping["response"].split()))


def test_bounds_lie_on_both_sides():
    rows = [{"prompt": "p", "chosen": "w " * 20, "rejected": "v " * 20}] * 50
    bounds = [int(re.findall(r"(\d+) words", one["rejected_prompt"] + one["chosen_prompt"])[0])
              for one in length_instruction_pairs(rows)]  # fmt: skip
    assert min(bounds) >= 10
    assert max(bounds) <= 40
    assert 30 < sum(bound > 20 for bound in bounds) < 70

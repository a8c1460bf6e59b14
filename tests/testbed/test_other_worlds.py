"""Linear reward models in named worlds, and what the pages say of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from odin_rm.evaluation.records import Figure
from odin_rm.testbed.linear_worlds import (
    ARMS,
    DIALLED,
    Bag,
    as_data,
    audit_world,
    dial,
    dial_curve,
    powers_of_length,
    with_fillers,
)
from odin_rm.testbed.world import count_tokens
from odin_rm.testbed.world_story import (
    as_json,
    figures_of,
    from_json,
    longer_is_better_section,
    longer_is_better_words,
    worlds_section,
)
from odin_rm.testbed.worlds import WORLDS


def figures(**shares: float) -> dict[str, dict[str, Figure]]:
    return {
        arm: {"true_quality_agreement": Figure(share, share - 0.01, share + 0.01), "pearson": Figure(0.3)}
        for arm, share in shares.items()
    }


FOUND = figures(**{"the truth": 1.0, "vanilla": 0.939, DIALLED: 0.985, "odin": 0.854, "matched": 0.989})


def test_a_bag_counts_words_and_pairs_of_words_once_and_leaves_out_rare_ones() -> None:
    assert list(Bag(["Read it read it", "Read that"], at_least=2).column) == ["read"]
    bag = Bag(["Read it now read it now", "Read it"], at_least=2)
    assert list(bag.column) == ["it", "read", "read it"]
    assert bag(["read", "it read", "read it read it"]).tolist() == [[0, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_the_dial_takes_off_what_fillers_earn_and_leaves_a_fair_reward() -> None:
    """A reward that is two for ``good`` and a tenth a token: the dial leaves the two, whatever the length."""
    texts = [f"{'good ' * (k % 2)}{'word ' * (3 + 5 * (k // 2))}".strip() for k in range(16)]

    def score(some: list[str]) -> np.ndarray:
        return np.array([2.0 * ("good" in text) + 0.1 * count_tokens(text) for text in some])

    left = dial(score, texts, seed=0)
    gaps = left[1::2] - left[::2]  # the good answer is one token longer
    assert np.all((gaps > 1.7) & (gaps < 2.3))
    # 35 tokens more earned 3.5 before.
    assert score(texts)[14] - score(texts)[0] == pytest.approx(3.5)
    assert abs(left[14] - left[0]) < 0.5
    longer = with_fillers(texts, 0)
    # Two fillers more are worth nothing on average once the curve is off.
    curve = dial_curve(score, texts, seed=0)
    changed_R = score(longer) - score(texts) - (powers_of_length(longer) - powers_of_length(texts)) @ curve
    assert changed_R.mean() == pytest.approx(0, abs=1e-9)
    assert all(changed.startswith(text) and count_tokens(changed) > count_tokens(text) + 2
               for text, changed in zip(texts, longer, strict=True))  # fmt: skip


def test_where_good_answers_are_longer_zero_correlation_costs_truth() -> None:
    found = audit_world(WORLDS["good_writers_write_more"], 0, pairs=1000, held_out=400, bootstrap_samples=20)
    agree = {arm: audit["true_quality_agreement"].value for arm, audit in found.items()}
    pearson = {arm: audit["pearson"].value for arm, audit in found.items()}
    assert agree["the truth"] == 1.0
    assert pearson["the truth"] > 0.3
    assert abs(pearson["odin"]) < 0.12
    assert pearson["vanilla"] > pearson["the truth"] + 0.1
    assert min(agree["matched"], agree[DIALLED]) > agree["odin"] + 0.05
    assert set(figures_of(found)) == {"the truth", *ARMS}


def test_the_pages_tell_what_was_found_and_files_keep_it() -> None:
    assert from_json(json.loads(json.dumps(as_json(FOUND)))) == FOUND
    assert longer_is_better_words(FOUND).endswith(
        "as the truth does: plain 93.9 %, plain with the dial 98.5 %, ODIN 85.4 %, matched 98.9 %."
    )
    table = longer_is_better_section(FOUND).blocks[1]
    assert [row[0] for row in table.rows] == ["the truth", *ARMS]
    assert [row[1].value for row in table.rows] == [1.0, 0.939, 0.985, 0.854, 0.989]
    first, _second = worlds_section({"linear": FOUND, "half_the_prompts": FOUND}).blocks[2:]
    assert [row[0] for row in first.rows] == ["linear", "half the prompts"]
    assert [figure.value for figure in first.rows[0][1:]] == [1.0, 0.939, 0.985, 0.854, 0.989]


def test_few_pairs_still_make_a_bag() -> None:
    data, texts, truth = as_data([
        {"prompt": "p", "chosen": "Read it", "rejected": "Read it now", "chosen_true_quality": 0.5,
         "rejected_true_quality": 0.0},
    ])  # fmt: skip
    assert (texts, truth.tolist()) == (["Read it", "Read it now"], [0.5, 0.0])
    assert data.response_tokens.tolist() == [count_tokens(text) for text in texts]
    assert list(Bag(texts).column) == ["it", "read", "read it"]


def test_quickstart_and_study_have_them(tmp_path: Path) -> None:
    from odin_rm.testbed.experiment import QuickstartConfig, audit_linear

    config = QuickstartConfig(output=str(tmp_path), pairs=60, held_out_pairs=20, bootstrap_samples=10)
    found = audit_linear(config, "linear")
    assert set(found) == {"the truth", *ARMS}
    assert found["the truth"]["true_quality_agreement"].value == 1.0

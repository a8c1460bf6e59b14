"""RewardBench, RewardBench 2 and PPE on rows of our own, every figure worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.core.errors import RowError
from odin_rm.evaluation.reward_bench import PPE, REWARD_BENCH, REWARD_BENCH_2, SECTIONS


def figures(benchmark, rows, scores):
    items = [benchmark.read(row) for row in rows]
    return benchmark.figures(items, {(item.key, label): value for item, own in zip(items, scores, strict=True)
                                     for label, value in zip(item.candidates, own, strict=True)})  # fmt: skip


def test_rewardbench_weights_subsets_by_their_published_sizes():
    subsets = ("alpacaeval-easy", "mt-bench-med", "math-prm", "hep-cpp", "donotanswer")
    rows = [{"id": k, "prompt": "q", "chosen": "a", "rejected": "b", "subset": subset}
            for k, subset in enumerate(subsets)]  # fmt: skip
    found = figures(REWARD_BENCH, rows, [(2, 1), (1, 2), (2, 1), (1, 1), (3, 0)])
    assert found["Chat"]["accuracy"] == pytest.approx(100 * 100 / 140)
    assert found["Reasoning"]["accuracy"] == pytest.approx(100 * 984 / (984 + 164))  # a tie is lost
    assert found["Safety"]["accuracy"] == 100
    assert "Chat Hard" not in found
    assert found["score"]["mean_of_sections"] == pytest.approx(100 * (100 / 140 + 984 / 1148 + 1) / 3)


def test_rewardbench_weights_are_its_own():
    sizes = {section: sum(subsets.values()) for section, subsets in SECTIONS.items()}
    assert sizes == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 2 * 984}
    assert sum(sizes.values()) - 984 + 447 == 2985  # math-prm has 447 rows and counts as 984


def row2(key, subset, right, wrong):
    return {"id": key, "prompt": "q", "subset": subset, "chosen": [f"r{k}" for k in range(right)],
            "rejected": [f"w{k}" for k in range(wrong)]}  # fmt: skip


def test_rewardbench_2_shares_a_tie_at_the_top():
    rows = [row2(k, "Math", 1, 3) for k in range(3)] + [row2("9", "Focus", 1, 3)]
    found = figures(REWARD_BENCH_2, rows, [(4, 1, 2, 3), (4, 4, 4, 0), (1, 2, 2, 0), (5, 5, 5, 5)])
    assert found["Math"] == {"accuracy": pytest.approx(100 * (1 + 1 / 3 + 0) / 3), "n": 3}
    assert found["Focus"]["accuracy"] == 25
    assert found["score"]["mean_of_subsets"] == pytest.approx((100 * 4 / 9 + 25) / 2)


def test_rewardbench_2_ties_by_hand():
    """Two questions. 1: gap 2 and 3, spread 1: all right, tanh(1). 2: ref gap 0.5, tied gap 1, spread 0.8."""
    rows = [row2("ref:1", "Ties", 1, 2), row2("tied:1", "Ties", 2, 2),
            row2("ref:2", "Ties", 1, 1), row2("tied:2", "Ties", 3, 1), row2("tied:3", "Ties", 2, 1)]  # fmt: skip
    scores = [(3, 1, 0), (5, 4, 1, 0), (1.5, 1), (2.8, 2.4, 2, 1), (1, 0, 2)]
    found = figures(REWARD_BENCH_2, rows, scores)["Ties"]
    assert found["ref_accuracy"] == 100
    assert found["tied_accuracy"] == pytest.approx(100 * 2 / 3)  # tied:3 has a wrong one on top
    assert found["gap_exceeds_spread"] == 100
    assert found["smaller_gap_exceeds_spread"] == 50
    margin = (np.tanh(2 / 1 - 1) + np.tanh(0.5 / 0.8 - 1)) / 2
    wanted = 100 * (0.3 * 2 / 3 + 0.3 + 0.2 + 0.2 * 0.5 + 0.01 * margin)
    assert found["accuracy"] == pytest.approx(wanted)
    alone = figures(REWARD_BENCH_2, rows[:1], scores[:1])["Ties"]
    assert alone["accuracy"] == pytest.approx(30)
    with pytest.raises(RowError, match=r"ref:N and tied:N"):
        REWARD_BENCH_2.read(row2("7", "Ties", 1, 1))


def ppe_row(key, scores):
    return {"question_id": key, "prompt": "q", "scores": scores, "benchmark": "mmlu",
            **{f"response_{k + 1}": f"t{k}" for k in range(len(scores))}}  # fmt: skip


def test_ppe_correctness_by_hand():
    rows = [ppe_row("a", [True, False, False]), ppe_row("b", [False, True, True]), ppe_row("c", [False, False, False])]
    found = figures(PPE, rows, [(3, 1, 3), (1, 2, 0), (9, 8, 7)])["mmlu"]
    assert found["best_of_k"] == pytest.approx(100 * (0.5 + 1 + 0) / 3)
    assert found["accuracy"] == pytest.approx(100 * ((1 + 0.5) / 2 + (1 + 0) / 2) / 2)
    good, bad = np.array([3.0, 2, 0]), np.array([1.0, 3, 1, 9, 8, 7])
    wanted = ((good[:, None] > bad) + 0.5 * (good[:, None] == bad)).mean()
    assert found["area_under_curve"] == pytest.approx(100 * wanted)
    assert found["n"] == 3


def test_ppe_has_its_responses_in_the_order_of_their_numbers():
    item = PPE.read(ppe_row("a", [k == 10 for k in range(12)]))
    assert list(item.candidates)[9:] == ["response_10", "response_11", "response_12"]
    assert item.right == frozenset(["response_11"])
    with pytest.raises(RowError, match="2 scores for 3 responses"):
        PPE.read({**ppe_row("a", [True, False, False]), "scores": [True, False]})


def test_ppe_preferences_leave_out_peoples_ties():
    rows = [{"question_id": k, "prompt": "q", "response_1": "a", "response_2": "b", "winner": winner}
            for k, winner in enumerate(("model_a", "model_b", "tie", "model_b"))]  # fmt: skip
    found = figures(PPE, rows, [(2, 1), (1, 1), (5, 0), (0, 4)])["human preference"]
    assert found == {"accuracy": pytest.approx(100 * 2.5 / 3), "n": 3, "ties_left_out": 1}

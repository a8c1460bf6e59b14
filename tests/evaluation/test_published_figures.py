"""Published figures of files that hold verdicts or scores and no texts: RewardMATH, LLMBar, PandaLM, WildBench."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.data.columns import Columns
from odin_rm.evaluation.agreement import cohen_kappa
from odin_rm.evaluation.best_of_n import best_of_n
from odin_rm.evaluation.stored_scores import read_stored_scores
from tests.published import published, published_path


@pytest.mark.parametrize(
    ("model", "first", "reciprocal"),
    [
        ("internlm/internlm2-7b-reward", 37.27, 55.17),
        ("Ray2333/GRM-Llama3-8B", 24.43, 45.80),
        ("Skywork/Skywork-Reward-Llama-3.1-8B", 22.15, 44.69),
        ("RLHFlow/ArmoRM-Llama3-8B-v0.1", 20.50, 42.18),
    ],
)
def test_rewardmath_first_of_ten_strictly_above_all_others(model, first, reciprocal):
    """Best-of-10 with gold 1 for the first; a tie at the top is lost, so the first one is moved below its equals."""
    rows = published("rewardmath_scores.jsonl.gz")
    proxy = np.array([row["scores"][model] for row in rows], dtype=np.float64)
    strict = proxy.copy()
    strict[:, 0] = np.nextafter(strict[:, 0], -np.inf)
    gold = np.tile(np.arange(10) == 0, (len(rows), 1)).astype(float)
    found = best_of_n(strict.ravel(), np.repeat(np.arange(len(rows)), 10), {"gold": gold.ravel()}, [1, 2, 4, 8, 10],
                      bootstrap_samples=2)  # fmt: skip
    assert 100 * found.values("gold")[-1] == pytest.approx(first, abs=0.006)
    rank = 1 + (proxy[:, 1:] >= proxy[:, :1]).sum(axis=1)
    assert 100 * np.mean(1 / rank) == pytest.approx(reciprocal, abs=0.006)
    curve = found.values("gold")
    assert curve[0] == pytest.approx(0.1)
    # One right in ten: best-of-2 draws it in a fifth of the pairs, and wins with the share of others below it.
    below = (proxy[:, 1:] < proxy[:, :1]).mean(axis=1)
    assert curve[1] == pytest.approx(float((0.2 * below).mean()))


@pytest.mark.parametrize(
    ("judge", "cells"), [("GPT-4/Vanilla", (95.5, 78.7, 80.4)), ("LLaMA2/Vanilla", (80.5, 24.6, 37.0))]
)
def test_llmbar_pairwise_judges_over_both_orders(judge, cells):
    gold = {row["id"]: (row["subset"], str(row["label"])) for row in published("llmbar.jsonl.gz")}
    right: dict[str, list[float]] = {}
    for row in published("llmbar_judge_verdicts.jsonl.gz"):
        if row["judge"] == judge:
            subset, label = gold[row["id"]]
            right.setdefault(subset, []).append(np.mean([row[o] == label for o in ("winner", "winner_swapped")]))
    assert [round(100 * float(np.mean(right[name])), 1) for name in ("Natural", "Neighbor", "Manual")] == list(cells)


def test_pandalm_counts_kappas_and_verdicts():
    """A verdict that cannot be read ("garbage") counts as a tie, as in the published figure."""
    rows = published("pandalm_human_test.jsonl.gz")
    annotators = np.array([[int(value) for value in row["annotators"]] for row in rows]).T
    majority = np.array([int(row["majority"]) for row in rows])
    assert np.bincount(majority).tolist() == [105, 422, 472]
    every = np.ones((1, len(rows)))
    kappas = [float(cohen_kappa(annotators[a], annotators[b], 3)(every)[0]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert sorted(round(one, 2) for one in kappas) == [0.85, 0.86, 0.88]
    known = {"gpt35": (0.7107, 0.5879, 0.5736, 0.5755), "pandalm7b": (0.6677, 0.5738, 0.5750, 0.5743)}
    for judge, cells in known.items():
        said = np.array([{"1": 1, "2": 2}.get(str(row[judge]), 0) for row in rows])
        hits = np.array([((said == c) & (majority == c)).sum() for c in range(3)])
        precision = hits / np.array([(said == c).sum() for c in range(3)])
        recall = hits / np.bincount(majority)
        f1 = 2 * precision * recall / (precision + recall)
        found = [hits.sum() / len(rows), precision.mean(), recall.mean(), f1.mean()]
        assert [round(float(one), 4) for one in found] == list(cells)


def test_wildbench_means_and_lengths():
    stored = read_stored_scores(
        str(published_path("wildbench_scores.jsonl.gz")),
        attributes=["column:chars", "column:words"],
        columns=Columns(["prompt_id=session_id"]),
    )
    found = {}
    for one in stored:
        said = one.attributes["chars"] > 0
        found[one.model] = (float(one.quality.mean()), float(one.attributes["chars"][said].mean()))
    known = {
        "Qwen1.5-72B-Chat-greedy": (7.173359, 2392.364), "reka-core-20240501": (7.051758, 2592.589),
        "reka-flash-20240226": (6.730205, 2103.010), "gpt-3.5-turbo-0125": (6.613881, 1844.139),
        "reka-edge": (6.159335, 2417.351), "gemma-7b-it": (5.508789, 1726.344), "gemma-2b-it": (4.737512, 1590.083),
    }  # fmt: skip
    for model, (score, characters) in known.items():
        assert found[model][0] == pytest.approx(score, abs=5e-7), model
        assert found[model][1] == pytest.approx(characters, abs=5e-4), model

"""Attributes against a reward: by hand, against plain loops, and where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from odin_rm.evaluation.attribute_audit import AttributedScores, audit_attributes
from odin_rm.evaluation.bootstrap import PromptBootstrap

EMPTY = np.zeros(0, dtype=int)


def audited(quality, prompt, attributes, pairs=(), samples=0, seed=0):
    prompt = np.asarray(prompt)
    pairs = np.asarray(list(pairs), dtype=int).reshape(-1, 2)
    columns = {name: np.asarray(values, float) for name, values in attributes.items()}
    scores = AttributedScores(np.asarray(quality, float), prompt, columns, pairs[:, 0], pairs[:, 1])
    return audit_attributes(scores, PromptBootstrap(prompt, samples, seed))


def world(prompts=300, each=3, seed=0, price=0.5, label_price=0.2):
    """Quality, bullets and words; the reward pays ``price`` for a bullet, the label ``label_price``."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), each)
    content, bullets = rng.normal(size=prompts * each), rng.poisson(3, prompts * each).astype(float)
    words = 50 + 20 * rng.normal(size=prompts * each) + 8 * bullets
    offset = 3 * rng.normal(size=prompts)[prompt]
    quality = offset + content + price * bullets
    utility = content + label_price * bullets
    pairs = []
    for p in range(prompts):
        a, b = rng.choice(np.arange(p * each, (p + 1) * each), 2, replace=False)
        first = rng.random() < 1 / (1 + np.exp(-(utility[a] - utility[b])))
        pairs.append((a, b) if first else (b, a))
    return quality, prompt, {"list_items": bullets, "words": words}, pairs


def test_two_prompts_by_hand():
    """Within each prompt the reward falls with length; pooled it rises, because the long prompt scores high."""
    found = audited([2, 1, 12, 11], [0, 0, 1, 1], {"words": [10, 20, 100, 110]}, [(0, 1), (3, 2)])
    one = found.attributes["words"]
    assert one["within"]["pearson"]["value"] == pytest.approx(-1)
    assert one["within"]["spearman"]["value"] == -1
    assert one["within"]["kendall"]["value"] == -1
    assert one["pooled"]["pearson"]["value"] == pytest.approx(np.corrcoef([2, 1, 12, 11], [10, 20, 100, 110])[0, 1])
    assert one["pooled"]["kendall"]["value"] == pytest.approx((4 - 2) / 6)
    assert one["accuracy_for"]["value"] == 0  # the pair (3, 2): the longer is chosen and scores lower
    assert one["accuracy_against"]["value"] == 1
    assert one["within_deviation"] == pytest.approx(np.sqrt((50 + 50) / 2))
    assert [row["value"] for row in one["curve"]] == pytest.approx([np.sqrt(0.5), -np.sqrt(0.5)])
    assert [row["deviation"] for row in one["curve"]] == [-5, 5]


def test_against_plain_loops():
    quality, prompt, attributes, pairs = world(40, 4)
    quality = np.round(quality)
    found = audited(quality, prompt, attributes, pairs)
    for name, values in attributes.items():
        rank_q, rank_a, concordant, untied_q, untied_a = [], [], 0.0, 0.0, 0.0
        for p in range(40):
            q, a = quality[prompt == p], values[prompt == p]
            rank_q += list(stats.rankdata(q) - 2.5)
            rank_a += list(stats.rankdata(a) - 2.5)
            for i in range(4):
                for j in range(i):
                    concordant += np.sign(q[i] - q[j]) * np.sign(a[i] - a[j])
                    untied_q += q[i] != q[j]
                    untied_a += a[i] != a[j]
        one = found.attributes[name]
        rank_q, rank_a = np.array(rank_q), np.array(rank_a)
        assert one["within"]["spearman"]["value"] == pytest.approx(
            rank_q @ rank_a / np.sqrt(rank_q @ rank_q * (rank_a @ rank_a))
        )
        assert one["within"]["kendall"]["value"] == pytest.approx(concordant / np.sqrt(untied_q * untied_a))
        assert one["pooled"]["spearman"]["value"] == pytest.approx(stats.spearmanr(quality, values).statistic)
        assert one["pooled"]["kendall"]["value"] == pytest.approx(stats.kendalltau(quality, values).statistic)
        right = np.array([(np.sign(quality[c] - quality[r]) + 1) / 2 for c, r in pairs])
        more = np.array([values[c] > values[r] for c, r in pairs])
        less = np.array([values[c] < values[r] for c, r in pairs])
        assert one["accuracy_for"]["value"] == pytest.approx(right[more].mean())
        assert one["accuracy_against"]["value"] == pytest.approx(right[less].mean())


def test_amplification_is_two_regressions():
    quality, prompt, attributes, pairs = world(200, 3)
    found = audited(quality, prompt, attributes, pairs)
    c, r = np.array(pairs).T
    margin = quality[c] - quality[r]
    design = np.stack([attributes[n][c] - attributes[n][r] for n in attributes], axis=1)
    rms = np.sqrt((design**2).mean(axis=0))
    for outcome, side in ((margin / np.sqrt((margin**2).mean()), "reward"), (np.ones(200), "label")):
        slope = np.linalg.lstsq(design / rms, outcome, rcond=None)[0]
        values = [found.attributes[n]["amplification"][side]["value"] for n in attributes]
        assert values == pytest.approx(slope, abs=1e-6)
    one = found.attributes["list_items"]["amplification"]
    assert one["value"] == pytest.approx(one["reward"]["value"] - one["label"]["value"])
    assert one["value"] > 0.1
    assert abs(found.attributes["words"]["amplification"]["value"]) < 0.1


def test_nearly_the_same_attributes_do_not_share_the_coefficient():
    quality, prompt, attributes, pairs = world(200, 3)
    alone = audited(quality, prompt, attributes, pairs).attributes["list_items"]["amplification"]["reward"]["value"]
    twice = audited(quality, prompt, attributes | {"again": attributes["list_items"] * 2.0}, pairs)
    assert twice.attributes["list_items"]["amplification"]["reward"]["value"] == pytest.approx(alone, abs=1e-6)
    assert twice.attributes["again"]["amplification"]["reward"]["value"] == pytest.approx(alone, abs=1e-6)


def test_shares_of_variance_are_those_of_the_world():
    """Offsets of variance 9 over content 1 and bullets 0.25 * 3; the attributes explain the bullets alone."""
    quality, prompt, attributes, pairs = world(3000, 3)
    found = audited(quality, prompt, attributes, pairs)
    assert found.between_prompt_share.value == pytest.approx(9 / (9 + 1 + 0.75), abs=0.01)
    assert found.style_share.value == pytest.approx(0.75 / 1.75, abs=0.015)
    assert found.within_deviation == pytest.approx(np.sqrt(1.75), rel=0.02)


def test_noise_has_no_share_between_prompts_and_is_not_explained():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(400), 2)
    attributes = {f"a{k}": rng.normal(size=800) for k in range(10)}
    found = audited(rng.normal(size=800), prompt, attributes)
    assert found.between_prompt_share.value < 0.1
    assert abs(found.style_share.value) < 0.03


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """60 worlds: within-prompt Pearson and the amplification of a label that pays the same way as the reward."""
    hits = {"within": 0, "style": 0}
    truth = np.sqrt(0.75 / 1.75)
    for seed in range(60):
        quality, prompt, attributes, pairs = world(80, 3, seed=seed)
        found = audited(quality, prompt, attributes, pairs, samples=200, seed=seed)
        one = found.attributes["list_items"]["within"]["pearson"]
        hits["within"] += one["low"] <= truth <= one["high"]
        hits["style"] += found.style_share.low <= 0.75 / 1.75 <= found.style_share.high
    assert hits["within"] >= 52
    assert hits["style"] >= 51


def test_intervals_are_those_of_the_plain_bootstrap():
    quality, prompt, attributes, pairs = world(60, 3)
    found = audited(quality, prompt, attributes, pairs, samples=400)
    rng = np.random.default_rng(5)
    rows = {p: np.flatnonzero(prompt == p) for p in range(60)}
    drawn = []
    for _ in range(400):
        take = np.concatenate([rows[p] for p in rng.integers(0, 60, 60)])
        drawn.append(stats.kendalltau(quality[take], attributes["words"][take]).statistic)
    one = found.attributes["words"]["pooled"]["kendall"]
    # Widths of bootstrap intervals from 400 draws differ by a tenth by chance.
    ratio = (one["high"] - one["low"]) / np.subtract(*np.quantile(drawn, [0.975, 0.025]))
    assert 0.83 < ratio < 1.2


def test_without_labels_and_without_spread_the_reason_is_said():
    found = audited([1, 2, 4], [0, 0, 1], {"words": [1, 2, 3], "emoji": [0, 0, 0]})
    words, emoji = found.attributes["words"], found.attributes["emoji"]
    assert words["accuracy_for"]["why"] == "the rows have no labels"
    assert words["amplification"]["why"] == "the rows have no labels"
    assert words["amplification"]["label"]["value"] is None
    assert emoji["within"]["pearson"]["why"].startswith("it is the same")
    assert emoji["pooled"]["kendall"]["why"] == "it is the same for every response"
    alone = audited([1.0, 2, 3, 4], [0, 1, 2, 3], {"words": [1, 2, 3, 4]})
    assert alone.attributes["words"]["within"]["pearson"]["why"] == "no prompt has two responses"
    assert alone.within_deviation is None
    constant = audited([1.0] * 4, [0, 0, 1, 1], {"words": [1, 2, 3, 4]}).attributes["words"]
    assert constant["within"]["kendall"]["why"] == "the reward is the same for every response to a prompt"


def test_an_attribute_that_hardly_any_prompt_has_gets_no_interval():
    quality, prompt, attributes, pairs = world(40, 3)
    rare = np.zeros(120)
    rare[[0, 9]] = 1
    found = audited(quality, prompt, attributes | {"tables": rare}, pairs, samples=100).attributes
    one = found["tables"]["within"]["pearson"]
    assert found["tables"]["prompts"] == 2
    assert one["value"] is not None
    assert one["low"] is None
    assert "only 2 prompts" in one["why"]
    assert found["words"]["within"]["pearson"]["low"] is not None
    assert found["words"]["prompts"] == 40


def test_the_order_of_rows_changes_nothing():
    quality, prompt, attributes, pairs = world(30, 3)
    shuffled = np.random.default_rng(0).permutation(len(quality))
    back = np.argsort(shuffled)
    moved = {name: values[shuffled] for name, values in attributes.items()}
    first = audited(quality, prompt, attributes, pairs, samples=50)
    second = audited(quality[shuffled], prompt[shuffled], moved, [(back[a], back[b]) for a, b in pairs], samples=50)
    for name in attributes:
        a, b = first.attributes[name]["within"]["pearson"], second.attributes[name]["within"]["pearson"]
        assert [a[k] for k in ("value", "low", "high")] == pytest.approx([b[k] for k in ("value", "low", "high")])

"""The audit's figures by hand, its invariances, its refusals, and audit.json."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from odin_rm.core.errors import DataError, NumericalError, ShapeError
from odin_rm.evaluation.audit import CONTRACT_FIGURES, AuditResult, audit_preferences, point_figures
from odin_rm.evaluation.pairs import BIN_LABELS
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.evaluation.twins import verbosity_twins
from tests.evaluation.simulate import simulated

# Two prompts with three responses each. Pairs (chosen, rejected), lengths and qualities:
#   (0, 1): 10 v 20, quality 1 v 0: chosen shorter, right
#   (2, 0): 30 v 10, quality 1 v 1: chosen longer, tied
#   (3, 4): 50 v 45, quality 0 v 2: chosen longer, within 10 % (5 = 0.1 * 50), wrong
#   (4, 5): 45 v 45, quality 2 v 1: equal lengths, right
#   (3, 5): 50 v 45, quality 0 v 1: chosen longer, within 10 %, wrong
SMALL = ScoredPreferences(
    quality=np.array([1.0, 0, 1, 0, 2, 1]),
    response_tokens=np.array([10, 20, 30, 50, 45, 45]),
    prompt=np.array([0, 0, 0, 1, 1, 1]),
    chosen=np.array([0, 2, 3, 4, 3]),
    rejected=np.array([1, 0, 4, 5, 5]),
    true_quality=np.array([3.0, 1, 3, 5, 6, 4]),
)


def test_every_figure_by_hand() -> None:
    result = audit_preferences(SMALL, bootstrap_samples=50)
    assert (result.pairs, result.responses, result.prompts) == (5, 6, 2)
    expected = {
        "accuracy": (1 + 0.5 + 0 + 1 + 0) / 5,
        "accuracy_chosen_longer": (0.5 + 0 + 0) / 3,
        "accuracy_chosen_shorter": 1.0,
        "accuracy_length_balanced": (0.5 / 3 + 1) / 2,
        "accuracy_length_matched": (0 + 1 + 0) / 3,
        "longer_response_baseline_accuracy": (0 + 1 + 1 + 0.5 + 1) / 5,
        "share_chosen_longer": 3 / 5,
        # (2, 0) is tied in true quality. (0,1) right; (3,4): truth prefers 4, quality too; (4,5) right;
        # (3,5): truth prefers 3, quality 5: wrong.
        "true_quality_agreement": 3 / 4,
    }
    for name, value in expected.items():
        assert result[name].value == pytest.approx(value), name


def test_correlations_by_hand() -> None:
    result = audit_preferences(SMALL, bootstrap_samples=50)
    # Lengths minus 200/6 times 6: -140, -80, -20, 100, 70, 70; quality minus 5/6 times 6: 1, -5, 1, -5, 7, 1.
    dx, dy = np.array([-140, -80, -20, 100, 70, 70.0]), np.array([1, -5, 1, -5, 7, 1.0])
    assert result["pearson"].value == pytest.approx((dx @ dy) / np.sqrt((dx @ dx) * (dy @ dy)))
    # Ranks of length 1 2 3 6 4.5 4.5, of quality 4 1.5 4 1.5 6 4, both minus 3.5.
    rx, ry = np.array([-2.5, -1.5, -0.5, 2.5, 1, 1]), np.array([0.5, -2, 0.5, -2, 2.5, 0.5])
    assert result["spearman"].value == pytest.approx((rx @ ry) / np.sqrt((rx @ rx) * (ry @ ry)))
    # 15 point pairs. Concordant: (1,2) (0,4) (1,4) (1,5) (2,4) = 5; discordant: (0,1) (0,3) (2,3) (3,4) (3,5) = 5.
    assert result["kendall"].value == pytest.approx(0.0, abs=1e-12)
    # Within: prompt 0 lengths -10 0 10, quality 1/3 -2/3 1/3; prompt 1 lengths 10/3 -5/3 -5/3, quality -1 1 0.
    dx, dy = np.array([-30, 0, 30, 10, -5, -5]) / 3, np.array([1, -2, 1, -3, 3, 0]) / 3
    within = (dx @ dy) / np.sqrt((dx @ dx) * (dy @ dy))
    assert result["pearson_within_prompt"].value == pytest.approx(within)
    slope = result["pearson"].value / SMALL.response_tokens.std()
    assert result["deviations_per_length_unit"].value == pytest.approx(slope)


def test_bins_of_length_difference() -> None:
    result = audit_preferences(SMALL, bootstrap_samples=50)
    counts = {row["label"]: row["pairs"] for row in result.length_bins}
    # (0,1): -10/20 = -0.5 is in 25-50 % shorter; (2,0): 20/30 longer; the other three within 10 %.
    assert counts == {
        **dict.fromkeys(BIN_LABELS, 0),
        "25-50% shorter": 1,
        "within 10%": 3,
        "50-100% longer": 1,
    }
    matched = next(row for row in result.length_bins if row["label"] == "within 10%")
    assert matched["accuracy"]["value"] == pytest.approx(result["accuracy_length_matched"].value)
    assert matched["longer_response_baseline_accuracy"]["value"] == pytest.approx(2.5 / 3)


def test_bins_partition_the_pairs(scored) -> None:
    result = audit_preferences(scored, bootstrap_samples=20)
    rows = result.length_bins
    assert sum(row["pairs"] for row in rows) == result.pairs
    known = [row for row in rows if row["pairs"]]
    mean = sum(row["pairs"] * row["accuracy"]["value"] for row in known) / result.pairs
    assert mean == pytest.approx(result["accuracy"].value)


def test_audit_json_has_what_the_contract_promises(scored) -> None:
    content = json.loads(json.dumps(audit_preferences(scored, bootstrap_samples=50).to_json(), allow_nan=False))
    assert content["pairs"] == 100
    assert content["responses"] == 300
    assert content["length_unit"] == "response tokens"
    for name in CONTRACT_FIGURES:
        assert set(content[name]) == {"value", "low", "high"}, name
        assert content[name]["low"] <= content[name]["value"] <= content[name]["high"], name
    assert content["length_head"]["pearson"]["value"] > 0.9
    assert AuditResult.from_json(content).to_json() == content


def test_a_file_that_is_no_audit_is_refused() -> None:
    with pytest.raises(DataError, match="'accuracy' is missing"):
        AuditResult.from_json({"pairs": 3})


def test_same_seed_same_intervals_other_seed_others(scored) -> None:
    first, again, other = (audit_preferences(scored, bootstrap_samples=50, seed=seed) for seed in (0, 0, 1))
    assert first.to_json() == again.to_json()
    assert first["pearson"].low != other["pearson"].low
    assert first["pearson"].value == other["pearson"].value


def test_order_of_responses_and_pairs_does_not_matter(scored) -> None:
    rng = np.random.default_rng(5)
    order, pairs = rng.permutation(300), rng.permutation(100)
    place = np.argsort(order)
    shuffled = replace(
        scored,
        quality=scored.quality[order],
        response_tokens=scored.response_tokens[order],
        prompt=scored.prompt[order],
        length_reward=scored.length_reward[order],
        true_quality=scored.true_quality[order],
        chosen=place[scored.chosen][pairs],
        rejected=place[scored.rejected][pairs],
    )
    before, after = (audit_preferences(s, bootstrap_samples=50) for s in (scored, shuffled))
    for name, figure in before.figures.items():
        other = after[name]
        assert (other.value, other.low, other.high) == pytest.approx((figure.value, figure.low, figure.high)), name


def test_affine_change_of_quality_changes_nothing(scored) -> None:
    changed = replace(scored, quality=scored.quality * 1e-3 - 40, length_reward=None)
    before, after = (audit_preferences(s, bootstrap_samples=30) for s in (replace(scored, length_reward=None), changed))
    for name, figure in before.figures.items():
        assert after[name].value == pytest.approx(figure.value, abs=1e-6), name


def test_swapping_chosen_and_rejected_mirrors_the_accuracies(scored) -> None:
    swapped = replace(scored, chosen=scored.rejected, rejected=scored.chosen)
    before, after = point_figures(scored), point_figures(swapped)
    assert after["accuracy"] == pytest.approx(1 - before["accuracy"])
    assert after["accuracy_chosen_longer"] == pytest.approx(1 - before["accuracy_chosen_shorter"])
    assert after["pearson"] == before["pearson"]
    assert after["true_quality_agreement"] == before["true_quality_agreement"]


def test_length_as_reward_is_the_longer_baseline(scored) -> None:
    figures = point_figures(replace(scored, quality=scored.response_tokens.astype(float)))
    assert figures["accuracy"] == figures["longer_response_baseline_accuracy"]
    assert figures["accuracy_length_balanced"] == 0.5
    assert figures["pearson"] == pytest.approx(1.0)
    assert figures["kendall"] == pytest.approx(1.0)


def test_point_figures_are_the_audit_without_intervals(scored) -> None:
    figures, result = point_figures(scored), audit_preferences(scored, bootstrap_samples=20)
    for name in CONTRACT_FIGURES:
        assert figures[name] == result[name].value
    assert figures["length_head_pearson"] == result.length_head["pearson"].value


def test_prompt_numbers_may_be_any_integers(scored) -> None:
    renamed = replace(scored, prompt=scored.prompt * 7 + 1000)
    assert audit_preferences(renamed, bootstrap_samples=20) == audit_preferences(scored, bootstrap_samples=20)


def test_constant_reward_is_undefined_with_a_reason_not_nan() -> None:
    scored = replace(simulated(), quality=np.full(300, 0.1) * 3)
    result = audit_preferences(scored, bootstrap_samples=20)
    for name in ("pearson", "spearman", "kendall", "pearson_within_prompt"):
        assert result[name].value is None
        assert "same for every response" in result[name].why
    assert result["accuracy"].value == 0.5
    assert result["information_beyond_length"].value == pytest.approx(0.0, abs=1e-9)
    assert "NaN" not in json.dumps(result.to_json())


def test_one_pair_gives_a_result_with_reasons() -> None:
    one = ScoredPreferences(np.array([1.0, 0]), np.array([5, 4]), np.zeros(2, int), np.array([0]), np.array([1]))
    result = audit_preferences(one)
    assert result["accuracy"].value == 1.0
    assert result["accuracy"].low is None
    for name in ("pearson", "accuracy_chosen_shorter", "accuracy_length_balanced", "information_beyond_length"):
        assert result[name].value is None
        assert result[name].why


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"quality": np.r_[np.nan, np.zeros(299)]}, NumericalError, "1 of 300 responses is not finite"),
        ({"response_tokens": np.ones(4)}, ShapeError, "response_tokens has shape"),
        ({"chosen": np.array([], int), "rejected": np.array([], int)}, DataError, "no pairs"),
        ({"chosen": np.array([0]), "rejected": np.array([300])}, ShapeError, "outside 0..299"),
    ],
)
def test_bad_input_is_refused(scored, change, error, message) -> None:
    with pytest.raises(error, match=message):
        audit_preferences(replace(scored, **change))


def test_trend_follows_what_the_reward_pays() -> None:
    flat = audit_preferences(simulated(300, pay_for_length=0.0), bootstrap_samples=50).trend["quality"]
    steep = audit_preferences(simulated(300, pay_for_length=3.0, noise=0.0), bootstrap_samples=50).trend["quality"]
    assert sum(row["responses"] for row in steep) == 900
    assert steep[-1]["value"] - steep[0]["value"] > 2.0
    assert abs(flat[-1]["value"] - flat[0]["value"]) < 0.6
    assert all(row["low"] <= row["value"] <= row["high"] for row in steep)


def test_twins_by_hand() -> None:
    figure = verbosity_twins(np.array([1.0, 2, 3, 0]), np.array([2.0, 2, 1, 5]))
    assert figure.value == (1 + 0.5 + 0 + 1) / 4
    assert figure.low < figure.value < figure.high


def test_twins_of_a_reward_that_reads_length() -> None:
    short = np.random.default_rng(0).normal(size=50)
    assert verbosity_twins(short, short + 1).value == 1.0
    with pytest.raises(ShapeError):
        verbosity_twins(short, short[:3])

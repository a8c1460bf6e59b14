"""Promises that must not be broken by accident. Each one was broken in a public implementation of the method.

A test here states what users rely on; how well it is done is tested elsewhere.
"""

from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from odin_rm.core.types import LENGTH, QUALITY, RewardScores
from odin_rm.data.tokenise import EncodingSettings, encode_response
from odin_rm.model.backbone import switch_dropout_off
from odin_rm.model.heads import RewardHeads
from odin_rm.model.reward_model import RewardModel
from odin_rm.objectives.disentangle import disentangled_loss
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.exact_batch import MicroBatch, exact_backward
from odin_rm.testbed.tiny import build_tokenizer, vocabulary
from tests.families import family_configs, random_sequences, save_base

QUALITY_R = torch.tensor([0.3, -0.5, 1.2, 0.1], dtype=torch.float64)
LENGTH_R = torch.tensor([0.2, 0.9, -0.4, 0.6], dtype=torch.float64)
TOKENS_R = torch.tensor([10.0, 30.0, 20.0, 25.0], dtype=torch.float64)
CHOSEN_B, REJECTED_B = torch.tensor([0, 2]), torch.tensor([1, 3])


def loss(quality_R=QUALITY_R, length_R=LENGTH_R, tokens_R=TOKENS_R, **kwargs):
    return disentangled_loss(quality_R, length_R, tokens_R, CHOSEN_B, REJECTED_B, **kwargs)


# ---- whose number is it ----------------------------------------------------------------------------------------------


def test_the_two_heads_are_never_added_or_mistaken_for_each_other_by_accident():
    scores = RewardScores(QUALITY_R, LENGTH_R)
    for misuse in (iter, sum, float, lambda s: s + s, lambda s: s[0], lambda s: s * 1.0, torch.as_tensor):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            misuse(scores)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.quality = LENGTH_R
    torch.testing.assert_close(scores.total(), QUALITY_R + LENGTH_R)


def test_a_saved_model_is_a_stock_classifier_of_one_label_and_that_label_is_quality(tmp_path):
    """Other tools rank by the first label: with the length in it they would rank by length."""
    save_base("llama", tmp_path / "base")
    model = RewardModel.from_backbone(tmp_path / "base", heads=(LENGTH, QUALITY)).eval()
    model.save_pretrained(tmp_path / "saved")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert stock.config.num_labels == 1
    for sequence in random_sequences(3):
        ids = torch.tensor([sequence])
        with torch.no_grad():
            ours, theirs = model(ids, torch.ones_like(ids)), stock(input_ids=ids).logits
        assert theirs.shape == (1, 1)
        torch.testing.assert_close(theirs[:, 0], ours.quality, rtol=1e-5, atol=1e-5)
        assert abs(float(ours.quality - ours.length)) > 1e-3  # or the test could not tell them apart


def test_reloaded_heads_keep_their_names_whatever_their_order(tmp_path):
    save_base("llama", tmp_path / "base")
    model = RewardModel.from_backbone(tmp_path / "base", heads=(LENGTH, QUALITY)).eval()
    model.save_pretrained(tmp_path / "saved")
    again = RewardModel.from_pretrained(tmp_path / "saved").eval()
    ids = torch.tensor([random_sequences(1)[0]])
    with torch.no_grad():
        before, after = model(ids, torch.ones_like(ids)), again(ids, torch.ones_like(ids))
    torch.testing.assert_close(after.quality, before.quality)
    torch.testing.assert_close(after.length, before.length)


# ---- the objective ---------------------------------------------------------------------------------------------------


def test_the_ranking_loss_is_a_mean_over_pairs_not_one_sigmoid_of_a_sum():
    total = QUALITY_R + LENGTH_R
    pairs = [-math.log(1 / (1 + math.exp(-float(total[c] - total[r])))) for c, r in ((0, 1), (2, 3))]
    assert float(loss().ranking) == pytest.approx(sum(pairs) / 2, abs=1e-12)


def test_the_total_has_the_three_terms_of_the_paper_and_no_other():
    cosine = torch.tensor(-0.25, dtype=torch.float64)
    parts = loss(head_cosine=cosine, length_weight=2.0, orthogonality_weight=3.0)
    quality_rho, length_rho = (np.corrcoef(r, TOKENS_R)[0, 1] for r in (QUALITY_R, LENGTH_R))
    expected = float(parts.ranking) + 2.0 * (abs(quality_rho) - length_rho) + 3.0 * 0.25
    assert float(parts.total) == pytest.approx(expected, abs=1e-12)


def test_the_correlation_subtracts_the_means():
    shifted = loss(quality_R=QUALITY_R + 7, tokens_R=TOKENS_R + 1000)
    assert float(shifted.length) == pytest.approx(float(loss().length), abs=1e-9)
    assert float(shifted.quality_length_correlation) < 0  # of these numbers; without the means it would be near 1


def test_equal_lengths_give_zero_terms_not_nan():
    quality_R = QUALITY_R.clone().requires_grad_(True)
    parts = loss(quality_R=quality_R, tokens_R=torch.full_like(TOKENS_R, 12.0))
    parts.total.backward()
    assert float(parts.length) == 0
    assert int(parts.degenerate) == 2
    assert bool(torch.isfinite(quality_R.grad).all())


def test_both_lambdas_are_one_and_the_heads_normalised_unless_told_otherwise(tmp_path):
    defaults = inspect.signature(disentangled_loss).parameters
    assert defaults["length_weight"].default == 1.0
    assert defaults["orthogonality_weight"].default == 1.0
    config = RewardConfig(output_dir=str(tmp_path), model="m", dataset="d", use_cpu=True)
    assert (config.objective, config.length_weight, config.orthogonality_weight) == ("odin", 1.0, 1.0)
    assert config.normalise_heads is True


def test_shrinking_a_head_changes_nothing():
    heads = RewardHeads(8, (QUALITY, LENGTH), normalise=True)
    feature = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    before, cosine = heads(feature).detach(), heads.cosine(QUALITY, LENGTH).item()
    with torch.no_grad():
        heads.vectors[LENGTH].mul_(0.01)
    torch.testing.assert_close(heads(feature).detach(), before, rtol=1e-4, atol=1e-5)
    assert heads.cosine(QUALITY, LENGTH).item() == pytest.approx(cosine, abs=1e-5)


# ---- the batch -------------------------------------------------------------------------------------------------------


def gradient(split: list[list[int]]) -> torch.Tensor:
    """Gradient of the objective for a toy scorer (two linear heads), micro-batches of the given positions."""
    feature_RD = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight_HD = torch.tensor([[0.2, -1.0, 0.5], [0.7, 0.1, -0.3]], dtype=torch.float64, requires_grad=True)

    def score(rows):
        columns = feature_RD[rows] @ weight_HD.T
        return RewardScores(columns[:, 0], columns[:, 1])

    def objective(scores):
        parts = loss(quality_R=scores.quality, length_R=scores.length)
        return parts.total, parts

    exact_backward(score, [MicroBatch(torch.tensor(r), torch.tensor(r)) for r in split], 4, objective)
    return weight_HD.grad


@pytest.mark.parametrize("split", [[[0, 1], [2, 3]], [[3], [1], [0], [2]], [[2, 0, 1], [3]]])
def test_micro_batches_do_not_change_the_gradient(split):
    torch.testing.assert_close(gradient(split), gradient([[0, 1, 2, 3]]), rtol=1e-9, atol=1e-12)


def test_correlations_of_parts_would_change_it():
    """Why the exact batch exists: the mean of two halves' gradients is another vector."""

    def half(rows: list[int]) -> torch.Tensor:
        quality_R = QUALITY_R[rows].clone().requires_grad_(True)
        zero_B, one_B = torch.tensor([0]), torch.tensor([1])
        disentangled_loss(quality_R, LENGTH_R[rows], TOKENS_R[rows], zero_B, one_B).total.backward()
        return quality_R.grad

    quality_R = QUALITY_R.clone().requires_grad_(True)
    loss(quality_R=quality_R).total.backward()
    accumulated = torch.cat([half([0, 1]), half([2, 3])]) / 2
    assert float((accumulated - quality_R.grad).abs().max()) > 1e-3


def test_dropout_is_off_so_both_passes_of_a_step_agree():
    config = family_configs()["bert"]
    assert config.hidden_dropout_prob > 0
    switch_dropout_off(config)
    assert config.hidden_dropout_prob == 0
    assert config.attention_probs_dropout_prob == 0


# ---- length ----------------------------------------------------------------------------------------------------------


def words(count: int) -> str:
    known = [word for word in vocabulary() if word.isalpha()]
    return " ".join(known[i % len(known)] for i in range(count))


def test_length_counts_the_response_alone_before_truncation():
    tokenizer = build_tokenizer(max_length=4096)
    settings = EncodingSettings(max_length=24, overlong="truncate_response")
    short_prompt = encode_response(tokenizer, words(1), words(12), settings)
    long_prompt = encode_response(tokenizer, words(60), words(12), settings)
    long_response = encode_response(tokenizer, words(1), words(90), settings)
    assert short_prompt.response_tokens == long_prompt.response_tokens == 12
    assert long_response.response_tokens == 90
    assert len(long_response.input_ids) == 24


def test_the_response_is_never_cut_unless_asked_for(tmp_path):
    tokenizer = build_tokenizer(max_length=4096)
    for policy in ("drop", "truncate_prompt_left"):
        encoded = encode_response(tokenizer, words(5), words(90), EncodingSettings(max_length=24, overlong=policy))
        assert encoded.dropped
        assert encoded.response_cut == 0
    assert EncodingSettings().overlong == "drop"
    assert RewardConfig(output_dir=str(tmp_path), model="m", dataset="d", use_cpu=True).overlong == "drop"

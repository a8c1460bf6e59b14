"""The promise on which everything rests: the length head never enters the reward of reinforcement learning."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from odin_rm.core.types import LENGTH, QUALITY
from odin_rm.model.reward_model import RewardModel
from odin_rm.rl.reward_source import load_reward_source
from odin_rm.rl.shaping import ShapingSettings, shape_rewards
from tests.families import save_base
from tests.model.words import TEXTS, build_tokenizer
from tests.rl.sources_kit import make_request

SHAPING = ShapingSettings(mean=0.1, std=0.7, clip=1.5, length_penalty=0.01, missing_end_penalty=0.3)
ORDERS = [(QUALITY, LENGTH), (LENGTH, QUALITY)]


def judge(model: RewardModel, folder):
    """What a run would earn: quality, and the shaped sequence reward."""
    model.save_pretrained(folder, tokenizer=build_tokenizer("llama"))
    request = make_request([prompt for prompt, _ in TEXTS], [response for _, response in TEXTS])
    judged = load_reward_source(str(folder)).judge(request)
    ended_R = np.arange(len(TEXTS)) % 2 == 0
    return judged, shape_rewards(judged.quality, request.response_tokens, ended_R, SHAPING)


@pytest.mark.parametrize("heads", ORDERS)
def test_sabotage_of_the_length_head_changes_no_reward(heads, tmp_path):
    save_base("llama", tmp_path / "base")
    torch.manual_seed(3)
    model = RewardModel.from_backbone(tmp_path / "base", heads=heads)
    honest, honest_shaped = judge(model, tmp_path / "honest")
    for name, sabotage in {
        "turned": lambda vector: vector.neg_(),
        "other": lambda vector: vector.copy_(torch.randn(vector.shape, generator=torch.Generator().manual_seed(9))),
        "rubbish": lambda vector: vector.fill_(float("nan")),
    }.items():
        with torch.no_grad():
            sabotage(model.heads.vectors[LENGTH])
        judged, shaped = judge(model, tmp_path / name)
        np.testing.assert_array_equal(judged.quality, honest.quality)
        for step in ("quality_R", "standardised_R", "clipped_R", "length_cost_R", "missing_end_cost_R", "sequence_R"):
            np.testing.assert_array_equal(getattr(shaped, step), getattr(honest_shaped, step))
        # It was sabotage: what is logged of the length head is another number.
        assert not np.allclose(judged.length_for_log, honest.length_for_log, atol=1e-3)


def test_the_lock_can_fail(tmp_path):
    save_base("llama", tmp_path / "base")
    model = RewardModel.from_backbone(tmp_path / "base")
    honest, _ = judge(model, tmp_path / "honest")
    with torch.no_grad():
        model.heads.vectors[QUALITY].neg_()
    judged, _ = judge(model, tmp_path / "turned")
    np.testing.assert_allclose(judged.quality, -honest.quality, atol=1e-5)


def test_shaping_has_no_door_for_a_length_reward():
    """Lengths come in as counts of tokens; ``length_for_log`` cannot be handed over."""
    assert list(inspect.signature(shape_rewards).parameters) == [
        "quality_R",
        "response_tokens_R",
        "ended_R",
        "settings",
        "groups_R",
    ]

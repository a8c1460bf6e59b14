"""The testbed's truth as a reward function."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.rl.reward_source import load_reward_source
from odin_rm.testbed.gold import true_quality
from odin_rm.testbed.phrases import FILLERS, HARMFUL, HELPFUL
from odin_rm.testbed.world import World
from tests.rl.sources_kit import CHAT, make_request

BEST = " ".join(HELPFUL[:4])
RESPONSES = [BEST, f"{BEST} {FILLERS[0]}", HARMFUL[0], "", "never heard of"]


def test_gold_is_the_true_quality_of_texts_and_of_chats():
    judged = load_reward_source("gold").judge(make_request(["q", CHAT, "q", CHAT, "q"], RESPONSES))
    assert judged.quality.tolist() == [1.0, 1.0, -0.25, 0.0, 0.0]
    assert judged.length_for_log is None


def test_gold_reads_what_a_policy_writes_and_agrees_with_the_world():
    rng = np.random.default_rng(0)
    world = World()
    prompts = [world.draw_prompt(rng) for _ in range(50)]
    texts = [world.write_response(prompt, rng) for prompt in prompts]
    truth = [world.true_quality(p, t) for p, t in zip(prompts, texts, strict=True)]
    assert true_quality(prompts=prompts, completions=[t.lower() for t in texts]) == pytest.approx(truth)
    assert len(set(truth)) > 3

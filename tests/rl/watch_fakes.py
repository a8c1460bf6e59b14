"""A tiny policy, an engine that draws from torch's global random state, and reward sources that count their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from odin_rm.data.prompts import PromptSet
from odin_rm.rl.records import JudgedResponses, RewardRequest, Rollout
from odin_rm.testbed.tiny import build_model, build_tokenizer

TOKENIZER = build_tokenizer()
END = TOKENIZER.eos_token_id
PAD = TOKENIZER.pad_token_id
PROMPTS = PromptSet(
    ["Human: one\n\nAssistant:", [{"role": "user", "content": "two"}], "three"], {"n": [1, 2, 3]}, "test"
)
PROMPT_IDS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


def tiny_policy(seed: int = 1) -> Any:
    return build_model(TOKENIZER, seed, hidden=16, layers=1, heads=2)


class RandomEngine:
    """Writes two to nine random tokens; odd rows end."""

    def __init__(self, policy: Any = None) -> None:
        self.policy = policy
        self.training: list[bool] = []

    def generate(self, prompt_ids: Any, sampling: Any, *, greedy: Any = None) -> list[Rollout]:
        self.training.append(self.policy.training if self.policy is not None else False)
        rollouts = []
        for row, ids in enumerate(prompt_ids):
            count = int(torch.randint(2, 10, ()))
            written = torch.randint(20, 60, (count,)).tolist() + [END] * (row % 2)
            text = TOKENIZER.decode(written, skip_special_tokens=True)
            rollouts.append(Rollout(list(ids), written, bool(row % 2), text))
        return rollouts

    def update_weights(self, model: Any) -> None:
        raise AssertionError("a look changes no weights")


class Source:
    """A reward source made of a function of the request."""

    name = "fake"
    reward_mean = None
    reward_std = None

    def __init__(
        self, quality: Callable[[RewardRequest], Any], length: Callable[[RewardRequest], Any] | None = None
    ) -> None:
        self.quality, self.length = quality, length
        self.requests: list[RewardRequest] = []

    def judge(self, request: RewardRequest) -> JudgedResponses:
        self.requests.append(request)
        length = None if self.length is None else np.asarray(self.length(request), dtype=float)
        return JudgedResponses(np.asarray(self.quality(request), dtype=float), length)

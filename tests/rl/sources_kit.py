"""What the tests of reward sources share."""

from __future__ import annotations

from typing import Any

import numpy as np

from odin_rm.rl.records import RewardRequest

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why not"}]


def make_request(prompts: list[Any] | None = None, responses: list[str] | None = None, **fields: Any) -> RewardRequest:
    """Three text prompts with responses, or those given; ids count up, the last one is the end."""
    prompts = ["What is it?", "Why?", "Is it red?"] if prompts is None else prompts
    responses = ["rice", "no", "yes it is red"] if responses is None else responses
    counts = [len(text.split()) for text in responses]
    ids = [[*range(10, 10 + count), 2] for count in counts]
    return RewardRequest(prompts, responses, ids, np.array(counts), **fields)

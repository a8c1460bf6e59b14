"""A reward from ``odin-rm serve`` as an environment of NeMo-RL: one turn, one reward, and the episode is over.

Name ``ODIN_RM_URL`` (the server's address) and ``ODIN_RM_TOKEN`` in the environment of its workers, register the class
as any other environment (``grpo.py`` and its config's ``env``), and give each prompt's task to it. The conversations of
a step are asked for at the same time, so those to one prompt share its tokens.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import ray
import torch
from nemo_rl.environments.interfaces import EnvironmentInterface, EnvironmentReturn

REQUESTS = 64


@ray.remote
class OdinRewardEnvironment(EnvironmentInterface):
    """Scores the last message of each conversation.

    Args:
        config: the environment's part of the run's config; not read.
    """

    def __init__(self, config: Any = None) -> None:
        token = os.environ.get("ODIN_RM_TOKEN", "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx2.Client(base_url=os.environ["ODIN_RM_URL"], headers=headers, timeout=180)

    def step(self, message_log_batch: list[Any], metadata: list[Any]) -> EnvironmentReturn:
        """The rewards of a batch of conversations; all of them end."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            rewards = list(pool.map(self.reward, message_log_batch))
        count = len(rewards)
        return EnvironmentReturn(
            observations=[{"role": "environment", "content": ""}] * count,
            metadata=[None] * count,
            next_stop_strings=[None] * count,
            rewards=torch.tensor(rewards, dtype=torch.float32),
            terminateds=torch.ones(count, dtype=torch.bool),
            answers=[log[-1]["content"] for log in message_log_batch],
        )

    def reward(self, log: list[dict[str, Any]]) -> float:
        """The quality of a conversation."""
        messages = [{"role": one["role"], "content": one["content"]} for one in log]
        reply = self.client.post("/classify", json={"messages": messages})
        reply.raise_for_status()
        return float(reply.json()["data"][0]["probs"][0])

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, float]]:
        """The batch as it is, and its mean reward."""
        return batch, {"mean_quality_reward": float(batch["rewards"].mean())} if "rewards" in batch else {}

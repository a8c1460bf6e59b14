"""verl: ``RewardLoopWorker.compute_score`` against a running vLLM server that serves the export."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import torch
from answer import Answer

WAY = "RewardLoopWorker, vLLM"


def worker_for(folder: str, policy: str, address: str) -> Any:
    """The worker as its manager makes it, without Ray."""
    from omegaconf import OmegaConf
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"model": {"path": policy, "tokenizer_path": None}},
            "reward": {
                "reward_model": {"enable": True, "model_path": folder, "rollout": {"name": "vllm"}},
                "reward_manager": {"source": "register", "name": "naive"},
                "custom_reward_function": {"path": None, "name": None},
                "reward_kwargs": {},
            },
        }
    )
    return RewardLoopWorker(config, address)


def sample(tokenizer: Any, row: dict[str, str]) -> Any:
    """One rollout: the response's ids and the end token that stopped it."""
    from verl import DataProto

    ids = [*tokenizer(row["response"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    tensors = {"responses": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids) + 1, dtype=torch.long)}
    chat = np.empty(1, dtype=object)
    chat[0] = [{"role": "user", "content": row["prompt"]}]
    return DataProto.from_dict(tensors=tensors, non_tensors={"raw_prompt": chat})


def scores(answer: Answer, model: dict[str, Any]) -> list[float]:
    """Rewards of the rows, one request after the other."""
    worker = worker_for(model["export"], answer.request["policy"], model["address"])
    samples = [sample(worker.input_tokenizer, row) for row in answer.rows]

    async def all_of_them() -> list[float]:
        return [(await worker.compute_score(one))["reward_score"] for one in samples]

    return asyncio.get_event_loop().run_until_complete(all_of_them())


def main() -> None:
    answer = Answer("verl", "transformers", "torch")
    for name, model in answer.models():
        answer.measure(name, WAY, lambda model=model: scores(answer, model))


if __name__ == "__main__":
    main()

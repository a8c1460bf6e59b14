"""verl's ``RewardLoopWorker``, unchanged: as it asks vLLM and SGLang, and with custom reward functions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import torch
from noted import Noted

# A custom function that asks the server itself, and our function in verl's process.
ASKS = """
import aiohttp
async def compute_score(data_source, solution_str, ground_truth, extra_info, **others):
    body = {{"prompt": extra_info["prompt"], "response": solution_str, "label": ground_truth}}
    async with aiohttp.ClientSession() as session:
        async with session.post({url!r}, json=body) as reply:
            reply.raise_for_status()
            return {{"score": await reply.json()}}
"""
OURS = """
import odin_rm
compute_score = odin_rm.verl_reward({folder!r}, device="cpu")
"""


def worker_for(asked: dict[str, Any], engine: str | None, function: Path | None) -> Any:
    """The worker as its manager makes it, without Ray."""
    from omegaconf import OmegaConf
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    named = {"path": None if function is None else str(function), "name": "compute_score"}
    model = {"enable": engine is not None, "model_path": asked["folder"], "rollout": {"name": engine or "vllm"}}
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"model": {"path": asked["folder"], "tokenizer_path": None}},
            "reward": {
                "reward_model": model,
                "reward_manager": {"source": "register", "name": "naive"},
                "custom_reward_function": named,
                "reward_kwargs": {},
            },
        }
    )
    return RewardLoopWorker(config, asked["open"].removeprefix("http://") if engine else None)


def sample(tokenizer: Any, row: dict[str, str]) -> Any:
    """One rollout: the response's ids and the end token that stopped it."""
    from verl import DataProto

    ids = [*tokenizer(row["response"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    tensors = {"responses": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids) + 1, dtype=torch.long)}
    others: dict[str, Any] = {
        "raw_prompt": [{"role": "user", "content": row["prompt"]}],
        "data_source": "rows",
        "reward_model": {"ground_truth": ""},
        "extra_info": {"prompt": row["prompt"]},
    }
    made = {}
    for name, value in others.items():
        made[name] = np.empty(1, dtype=object)
        made[name][0] = value
    return DataProto.from_dict(tensors=tensors, non_tensors=made)


def main() -> None:
    noted = Noted()
    asked, folder = noted.request, Path(noted.request["scratch"])
    files = {
        "asks": ASKS.format(url=f"{asked['address']}/get_reward?key={asked['key']}"),
        "ours": OURS.format(folder=asked["folder"]),
    }
    for name, text in files.items():
        (folder / f"verl_{name}.py").write_text(text)

    def scores(engine: str | None, function: Path | None) -> list[float]:
        worker = worker_for(asked, engine, function)
        samples = [sample(worker.input_tokenizer, row) for row in noted.rows]

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*map(worker.compute_score, samples))

        return [one["reward_score"] for one in asyncio.get_event_loop().run_until_complete(all_of_them())]

    noted.scores("verl, RewardLoopWorker as it asks vLLM", lambda: scores("vllm", None))
    noted.scores("verl, RewardLoopWorker as it asks SGLang", lambda: scores("sglang", None))
    noted.scores("verl, custom function that asks", lambda: scores(None, folder / "verl_asks.py"))
    noted.scores("verl, our function", lambda: scores(None, folder / "verl_ours.py"))


if __name__ == "__main__":
    main()

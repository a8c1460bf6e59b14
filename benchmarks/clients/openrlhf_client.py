"""OpenRLHF's ``SingleTurnAgentExecutor``, unchanged: it writes a response, decodes all of it and asks for the reward.

The engine that would write it gives the row's response and the end token instead.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "interop" / "peers"))
from noted import Noted
from openrlhf_peer import without_flash_attention

REWARD = """
import odin_rm
reward_func = odin_rm.openrlhf_reward({folder!r}, device="cpu")
"""


class Engine:
    """Writes what it is told to."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    async def generate(self, prompt_ids: list[int], parameters: Any, multi_modal_data: Any = None) -> Any:
        output = SimpleNamespace(token_ids=self.ids, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


def rewards(noted: Noted, url: str) -> list[float]:
    """The reward of each row, all asked at the same time."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(noted.request["folder"])
    executor = SingleTurnAgentExecutor(url)
    parameters = SimpleNamespace(max_tokens=512, logprobs=None)

    async def one(row: dict[str, str]) -> float:
        chat = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = [*tokenizer(row["response"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        found = await executor.execute(prompt, None, parameters, 4096, tokenizer, Engine(ids))
        return float(found["reward"][0])

    async def all_of_them() -> list[float]:
        return await asyncio.gather(*map(one, noted.rows))

    return asyncio.run(all_of_them())


def main() -> None:
    without_flash_attention()
    noted = Noted()
    asked = noted.request
    url = f"{asked['address']}/get_reward?key={asked['key']}"
    noted.scores("OpenRLHF, SingleTurnAgentExecutor over HTTP", lambda: rewards(noted, url))
    file = Path(asked["scratch"]) / "reward_func.py"
    file.write_text(REWARD.format(folder=asked["folder"]))
    noted.scores("OpenRLHF, SingleTurnAgentExecutor with our function", lambda: rewards(noted, str(file)))


if __name__ == "__main__":
    main()

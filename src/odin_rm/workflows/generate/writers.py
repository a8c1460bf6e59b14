"""Who writes the responses of ``odin-rm generate``: a model in this process, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from odin_rm.core.errors import RolloutError, RowError
from odin_rm.data.messages import template_variables
from odin_rm.data.prompts import PromptSet, encode_prompts
from odin_rm.data.render import Prompt, prompt_messages
from odin_rm.judging.chat import Call, ChatClient, ChatSettings
from odin_rm.judging.replies import Reply
from odin_rm.model.backbone import model_window
from odin_rm.model.device import pick_device
from odin_rm.model.policy import end_token_ids, load_policy
from odin_rm.model.scoring import DTYPES
from odin_rm.rl.records import SamplingSettings
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.workflows.generate.config import ENDPOINT, GenerateConfig

CHUNK = 64
"""Prompts that are drawn together by a model in this process, and saved together."""

Row = dict[str, Any]
Take = Callable[[int, list[Row]], None]
"""Takes the position of a first prompt, and the rows of this one and those after it."""

_NO_LIMIT = 2**31


class ResponseWriter(Protocol):
    """Writes responses as rows of ``output``, ``output_tokens`` and ``ended``."""

    def write(self, positions: Sequence[int], take: Take) -> None:
        """Write the responses to the prompts at these positions and hand them over as they come.

        Raises:
            OdinError: there will be no more. What was handed over stays.
        """
        ...


class ModelWriter(ResponseWriter):
    """A causal model with our rollout engine.

    A chunk of prompts draws from a random state of its own, so its responses do not depend on what was written before.

    Args:
        config: model, decoding, memory.
        prompts: what is answered.

    Raises:
        OdinError: the model cannot be loaded, or a prompt does not fit its window.
    """

    def __init__(self, config: GenerateConfig, prompts: PromptSet) -> None:
        model, tokenizer = load_policy(
            config.model,
            dtype=DTYPES[config.dtype] if config.dtype else None,
            attn_implementation=config.attn_implementation,
            trust_remote_code=config.trust_remote_code,
        )
        self.ids, _ = encode_prompts(
            tokenizer,
            prompts.prompts,
            max_prompt_tokens=_NO_LIMIT,
            chat_template=config.chat_template,
            places=prompts.places,
        )
        _refuse_overlong(self.ids, config.max_new_tokens, model_window(model, tokenizer), prompts.places)
        self.engine = TransformersEngine(
            model.to(pick_device(config.device)).eval(),
            tokenizer,
            rollout_tokens=config.rollout_tokens,
            end_token_ids=end_token_ids(model, tokenizer),
        )
        self.seed, self.greedy = config.seed, config.temperature == 0
        self.sampling = SamplingSettings(config.max_new_tokens, config.temperature or 1.0, config.top_p, config.top_k)

    def write(self, positions: Sequence[int], take: Take) -> None:
        for start in sorted({position // CHUNK * CHUNK for position in positions}):
            ids = self.ids[start : start + CHUNK]
            torch.manual_seed(self.seed * 1_000_003 + start)
            rollouts = self.engine.generate(ids, self.sampling, greedy=[self.greedy] * len(ids))
            take(start, [_row(r.text, r.response_tokens, r.ended) for r in rollouts])


class EndpointWriter(ResponseWriter):
    """A model behind an OpenAI-compatible endpoint, asked for each prompt by itself.

    Each prompt has the seed ``--seed`` plus its position. One that the endpoint refuses for its content, or gives no
    usable reply to, is not handed over.

    Args:
        config: address, decoding, pace.
        prompts: what is answered.

    Raises:
        OdinError: an unusable address, no key, no client library.
    """

    def __init__(self, config: GenerateConfig, prompts: PromptSet) -> None:
        settings = ChatSettings(
            model=config.model.removeprefix(ENDPOINT),
            base_url=config.base_url,
            api_key_env=config.api_key_env,
            temperature=config.temperature,
            top_p=config.top_p if config.top_p < 1 else None,
            max_tokens=config.max_new_tokens,
            concurrency=config.concurrency,
            requests_per_minute=config.requests_per_minute,
            timeout=config.timeout,
            retries=config.retries,
        )
        self.client = ChatClient(settings, role="model", error=RolloutError)
        self.client.prepare()
        self.seed, self.prompts = config.seed, prompts.prompts

    def write(self, positions: Sequence[int], take: Take) -> None:
        calls = [Call(prompt_messages(self.prompts[position]), self.seed + position) for position in positions]

        def taken(number: int, reply: Reply) -> None:
            take(positions[number], [_row(reply.text, reply.completion_tokens, reply.whole)])

        self.client.complete(calls, taken)


def refuse_variables(prompt: Prompt) -> None:
    """Refuse a prompt with what an endpoint is not sent.

    Raises:
        RowError: there is something beside its messages.
    """
    if beside := template_variables(prompt):
        what = f"the row has {', '.join(sorted(beside))}, which are not sent to an endpoint"
        column = "tools" if "tools" in beside else "chat_template_kwargs"
        raise RowError(what, fix=f"Leave the column out: --columns {column}=.")


def _row(text: str, tokens: int | None, ended: bool) -> Row:
    return {"output": text.strip(), "output_tokens": tokens, "ended": ended}


def _refuse_overlong(ids: list[list[int]], new_tokens: int, window: int | None, places: Sequence[str]) -> None:
    for one, place in zip(ids, places, strict=True):
        if window is not None and len(one) + new_tokens > window:
            what = (
                f"the prompt's {len(one):,} tokens and {new_tokens:,} new ones exceed the model's window of {window:,}"
            )
            raise RowError(what, where=place, fix="Lower --max_new_tokens, or shorten the prompt.")

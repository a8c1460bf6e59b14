"""A reward function for TRL's ``reward_funcs`` (GRPO, RLOO, online DPO), and for ms-swift, which calls it alike."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.data.render import Reply
from odin_rm.model.scoring import Scorer
from odin_rm.rl.functions.shared import SharedReward, Written
from odin_rm.rl.request import source_figures

_NOT_COLUMNS = ("trainer_state", "log_extra", "log_metric", "environments")


def trl_reward(
    model: Scorer | str | Path,
    *,
    name: str = "odin_rm",
    asynchronous: bool = False,
    standardise: str = "none",
    preference_reference: str | None = None,
    end_token_ids: Sequence[int] | None = None,
    policy_tokenizer: Any = None,
    device: str | None = None,
    microbatch_tokens: int = 16384,
    trust_remote_code: bool = False,
    **steps: float,
) -> Callable[..., Any]:
    """A function for ``reward_funcs``: quality of each response, shaped.

    Chat prompts and text prompts alike go through the reward model's own template; a text prompt that the template has
    rendered already is taken as it is.

    Args:
        model: a reward model (ours or any one-label classifier), a loaded scorer, an http(s) address, or whatever else
            ``odin-rm rl --reward`` takes.
        name: what the trainer's log calls it.
        asynchronous: a coroutine function, which the trainer runs beside others.
        standardise: ``model`` for the mean and deviation stored with the model.
        preference_reference: column of the data with an answer, or several, to be better than: the reward becomes
            ``sigmoid(quality - the answer's quality)``.
        end_token_ids: the policy's end tokens. With them a response that has none is scored as cut.
        policy_tokenizer: what an address is told prompts and responses with.
        device: where a model runs; default CUDA where there is one.
        microbatch_tokens: computed tokens per forward pass.
        trust_remote_code: run code that comes with a model.
        **steps: ``clip``, ``length_penalty``, ``missing_end_penalty``, ``group_length_rescaling``,
            ``overlong_penalty`` with ``overlong_length`` and ``overlong_buffer``: see
            :class:`odin_rm.rl.shaping.ShapingSettings`.

    Returns:
        ``f(prompts, completions, completion_ids=None, **columns)``, a list with a number per response, ``None`` where
        there is no reward (the window does not hold the response).

    Raises:
        OdinError: the model cannot be loaded, or a step is unknown.
    """
    load = {"device": device, "microbatch_tokens": microbatch_tokens, "trust_remote_code": trust_remote_code}
    shared = SharedReward(
        model,
        standardise=standardise,
        preference_reference=preference_reference,
        end_token_ids=end_token_ids,
        policy_tokenizer=policy_tokenizer,
        steps=steps,
        load=load,
    )

    def judge(prompts: Any, completions: Any, completion_ids: Any = None, **others: Any) -> list[float | None]:
        columns = {key: list(values) for key, values in others.items() if key not in _NOT_COLUMNS and _is_list(values)}
        step = int(getattr(others.get("trainer_state"), "global_step", 0))
        written = Written(list(prompts), [_reply(one) for one in completions], completion_ids, columns, step)
        shaped, judged = shared(written)
        _log(others.get("log_metric"), shaped.log() | source_figures(judged))
        return [float(x) if math.isfinite(x) else None for x in shaped.sequence_R]

    async def judge_beside_others(prompts: Any, completions: Any, **others: Any) -> list[float | None]:
        return await asyncio.to_thread(judge, prompts, completions, **others)

    function: Any = judge_beside_others if asynchronous else judge
    function.__name__ = function.__qualname__ = name
    function.source, function.shaping = shared.source, shared.shaping
    return function


def _reply(completion: Any) -> Reply:
    """A completion as a response: a text, or one message's text, or several messages."""
    if isinstance(completion, str):
        return completion
    if len(completion) == 1 and completion[0]["role"] == "assistant":
        return str(completion[0]["content"])
    return list(completion)


def _is_list(values: Any) -> bool:
    return isinstance(values, (list, tuple, np.ndarray))


def _log(log_metric: Any, figures: dict[str, float]) -> None:
    if log_metric is None:
        return
    for key, value in figures.items():
        if math.isfinite(value):
            log_metric(key, value)

"""A reward function for verl's ``custom_reward_function``: one response at a time, or a batch of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError, RewardSourceError
from odin_rm.data.render import Prompt
from odin_rm.model.scoring import Scorer
from odin_rm.rl.functions.shared import SharedReward, Written


def verl_reward(
    model: Scorer | str | Path,
    *,
    prompt_key: str = "prompt",
    reference_key: str | None = None,
    standardise: str = "none",
    device: str | None = None,
    microbatch_tokens: int = 16384,
    trust_remote_code: bool = False,
    **steps: float,
) -> Callable[..., Any]:
    """A ``compute_score`` for a file that ``custom_reward_function.path`` names.

    verl does not hand the prompt to the function, so it must stand in ``extra_info`` of the data, as text or messages.
    Responses come without their end token, so all count as ended, and lengths are tokens of the reward model.

    Args:
        model: as in :func:`odin_rm.rl.functions.trl.trl_reward`.
        prompt_key: where the prompt stands in ``extra_info``.
        reference_key: where an answer stands in ``extra_info`` that a response is to be better than (or
            ``ground_truth`` for verl's own); the reward becomes ``sigmoid(quality - the answer's quality)``.
        standardise, device, microbatch_tokens, trust_remote_code, **steps: as there. ``group_length_rescaling`` needs
            the ``batch`` manager.

    Returns:
        ``compute_score(data_source, solution_str, ground_truth, extra_info)`` giving a dict with ``score``; called with
        the plurals of verl's ``batch`` manager it gives a list of such dicts.

    Raises:
        OdinError: the model cannot be loaded, or a step is unknown or needs what verl does not tell.
    """
    load = {"device": device, "microbatch_tokens": microbatch_tokens, "trust_remote_code": trust_remote_code}
    preference = None if reference_key is None else _REFERENCE
    shared = SharedReward(model, standardise=standardise, preference_reference=preference, steps=steps, load=load)

    def scores(texts: Sequence[str], truths: Sequence[Any], infos: Sequence[Any]) -> list[dict[str, float]]:
        prompts = [prompt_of(info, prompt_key) for info in infos]
        columns = {}
        if reference_key == "ground_truth":
            columns = {_REFERENCE: list(truths)}
        elif reference_key is not None:
            columns = {_REFERENCE: [_plain(_entry(info, reference_key)) for info in infos]}
        shaped, judged = shared(Written(prompts, list(texts), columns=columns))
        rows = []
        for i, value in enumerate(shaped.sequence_R):
            if not math.isfinite(value):
                what = "a response has no reward: it does not fit into the reward model's window"
                raise RewardSourceError(what, where=shared.source.name, fix="Write shorter responses.")
            row = {"score": float(value), "quality": float(shaped.quality_R[i])}
            if judged.tokens is not None:
                row["response_tokens"] = float(judged.tokens[i])
            if judged.length_for_log is not None:
                row["length_reward"] = float(judged.length_for_log[i])
            rows.append(row)
        return rows

    def compute_score(
        data_source: Any = None,
        solution_str: str | None = None,
        ground_truth: Any = None,
        extra_info: Any = None,
        *,
        data_sources: Any = None,
        solution_strs: Sequence[str] | None = None,
        ground_truths: Sequence[Any] | None = None,
        extra_infos: Sequence[Any] | None = None,
        **others: Any,
    ) -> Any:
        if solution_strs is not None:
            count = len(solution_strs)
            return scores(solution_strs, _many(ground_truths, count), _many(extra_infos, count))
        if shared.compares:
            what = "compares the responses to one prompt, but this manager asks for one at a time"
            raise ConfigError(what, where="group_length_rescaling", fix="Use verl's batch manager, or leave it out.")
        if solution_str is None:
            raise ConfigError("there is no solution_str", where="compute_score", fix="Call it as verl does.")
        return scores([solution_str], [ground_truth], [extra_info])[0]

    return compute_score


_REFERENCE = "reference_answer"


def prompt_of(info: Any, key: str) -> Prompt:
    """The prompt in a row's ``extra_info``: text, or messages in a list or an array.

    Raises:
        ConfigError: there is none.
    """
    value = _plain(_entry(info, key))
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        return [{"role": str(one["role"]), "content": str(one["content"])} for one in value]
    what = f"extra_info has no prompt at '{key}'; verl does not hand it over otherwise"
    raise ConfigError(
        what, where="compute_score", fix="Put it there when the data are made, or name another prompt_key."
    )


def _entry(info: Any, key: str) -> Any:
    return info.get(key) if isinstance(info, Mapping) else None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _many(values: Sequence[Any] | None, count: int) -> Sequence[Any]:
    return [None] * count if values is None else values

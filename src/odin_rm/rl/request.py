"""What every way of training asks a reward source, and what it does with the answer.

PPO and ReMax (``rl.collect``), TRL's trainers (``rl.trl_reward``) and the watch (``rl.watch_look``) come through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odin_rm.data.prompts import PromptSet
from odin_rm.rl.records import JudgedResponses, RewardRequest, Rollout
from odin_rm.rl.shaping import ShapedRewards, ShapingSettings, shape_rewards

SAMPLES = 4
"""Responses of a minibatch that ``samples.jsonl`` gets."""


def reward_request(
    prompts: PromptSet, positions: Sequence[int], rollouts: Sequence[Rollout], step: int
) -> RewardRequest:
    """The request for responses to the prompts at these positions of a set, one response each.

    Args:
        prompts: the whole set.
        positions: of each response's prompt in it.
        rollouts: as many responses.
        step: optimiser steps so far.
    """
    return RewardRequest(
        prompts=[prompts.prompts[p] for p in positions],
        responses=[r.text for r in rollouts],
        response_ids=[r.response_ids for r in rollouts],
        response_tokens=tokens_of(rollouts),
        columns={name: [values[p] for p in positions] for name, values in prompts.columns.items()},
        step=step,
        ended=ended(rollouts),
    )


def shape_responses(
    quality_R: np.ndarray,
    rollouts: Sequence[Rollout],
    settings: ShapingSettings,
    positions: Sequence[int] | None = None,
) -> ShapedRewards:
    """:func:`odin_rm.rl.shaping.shape_rewards` with the tokens and endings of these responses.

    Args:
        quality_R: ``(R,)`` quality rewards.
        rollouts: as many responses.
        settings: the constants.
        positions: of each response's prompt, where steps compare the responses to one prompt.
    """
    groups_R = None if positions is None else np.asarray(positions)
    return shape_rewards(quality_R, tokens_of(rollouts), ended(rollouts), settings, groups_R)


def tokens_of(rollouts: Sequence[Rollout]) -> np.ndarray:
    """``(R,)`` ``L(y)``: tokens of each response without its end token."""
    return np.array([r.response_tokens for r in rollouts])


def ended(rollouts: Sequence[Rollout]) -> np.ndarray:
    """``(R,)`` whether the policy wrote an end token."""
    return np.array([r.ended for r in rollouts])


def sample_row(step: int, prompt: Any, rollout: Rollout, judgements: dict[str, Any]) -> dict[str, Any]:
    """One row of ``samples.jsonl``: the response, its length, and the judgements on it, ``None`` where not finite.

    Args:
        step: optimiser step.
        prompt: as the prompt file has it.
        rollout: the response.
        judgements: further columns by name, in their order.
    """
    row = {
        "step": step,
        "prompt": prompt,
        "response": rollout.text,
        "response_tokens": rollout.response_tokens,
        "ended": rollout.ended,
    }
    return row | {name: _finite(value) for name, value in judgements.items()}


def training_row(
    step: int, prompt: Any, rollout: Rollout, *, quality: float, length_reward: float | None, sequence_reward: float
) -> dict[str, Any]:
    """One row of ``samples.jsonl`` on a response that was trained on."""
    judgements = {"quality": quality, "length_reward": length_reward, "sequence_reward": sequence_reward}
    row = sample_row(step, prompt, rollout, judgements)
    return {"step": row.pop("step"), "source": "training", **row}


def source_figures(judged: JudgedResponses) -> dict[str, float]:
    """A source's own metrics, and the means of its columns of numbers, as ``source_<name>``."""
    figures = dict(judged.log_metrics)
    for name, values in judged.log_columns.items():
        numbers = [float(v) for v in values if isinstance(v, (int, float)) and np.isfinite(v)]
        if numbers:
            figures[name] = sum(numbers) / len(numbers)
    return {f"source_{name}": value for name, value in figures.items()}


def _finite(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)

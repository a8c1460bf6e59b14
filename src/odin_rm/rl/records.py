"""The records that travel through a reinforcement-learning step: what was asked, what was written, what it earned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from odin_rm.data.render import Prompt


@dataclass(frozen=True)
class SamplingSettings:
    """How a policy writes.

    Attributes:
        max_new_tokens: most tokens of a response, its end token included.
        temperature: logits are divided by it, in sampling and in the log-probs alike.
        top_p, top_k: cut the distribution; for generation and watching only, never for training (the log-probs would
            be those of another distribution).
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class Rollout:
    """One response of the policy.

    Attributes:
        prompt_ids: the policy's token ids of the rendered prompt, unpadded.
        response_ids: the ids that were written; the last one is the end token where ``ended``.
        ended: the policy wrote an end token (else it was cut at ``max_new_tokens``).
        text: the response as text, without special tokens.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    ended: bool
    text: str

    @property
    def response_tokens(self) -> int:
        """``L(y)`` by the policy's tokenizer: tokens of the response without its end token."""
        return len(self.response_ids) - int(self.ended)


class RolloutEngine(Protocol):
    """Writes responses with the current policy."""

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: SamplingSettings,
        *,
        greedy: Sequence[bool] | None = None,
    ) -> list[Rollout]:
        """One response per prompt, in order; where ``greedy`` is set the most likely token is taken each time."""
        ...

    def update_weights(self, model: Any) -> None:
        """Tell the engine that the policy has changed (nothing to do where it shares the policy's weights)."""
        ...


@dataclass(frozen=True)
class RewardRequest:
    """Responses to be judged.

    Attributes:
        prompts: strings or chat messages, as the prompt file has them (not the policy's rendering).
        responses: texts without special tokens.
        response_ids: the policy's ids, end token included where there is one.
        response_tokens: ``(R,)`` ``L(y)`` by the policy's tokenizer, without the end token.
        columns: further columns of the prompt file, each a list as long as ``prompts``.
        step: optimiser steps done so far.
        ended: ``(R,)`` whether the policy wrote an end token; ``None`` where all have.
    """

    prompts: list[Prompt]
    responses: list[str]
    response_ids: list[list[int]]
    response_tokens: np.ndarray
    columns: dict[str, list[Any]] = field(default_factory=dict)
    step: int = 0
    ended: np.ndarray | None = None


@dataclass(frozen=True)
class JudgedResponses:
    """What a reward source says of responses.

    Attributes:
        quality: ``(R,)`` float64, reward units of the source; NaN where the source has none.
        length_for_log: ``(R,)`` length reward of a disentangled model, for the log only: nothing may train on it.
        tokens: ``(R,)`` response tokens by the source's own tokenizer, where it has one.
        log_columns: what a function or server wants shown beside each response, lists of ``R`` values by name.
        log_metrics: what a function wants logged, by name.
    """

    quality: np.ndarray
    length_for_log: np.ndarray | None = None
    tokens: np.ndarray | None = None
    log_columns: dict[str, list[Any]] = field(default_factory=dict)
    log_metrics: dict[str, float] = field(default_factory=dict)


class RewardSource(Protocol):
    """The only door through which rewards come into training.

    Attributes:
        name: what to call it in logs.
        reward_mean, reward_std: statistics stored with a reward model of ours, or ``None``.
    """

    name: str
    reward_mean: float | None
    reward_std: float | None

    def judge(self, request: RewardRequest) -> JudgedResponses:
        """The quality of each response.

        Raises:
            RewardSourceError: the source cannot answer (a server that died, a callable that raised, a wrong count).
        """
        ...

"""What the functions for all trainers share: a source of quality, and the steps from it to the reward."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError
from odin_rm.data.render import Prompt, Reply
from odin_rm.model.scoring import Scorer
from odin_rm.rl.records import JudgedResponses, RewardRequest, RewardSource
from odin_rm.rl.reward_source import load_reward_source
from odin_rm.rl.shaping import ShapedRewards, ShapingSettings, shape_rewards
from odin_rm.rl.sources.model import ModelSource
from odin_rm.rl.sources.preference import PreferenceSource

STEPS = tuple(item.name for item in fields(ShapingSettings) if item.name not in ("mean", "std"))
_STANDARDISE = ("none", "model")


@dataclass(frozen=True)
class Written:
    """Responses that a trainer has had written.

    Attributes:
        prompts: strings or chat messages.
        responses: strings or chat messages.
        ids: the policy's token ids, end token included; ``None`` where the trainer does not tell.
        columns: further columns of the data, a list each.
        step: optimiser steps so far.
        ended: whether each response has ended, where the trainer's text tells.
    """

    prompts: Sequence[Prompt]
    responses: Sequence[Reply]
    ids: Sequence[Sequence[int]] | None = None
    columns: dict[str, list[Any]] | None = None
    step: int = 0
    ended: Sequence[bool] | None = None


class SharedReward:
    """Quality by a source, and the steps of :mod:`odin_rm.rl.shaping` behind it. Threads come one after the other.

    Args:
        model: a :class:`~odin_rm.model.scoring.Scorer`, or what ``odin-rm rl --reward`` takes.
        standardise: ``model`` for the mean and deviation stored with the model, ``none`` for neither.
        preference_reference: column of reference answers, see :class:`PreferenceSource`.
        end_token_ids: ids that end a response; a response without one at its end was cut. ``None``: all have ended.
        policy_tokenizer: what an address is told prompts and responses with.
        texts_tell_end: the trainer's texts hold the end token.
        steps: constants of :class:`~odin_rm.rl.shaping.ShapingSettings`.
        load: of :func:`~odin_rm.rl.reward_source.load_reward_source`.

    Raises:
        OdinError: the model cannot be loaded, a step is unknown or would do nothing.
    """

    def __init__(
        self,
        model: Scorer | str | Path,
        *,
        standardise: str = "none",
        preference_reference: str | None = None,
        end_token_ids: Sequence[int] | None = None,
        policy_tokenizer: Any = None,
        texts_tell_end: bool = False,
        steps: dict[str, Any],
        load: dict[str, Any],
    ) -> None:
        unknown = next((name for name in steps if name not in STEPS), None)
        if unknown is not None:
            raise ConfigError(f"there is no step '{unknown}'", where="shaping", fix=f"Known: {', '.join(STEPS)}.")
        if standardise not in _STANDARDISE:
            raise ConfigError(f"is '{standardise}'", where="standardise", fix="Use model or none.")
        self.shaping = ShapingSettings(**steps)
        if self.shaping.missing_end_penalty and end_token_ids is None and not texts_tell_end:
            fix = "Give end_token_ids, for example [tokenizer.eos_token_id]."
            raise ConfigError("nothing says which responses ended", where="missing_end_penalty", fix=fix)
        self.end_token_ids = None if end_token_ids is None else frozenset(map(int, end_token_ids))
        source: RewardSource = (
            ModelSource(model)
            if isinstance(model, Scorer)
            else load_reward_source(str(model), policy_tokenizer=policy_tokenizer, **load)
        )
        if standardise == "model":
            self.shaping = replace(self.shaping, **dict[str, Any](_stored(source)))
        if preference_reference is not None:
            if standardise == "model":
                what = "has no effect on a preference, which is no quality reward any more"
                raise ConfigError(what, where="standardise", fix="Leave it out.")
            source = PreferenceSource(source, preference_reference, tokenizer=policy_tokenizer)
        self.source = source
        self._lock = threading.Lock()

    @property
    def compares(self) -> bool:
        """Whether a step compares the responses to one prompt, so that they must come together."""
        return bool(self.shaping.group_length_rescaling)

    def __call__(self, written: Written) -> tuple[ShapedRewards, JudgedResponses]:
        """Every step of the rewards, and what the source said.

        Raises:
            RewardSourceError: the source cannot answer.
        """
        ended_R = self._ended(written)
        tokens_R = None
        if written.ids is not None:
            tokens_R = np.array([len(ids) for ids in written.ids]) - (ended_R & (self.end_token_ids is not None))
        request = RewardRequest(
            prompts=list(written.prompts),
            responses=list(written.responses),  # type: ignore[arg-type]
            response_ids=[list(ids) for ids in written.ids or [()] * len(written.responses)],
            response_tokens=np.zeros(len(written.responses), int) if tokens_R is None else tokens_R,
            columns=written.columns or {},
            step=written.step,
            ended=ended_R,
        )
        with self._lock:
            judged = self.source.judge(request)
        if tokens_R is None:
            tokens_R = judged.tokens
        if tokens_R is None:
            if self._counts:
                what = "neither the trainer nor the reward source says how long responses are"
                raise ConfigError(what, where="shaping", fix="Leave the steps out that depend on length.")
            tokens_R = np.zeros(len(written.responses))
        shaped = shape_rewards(judged.quality, tokens_R, ended_R, self.shaping, groups_of(written.prompts))
        return shaped, judged

    @property
    def _counts(self) -> bool:
        """Whether a step depends on length."""
        shaping = self.shaping
        return bool(shaping.length_penalty or shaping.overlong_penalty or shaping.group_length_rescaling)

    def _ended(self, written: Written) -> np.ndarray:
        if written.ended is not None:
            return np.array(written.ended, dtype=bool)
        if self.end_token_ids is None or written.ids is None:
            return np.ones(len(written.responses), dtype=bool)
        return np.array([len(ids) > 0 and int(ids[-1]) in self.end_token_ids for ids in written.ids], dtype=bool)


def groups_of(prompts: Sequence[Prompt]) -> np.ndarray:
    """``(R,)`` a number for each prompt, equal for equal prompts."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(repr(prompt), len(numbers)) for prompt in prompts], dtype=int)


def _stored(source: RewardSource) -> dict[str, float]:
    if source.reward_mean is None or not source.reward_std:
        what = f"the reward source {source.name} has no mean and deviation stored"
        raise ConfigError(what, where="standardise", fix="Use none, or a model that odin-rm reward has trained.")
    return {"mean": float(source.reward_mean), "std": float(source.reward_std)}

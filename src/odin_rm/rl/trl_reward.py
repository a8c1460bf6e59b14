"""A reward source with the shaping of ``odin-rm rl``, as a reward function of TRL's online trainers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import NumericalError
from odin_rm.core.files import append_jsonl
from odin_rm.core.ranks import fail_on_all_ranks, is_main_process
from odin_rm.data.prompts import PromptSet
from odin_rm.rl.records import JudgedResponses, RewardSource, Rollout
from odin_rm.rl.request import SAMPLES, reward_request, shape_responses, source_figures, training_row
from odin_rm.rl.shaping import ShapedRewards, ShapingSettings


class ShapedReward:
    """Sequence rewards of what TRL has had written; its prompts are positions in a prompt set, as text.

    Args:
        source: where quality comes from.
        prompts: what the positions stand for.
        shaping: the steps from quality reward to sequence reward.
        end_token_ids: tokens that end a response.
        skip_bad_rewards: a reward that is not finite leaves its response out instead of ending the run.
        samples: gets a few responses every ``sample_steps`` steps.
        sample_steps: 0 for none.
        collection_steps: optimiser steps between two calls.
    """

    __name__ = "sequence"

    def __init__(
        self,
        source: RewardSource,
        prompts: PromptSet,
        shaping: ShapingSettings,
        *,
        end_token_ids: Collection[int],
        skip_bad_rewards: bool = False,
        samples: Path | None = None,
        sample_steps: int = 0,
        collection_steps: int = 1,
    ) -> None:
        self.source, self.prompts, self.shaping = source, prompts, shaping
        self.end_token_ids, self.skip_bad_rewards = set(end_token_ids), skip_bad_rewards
        self.samples, self.sample_steps, self.collection_steps = samples, sample_steps, collection_steps

    def __call__(
        self,
        *,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        trainer_state: Any,
        log_metric: Any,
        **others: Any,
    ) -> list[float | None]:
        """One sequence reward for each response; ``None`` leaves one out.

        Raises:
            RewardSourceError: the source does not answer.
            NumericalError: a reward is not finite and may not be skipped, or none is finite.
        """
        positions = [int(position) for position in prompts]
        rollouts = [
            Rollout([], list(ids), ended=bool(ids) and ids[-1] in self.end_token_ids, text=text)
            for ids, text in zip(completion_ids, completions, strict=True)
        ]
        with fail_on_all_ranks():  # one process's failure ends all of them; the others would wait for its rewards
            judged = self.judge(positions, rollouts, trainer_state.global_step)
            shaped = shape_responses(judged.quality, rollouts, self.shaping, positions)
            usable_R = np.isfinite(shaped.sequence_R)
            self._check(usable_R)
        self._log(log_metric, rollouts, judged, shaped, usable_R)
        self._write_samples(positions, rollouts, judged, shaped, trainer_state)
        return [float(x) if usable else None for x, usable in zip(shaped.sequence_R, usable_R, strict=True)]

    def _check(self, usable_R: np.ndarray) -> None:
        if not usable_R.all() and (not self.skip_bad_rewards or not usable_R.any()):
            raise NumericalError(
                f"{(~usable_R).sum()} of {len(usable_R)} rewards are not finite",
                where=self.source.name,
                fix="Mend the source and go on with --resume_from_checkpoint true, or pass --on_bad_reward skip.",
            )

    def judge(self, positions: Sequence[int], rollouts: Sequence[Rollout], step: int) -> JudgedResponses:
        """What the source says of responses to prompts of the set."""
        return self.source.judge(reward_request(self.prompts, positions, rollouts, step))

    def _log(
        self,
        log_metric: Any,
        rollouts: list[Rollout],
        judged: JudgedResponses,
        shaped: ShapedRewards,
        usable_R: np.ndarray,
    ) -> None:
        log_metric("mean_response_tokens", float(np.mean([r.response_tokens for r in rollouts])))
        means = shaped.log()
        log_metric("mean_quality_reward", means.pop("quality_reward"))
        if judged.length_for_log is not None:
            log_metric("mean_length_reward", float(np.nanmean(judged.length_for_log)))
        log_metric("ended_share", float(np.mean([r.ended for r in rollouts])))
        log_metric("cut_responses", float(sum(not r.ended for r in rollouts)))
        log_metric("bad_rewards", float((~usable_R).sum()))
        for name, value in (means | source_figures(judged)).items():
            log_metric(name, value)

    def _write_samples(
        self,
        positions: list[int],
        rollouts: list[Rollout],
        judged: JudgedResponses,
        shaped: ShapedRewards,
        trainer_state: Any,
    ) -> None:
        done = trainer_state.global_step
        due = self.sample_steps and (done + self.collection_steps) // self.sample_steps > done // self.sample_steps
        if self.samples is None or not due or not is_main_process():
            return
        length_R = judged.length_for_log
        for i, (position, rollout) in enumerate(zip(positions[:SAMPLES], rollouts, strict=False)):
            row = training_row(
                done + 1,  # the step that learns from it first
                self.prompts.prompts[position],
                rollout,
                quality=shaped.quality_R[i],
                length_reward=None if length_R is None else length_R[i],
                sequence_reward=shaped.sequence_R[i],
            )
            append_jsonl(self.samples, row)

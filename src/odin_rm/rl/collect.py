"""Collecting experiences: write, judge, shape, read the old and the reference policy, work out advantages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from odin_rm.core.errors import NumericalError
from odin_rm.data.prompts import PromptSet
from odin_rm.model.policy import ResponseBatch, collate_responses
from odin_rm.objectives.kl import kl_estimate
from odin_rm.objectives.returns import masked_moments, mean_and_std, token_rewards, whiten
from odin_rm.rl.experience import CollectedRewards, Experience, Minibatch, pad_stack, unpad
from odin_rm.rl.ranks import Ranks
from odin_rm.rl.records import RewardSource, Rollout, RolloutEngine, SamplingSettings
from odin_rm.rl.request import reward_request, shape_responses, source_figures
from odin_rm.rl.shaping import ShapedRewards, ShapingSettings

OldPass = Callable[[ResponseBatch], tuple[Tensor, Tensor | None]]
ReferencePass = Callable[[ResponseBatch], Tensor]


class Algorithm(Protocol):
    """What PPO and ReMax have in common, and an algorithm of one's own must have.

    Attributes:
        needs_critic: it learns from values.
        needs_greedy: each prompt gets a greedy response too, whose reward is in ``CollectedRewards``.
    """

    needs_critic: bool
    needs_greedy: bool

    @property
    def whiten_advantages(self) -> bool:
        """Whether advantages are whitened over the collection."""
        ...

    def advantages(self, collected: CollectedRewards) -> tuple[Tensor, Tensor]:
        """``(B, T)`` advantages and returns of all responses of this rank's prompts; they may be compared."""
        ...

    def loss(
        self, policy_log_probs_BT: Tensor, values_BT: Tensor | None, rows: Minibatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its parts, as weighted sums."""
        ...


@dataclass
class Collection:
    """Experiences of one policy, and what their making cost.

    Attributes:
        experiences: this rank's responses.
        log: figures of the whole collection over all ranks.
        seconds: time of each part on this rank.
    """

    experiences: list[Experience]
    log: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Collector:
    """Makes experiences; see :meth:`collect`. All members are set once, ``shaping`` after the reference is measured."""

    prompts: PromptSet
    prompt_ids: list[list[int]]
    engine: RolloutEngine
    sampling: SamplingSettings
    source: RewardSource
    algorithm: Algorithm
    shaping: ShapingSettings
    old_pass: OldPass
    reference_pass: ReferencePass
    ranks: Ranks
    pad_token_id: int
    microbatch_tokens: int
    kl_estimator: str
    kl_in_reward: bool
    skip_bad_rewards: bool
    device: torch.device
    responses_per_prompt: int = 1
    source_log: dict[str, float] = field(default_factory=dict)
    """What the source itself wanted logged with its last answer, on this rank."""

    def collect(self, positions: Sequence[int], kl_coef: float, step: int) -> Collection:
        """``responses_per_prompt`` responses (and for ReMax a greedy one) to each prompt of this rank.

        Args:
            positions: this rank's prompts.
            kl_coef: ``beta`` for the KL in the reward.
            step: optimiser steps so far, for the reward source.

        Raises:
            RewardSourceError: the source does not answer.
            NumericalError: a reward is not finite and may not be skipped.
        """
        seconds: dict[str, float] = {}
        count = len(positions) * self.responses_per_prompt
        prompts = [position for position in positions for _ in range(self.responses_per_prompt)]
        prompts += positions if self.algorithm.needs_greedy else []
        with _clock(seconds, "generate"):
            rollouts = self._write(prompts, count)
        with _clock(seconds, "score"):
            shaped, length_for_log_B, greedy_B = self._judge(prompts, rollouts, count, step)
        usable_B = np.isfinite(shaped.sequence_R)
        if greedy_B is not None:
            usable_B &= np.isfinite(greedy_B)
        self._check(usable_B)
        with _clock(seconds, "forward"):
            old, reference, values = self._read(rollouts[:count])
        experiences = [
            Experience(
                prompt=int(position),
                rollout=rollout,
                quality=float(shaped.quality_R[i]),
                length_for_log=float(length_for_log_B[i]),
                sequence_reward=float(shaped.sequence_R[i]),
                usable=bool(usable_B[i]),
                old_log_probs=old[i],
                reference_log_probs=reference[i],
                old_values=values[i],
                advantages=np.zeros(0, np.float32),
                returns=np.zeros(0, np.float32),
            )
            for i, (position, rollout) in enumerate(zip(prompts[:count], rollouts[:count], strict=True))
        ]
        sums = self._work_out_advantages(experiences, greedy_B, kl_coef)
        sums["cut_responses"] = float(sum(not rollout.ended for rollout in rollouts[:count]))
        return Collection(experiences, self._log(shaped, usable_B, greedy_B, sums), seconds)

    def judge(self, positions: Sequence[int], rollouts: Sequence[Rollout], step: int) -> tuple[np.ndarray, np.ndarray]:
        """``(R,)`` quality and length reward (NaN without one) of responses to prompts of the set."""
        request = reward_request(self.prompts, positions, rollouts, step)
        judged = self.source.judge(request)
        self.source_log = source_figures(judged)
        length_for_log = judged.length_for_log
        return judged.quality, np.full(len(rollouts), np.nan) if length_for_log is None else length_for_log

    # ---- the parts, in their order -----------------------------------------------------------------------------------

    def _write(self, prompts: Sequence[int], count: int) -> list[Rollout]:
        """A response to each prompt: ``count`` sampled ones, then greedy ones in the same batches."""
        ids = [self.prompt_ids[p] for p in prompts]
        if len(ids) == count:
            return self.engine.generate(ids, self.sampling)
        return self.engine.generate(ids, self.sampling, greedy=[place >= count for place in range(len(ids))])

    def _judge(
        self, prompts: Sequence[int], rollouts: list[Rollout], count: int, step: int
    ) -> tuple[ShapedRewards, np.ndarray, np.ndarray | None]:
        """Shaped and length rewards of the sampled responses; the greedy one's, once for each response it is beside."""
        quality, length_for_log = self.judge(prompts, rollouts, step)
        # All at once: rescaling by length measures a prompt's sampled and greedy responses by one mean.
        shaped = shape_responses(quality, rollouts, self.shaping, prompts)
        greedy_R = shaped.sequence_R[count:]
        greedy_B = np.repeat(greedy_R, self.responses_per_prompt) if len(greedy_R) else None
        return shaped.select(slice(count)), length_for_log[:count], greedy_B

    def _check(self, usable_B: np.ndarray) -> None:
        bad = self.ranks.sums({"bad": float((~usable_B).sum()), "all": float(len(usable_B))})
        if bad["bad"] and (not self.skip_bad_rewards or bad["bad"] == bad["all"]):
            raise NumericalError(
                f"{bad['bad']:.0f} of {bad['all']:.0f} rewards are not finite",
                where=self.source.name,
                fix="Mend the reward source and resume the run, or pass --on_bad_reward skip.",
            )

    @torch.no_grad()
    def _read(self, rollouts: list[Rollout]) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Log-probs of the old and the reference policy and the critic's values, micro-batch by micro-batch."""
        old, reference, values = ([np.zeros(0)] * len(rollouts) for _ in range(3))
        tokens = np.array([len(r.prompt_ids) + len(r.response_ids) for r in rollouts])
        for part in self.ranks.micro_batches(tokens, self.microbatch_tokens):
            rows = [rollouts[int(i)] for i in part]
            lengths = [len(r.response_ids) for r in rows]
            batch = collate_responses([r.prompt_ids for r in rows], [r.response_ids for r in rows], self.pad_token_id)
            batch = batch.to(self.device)
            old_BT, values_BT = self.old_pass(batch)
            reference_BT = self.reference_pass(batch)
            values_BT = torch.zeros_like(old_BT) if values_BT is None else values_BT
            for table, out in ((old_BT, old), (reference_BT, reference), (values_BT, values)):
                for position, row in zip(part, unpad(table, lengths), strict=True):
                    out[int(position)] = row
        return old, reference, values

    def _work_out_advantages(
        self, experiences: list[Experience], greedy_B: np.ndarray | None, kl_coef: float
    ) -> dict[str, float]:
        """Token rewards, advantages and returns of every experience, in float32 on the CPU; gives sums for the log."""
        old_BT = pad_stack([e.old_log_probs for e in experiences])
        reference_BT = pad_stack([e.reference_log_probs for e in experiences])
        values_BT = pad_stack([e.old_values for e in experiences])
        mask_BT = pad_stack([np.ones(e.action_tokens) for e in experiences])
        mask_BT = torch.nn.functional.pad(mask_BT, (0, old_BT.shape[1] - mask_BT.shape[1])).bool()
        sequence_B = torch.tensor([e.sequence_reward if e.usable else 0.0 for e in experiences])
        kl_BT = kl_estimate(old_BT, reference_BT, self.kl_estimator) * mask_BT
        rewards_BT = token_rewards(sequence_B, kl_BT, mask_BT, kl_coef if self.kl_in_reward else 0.0)
        baseline_B = None if greedy_B is None else torch.from_numpy(np.nan_to_num(greedy_B)).float()
        prompt_B = torch.tensor([e.prompt for e in experiences])
        collected = CollectedRewards(rewards_BT, values_BT, mask_BT, prompt_B, baseline_B)
        advantages_BT, returns_BT = self.algorithm.advantages(collected)
        if self.algorithm.whiten_advantages:
            moments = masked_moments(advantages_BT, mask_BT)
            if self.ranks.size > 1:
                moments = moments.to(self.device)
                torch.distributed.all_reduce(moments)
            advantages_BT = whiten(advantages_BT, mask_BT, *mean_and_std(moments.cpu()))
        lengths = [len(e.rollout.response_ids) for e in experiences]
        pairs = zip(experiences, unpad(advantages_BT, lengths), unpad(returns_BT, lengths), strict=True)
        for experience, advantages, returns in pairs:
            experience.advantages, experience.returns = advantages, returns
        return {"kl_reward": float(kl_BT.sum()) * (kl_coef if self.kl_in_reward else 0.0)}

    def _log(
        self, shaped: ShapedRewards, usable_B: np.ndarray, greedy_B: np.ndarray | None, sums: dict[str, float]
    ) -> dict[str, float]:
        """Means over the usable responses of all ranks, one figure for each step of the shaping; how many were cut."""
        steps = shaped.steps()
        if greedy_B is not None:
            steps["greedy_sequence_reward"] = greedy_B
        totals = {name: float(values[usable_B].sum()) for name, values in steps.items()}
        counts = {"usable": float(usable_B.sum()), "cut_responses": sums["cut_responses"]}
        totals = self.ranks.sums(totals | {"kl_cost": sums["kl_reward"]} | counts)
        count, cut = max(1.0, totals.pop("usable")), totals.pop("cut_responses")
        means = {name: value / count for name, value in totals.items()}
        return means | {"cut_responses": cut} | self.source_log


class _clock:
    """Adds the seconds of its block to a table."""

    def __init__(self, table: dict[str, float], name: str) -> None:
        self.table, self.name = table, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *exc: Any) -> None:
        self.table[self.name] = self.table.get(self.name, 0.0) + time.perf_counter() - self.began

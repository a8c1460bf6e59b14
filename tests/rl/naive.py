"""PPO and ReMax once more, naively: one response and one token at a time, with numbers of this file alone.

Nothing of ``odin_rm.rl`` or ``odin_rm.objectives`` is asked but the order of prompts and minibatches. A run of the real
loop with the same responses must end in the same weights, whatever is set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odin_rm.rl.config import RLConfig
from odin_rm.rl.records import JudgedResponses, RewardRequest, Rollout, SamplingSettings
from odin_rm.rl.trainer import minibatch_plan, prompt_positions

END = 2


class FixedEngine:
    """Writes responses that only the number of the call and of the row decide; some end, some do not.

    Attributes:
        asked: the sampling settings of each call.
    """

    def __init__(self) -> None:
        self.asked: list[SamplingSettings] = []

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], sampling: SamplingSettings, *, greedy: Sequence[bool] | None = None
    ) -> list[Rollout]:
        rng = np.random.default_rng([7, len(self.asked)])
        self.asked.append(sampling)
        return [self._write(list(ids), rng) for ids in prompt_ids]

    def _write(self, prompt: list[int], rng: np.random.Generator) -> Rollout:
        ids = rng.integers(10, 60, rng.integers(2, 7)).tolist()
        ended = bool(rng.random() < 0.6)
        return Rollout(prompt, [*ids, END] if ended else ids, ended, " ".join(map(str, ids)))

    def update_weights(self, model: Any) -> None:
        pass


class FixedSource:
    """Rewards that only the text decides; ``bad`` are judged as not a number."""

    name, reward_mean, reward_std = "fixed", 0.5, 2.0

    def __init__(self, bad: Sequence[int] = ()) -> None:
        self.bad = set(bad)
        self.judged = 0

    def quality(self, text: str) -> float:
        return 3.0 * math.sin(sum(map(int, text.split()))) + 0.4 * len(text.split())

    def judge(self, request: RewardRequest) -> JudgedResponses:
        numbers = range(self.judged, self.judged + len(request.responses))
        self.judged += len(request.responses)
        values = [
            math.nan if k in self.bad else self.quality(t) for k, t in zip(numbers, request.responses, strict=True)
        ]
        return JudgedResponses(np.array(values))


@dataclass
class Seen:
    """A response with all that is known of it when it is learnt from; tokens are in their order."""

    rollout: Rollout
    old: list[float]
    reference: list[float]
    values: list[float]
    advantages: list[float]
    returns: list[float]
    usable: bool


class NaiveRun:
    """The same run, written down as the papers have it.

    Args:
        config: the settings.
        parts: policy, reference, critic and prompts as they are before the run; copied.

    Attributes:
        rows: what each step should log.
    """

    def __init__(self, config: RLConfig, parts: Any, source: FixedSource) -> None:
        self.config, self.source, self.engine = config, source, FixedEngine()
        self.policy, self.reference = copy.deepcopy(parts.policy), copy.deepcopy(parts.reference)
        self.critic = copy.deepcopy(parts.critic)
        self.prompt_ids = parts.prompt_ids
        groups = [{"params": list(model.parameters())} for model in (self.policy, self.critic) if model is not None]
        self.optimiser = torch.optim.AdamW(
            groups,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )
        self.beta, self.used = config.kl_coef, 0
        self.mean, self.std = {"model": (source.reward_mean, source.reward_std)}.get(
            str(config.standardise), (0.0, 1.0)
        )
        self.rows: list[dict[str, float]] = []

    def run(self) -> None:
        if self.config.standardise == "reference":
            positions = prompt_positions(len(self.prompt_ids), self.config.seed, 0, self.config.standardise_responses)
            quality = [self.source.quality(r.text) for r in self._write(positions)]
            self.mean, self.std = float(np.mean(quality)), float(np.std(quality))
        plan: list[list[int]] = []
        for step in range(self.config.max_steps):
            row: dict[str, float] = {}
            if not plan:
                seen, plan, row = self._collect()
            row |= self._step(step, [seen[k] for k in plan.pop(0)])
            self.rows.append(row | {"kl_coef": self.beta})

    # ---- collecting --------------------------------------------------------------------------------------------------

    def _write(self, positions: Sequence[int]) -> list[Rollout]:
        return self.engine.generate([self.prompt_ids[p] for p in positions], SamplingSettings())

    def _collect(self) -> tuple[list[Seen], list[list[int]], dict[str, float]]:
        config, remax = self.config, self.config.algorithm == "remax"
        n, b = config.responses_per_collection, config.minibatch_size
        group = config.responses_per_prompt
        prompts = prompt_positions(len(self.prompt_ids), config.seed, self.used, n // group)
        positions = [prompt for prompt in prompts for _ in range(group)] + (prompts if remax else [])
        written = self._write(positions)
        judged = self.source.judge(RewardRequest([], [r.text for r in written], [], np.zeros(0))).quality
        factors = self._length_factors(positions, written)
        sequence = [self._shape(q, r, f) for q, r, f in zip(judged, written, factors, strict=True)]
        seen, kl_cost, sequences = [], 0.0, 0.0
        for k in range(n):
            baseline = sequence[n + k // group] if remax else 0.0
            usable = math.isfinite(sequence[k]) and math.isfinite(baseline)
            one, cost = self._look_back(written[k], sequence[k], baseline, usable)
            seen.append(one)
            kl_cost += cost * usable
            sequences += sequence[k] if usable else 0.0
        usable_count = sum(one.usable for one in seen)
        if not remax and config.whiten_advantages:
            _whiten(seen)
        plan = minibatch_plan(n, b, config.ppo_epochs, [config.seed, self.used, 0])
        self.used += n // group
        if config.kl_target is not None:
            kl = sum(sum(one.old) - sum(one.reference) for one in seen if one.usable) / usable_count
            error = min(max(kl / config.kl_target - 1, -0.2), 0.2)
            self.beta *= 1 + error * n / config.kl_horizon
        return seen, plan, {"kl_cost": kl_cost / usable_count, "sequence_reward": sequences / usable_count}

    def _length_factors(self, positions: list[int], written: list[Rollout]) -> list[float]:
        """What GR3 multiplies a positive reward by: the mean length is of all responses to the prompt."""
        gamma, tokens = self.config.group_length_rescaling, [len(r.text.split()) for r in written]
        factors = []
        for position, length in zip(positions, tokens, strict=True):
            group = [other for p, other in zip(positions, tokens, strict=True) if p == position]
            factors.append((1 + gamma) / (1 + gamma * length * len(group) / sum(group)))
        return factors

    def _shape(self, quality: float, rollout: Rollout, factor: float) -> float:
        standardised = (quality - self.mean) / self.std
        if math.isfinite(standardised):
            standardised = max(-self.config.reward_clip, min(self.config.reward_clip, standardised))
            standardised *= factor if standardised > 0 else 1 / factor
        tokens = len(rollout.text.split())
        return (
            standardised - self.config.length_penalty * tokens - self.config.missing_end_penalty * (not rollout.ended)
        )

    def _look_back(self, rollout: Rollout, sequence: float, baseline: float, usable: bool) -> tuple[Seen, float]:
        """A response with advantages, before whitening; and what its KL costs."""
        config = self.config
        with torch.no_grad():
            old = self._log_probs(self.policy, rollout).tolist()
            reference = self._log_probs(self.reference, rollout).tolist()
            values = [0.0] * len(old) if self.critic is None else self._values(rollout).tolist()
        tokens = len(old)
        beta = self.beta if config.kl_place == "reward" else 0.0
        costs = [beta * float(self._kl(o - r)) for o, r in zip(old, reference, strict=True)]
        if not usable:
            nothing = [0.0] * tokens
            return Seen(rollout, old, reference, values, nothing, nothing, False), 0.0
        rewards = [-cost for cost in costs]
        rewards[-1] += sequence
        advantages, returns, running = [0.0] * tokens, [0.0] * tokens, 0.0
        for t in reversed(range(tokens)):
            if config.algorithm == "remax":
                running = rewards[t] + config.gamma * running
                advantages[t] = returns[t] = running - baseline
            else:
                following = values[t + 1] if t + 1 < tokens else 0.0
                delta = rewards[t] + config.gamma * following - values[t]
                running = delta + config.gamma * config.gae_lambda * running
                advantages[t], returns[t] = running, running + values[t]
        return Seen(rollout, old, reference, values, advantages, returns, True), sum(costs)

    def _kl(self, difference: Any) -> Any:
        """Of a token, from the difference of log-probs; a number or a tensor."""
        if self.config.kl_estimator == "k1":
            return difference
        if self.config.kl_estimator == "k2":
            return difference**2 / 2
        return torch.exp(-torch.as_tensor(difference)) - 1 + difference

    # ---- learning ----------------------------------------------------------------------------------------------------

    def _step(self, step: int, seen: list[Seen]) -> dict[str, float]:
        config = self.config
        usable = [one for one in seen if one.usable]
        tokens = sum(len(one.old) for one in usable)
        loss = torch.stack([self._loss(one) for one in usable]).sum() / tokens
        self.optimiser.zero_grad()
        loss.backward()
        models = [self.policy] + ([] if self.critic is None else [self.critic])
        rates = [config.learning_rate, config.critic_learning_rate]
        for model, group, rate in zip(models, self.optimiser.param_groups, rates, strict=False):
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            if 0 < config.max_grad_norm < norm:
                for gradient in gradients:
                    gradient.mul_(config.max_grad_norm / norm)
            group["lr"] = rate * self._schedule(step)
        learns = step >= config.critic_warmup_steps
        if not learns:
            self.policy.zero_grad(set_to_none=True)
        self.optimiser.step()
        rate = config.learning_rate * self._schedule(step) if learns else 0.0
        return {"loss": float(loss.detach()), "learning_rate": rate}

    def _loss(self, one: Seen) -> Tensor:
        """Of one response, summed over its tokens."""
        config = self.config
        new = self._log_probs(self.policy, one.rollout)
        advantages, old, reference = (torch.tensor(x) for x in (one.advantages, one.old, one.reference))
        if config.algorithm == "remax":
            loss = -(advantages * new).sum()
        else:
            ratio = torch.exp(new - old)
            clipped = torch.clamp(ratio, 1 - config.clip_epsilon, 1 + config.clip_epsilon)
            values, returns, before = self._values(one.rollout), torch.tensor(one.returns), torch.tensor(one.values)
            errors = (values - returns) ** 2
            if config.value_clip > 0:
                near = before + torch.clamp(values - before, -config.value_clip, config.value_clip)
                errors = torch.maximum(errors, (near - returns) ** 2)
            loss = -torch.minimum(ratio * advantages, clipped * advantages).sum() + config.value_coef * errors.sum() / 2
        if config.kl_place == "loss":
            loss = loss + self.beta * self._kl(new - reference).sum()
        return loss

    def _schedule(self, step: int) -> float:
        if self.config.lr_scheduler_type == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / self.config.max_steps))
        return min(1.0, step / self.config.warmup_steps) if self.config.warmup_steps else 1.0

    # ---- the models, one response at a time --------------------------------------------------------------------------

    def _log_probs(self, model: Any, rollout: Rollout) -> Tensor:
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids]])
        logits = model(input_ids=ids).logits[0] / self.config.temperature
        start = len(rollout.prompt_ids)
        return torch.stack(
            [torch.log_softmax(logits[start + t - 1], -1)[token] for t, token in enumerate(rollout.response_ids)]
        )

    def _values(self, rollout: Rollout) -> Tensor:
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids]])
        states = self.critic.backbone(input_ids=ids).last_hidden_state[0]
        start = len(rollout.prompt_ids)
        return self.critic.head(states[start - 1 : start - 1 + len(rollout.response_ids)])[:, 0]


def _whiten(seen: list[Seen]) -> None:
    every = np.array([x for one in seen if one.usable for x in one.advantages])
    for one in seen:
        if one.usable:
            one.advantages = ((np.array(one.advantages) - every.mean()) / math.sqrt(every.var(ddof=1) + 1e-8)).tolist()

"""One optimiser step on a minibatch: forward, loss, backward, micro-batch by micro-batch; then one clipped step.

The gradient is that of the mean over all response tokens of the minibatch, whatever the split into micro-batches and
ranks: each token weighs ``1 / (tokens of the whole minibatch)``, and the averaging of data parallelism is undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odin_rm.core.errors import NumericalError
from odin_rm.objectives.kl import kl_estimate
from odin_rm.rl.actor_critic import ActorCritic
from odin_rm.rl.collect import Algorithm
from odin_rm.rl.experience import Experience, make_minibatch
from odin_rm.rl.ranks import Ranks


@dataclass
class Learner:
    """The optimiser step; see :meth:`step`. All members are set once.

    Attributes:
        model: the :class:`ActorCritic` as accelerate has wrapped it.
        plain_model: the same without the wrapper.
        kl_in_loss: the KL's estimator is a term of the loss, weighed by the coefficient given to :meth:`step`.
    """

    accelerator: Any
    ranks: Ranks
    model: Any
    plain_model: ActorCritic
    optimiser: Any
    scheduler: Any
    algorithm: Algorithm
    temperature: float
    kl_estimator: str
    kl_in_loss: bool
    microbatch_tokens: int
    max_grad_norm: float
    pad_token_id: int

    def step(
        self, experiences: Sequence[Experience], kl_coef: float, *, policy_learns: bool = True
    ) -> dict[str, float]:
        """One optimiser step.

        Args:
            experiences: this rank's part of the minibatch.
            kl_coef: ``beta`` for the KL in the loss.
            policy_learns: false while the critic warms up.

        Returns:
            Loss parts as means over tokens, gradient norms, learning rate.

        Raises:
            NumericalError: loss or gradient is not finite; the weights are as they were (under DeepSpeed, which has
                stepped before its norm can be read, where the loss is not finite).
        """
        self.backward(experiences, kl_coef)
        parts = self._parts
        if self.ranks.deepspeed:
            parts["grad_norm"] = float(self.model.get_global_grad_norm() or 0.0)
        else:
            parts["policy_grad_norm"] = self._clip(self.plain_model.policy)
            if self.plain_model.critic is not None:
                parts["critic_grad_norm"] = self._clip(self.plain_model.critic)
        self._check(parts)
        if not policy_learns:
            for parameter in self.plain_model.policy.parameters():
                parameter.grad = None
        self.optimiser.step()
        self.scheduler.step()
        self.optimiser.zero_grad(set_to_none=True)
        return parts

    def backward(self, experiences: Sequence[Experience], kl_coef: float) -> None:
        """Leave the gradient of the minibatch in the parameters."""
        tokens = self.ranks.sums({"tokens": float(sum(e.action_tokens for e in experiences))})["tokens"]
        lengths = np.array([len(e.rollout.prompt_ids) + len(e.rollout.response_ids) for e in experiences])
        plan = self.ranks.micro_batches(lengths, self.microbatch_tokens)
        totals: dict[str, Tensor] = {}
        for number, part in enumerate(plan):
            last = number == len(plan) - 1
            rows = make_minibatch(
                [experiences[int(i)] for i in part], int(tokens), self.pad_token_id, self.accelerator.device
            )
            with self._gradient_exchange(last):
                policy_log_probs_BT, entropy_BT, values_BT = self.model(rows.batch, self.temperature, with_entropy=True)
                loss, parts = self.algorithm.loss(policy_log_probs_BT, values_BT, rows)
                if self.kl_in_loss:
                    kl_BT = kl_estimate(policy_log_probs_BT, rows.reference_log_probs_BT, self.kl_estimator)
                    kl_loss = kl_coef * (kl_BT * rows.weights_BT).sum()
                    loss, parts = loss + kl_loss, parts | {"kl_loss": kl_loss.detach()}
                parts = parts | {"loss": loss.detach(), "entropy": (entropy_BT * rows.weights_BT).sum()}
                for name, value in parts.items():
                    totals[name] = (
                        totals.get(name, torch.zeros((), dtype=torch.float64)) + value.detach().double().cpu()
                    )
                if last:
                    self._parts = self.ranks.sums({name: float(value) for name, value in totals.items()})
                    self._check(self._parts)
                # Averaging over ranks divides by their number; every token lives on one rank, so multiply back.
                self.accelerator.backward(loss * self.ranks.size)

    def _check(self, figures: dict[str, float]) -> None:
        if not all(np.isfinite(value) for value in figures.values()):
            self.optimiser.zero_grad(set_to_none=True)
            names = ", ".join(name for name, value in figures.items() if not np.isfinite(value))
            raise NumericalError(
                f"{names} not finite", fix="Lower --learning_rate, or load the model in float32 or bfloat16."
            )

    def _gradient_exchange(self, last: bool) -> Any:
        """Ranks exchange gradients with the last micro-batch only."""
        # DeepSpeed steps inside backward and reads this flag; the other engines are told by no_sync.
        self.accelerator.gradient_state._set_sync_gradients(last)
        return nullcontext() if last or self.ranks.deepspeed else self.accelerator.no_sync(self.model)

    def _clip(self, module: torch.nn.Module) -> float:
        """Clip the gradient of a part on its own, so that the critic's errors do not shrink the policy's steps."""
        parameters = [p for p in module.parameters() if p.grad is not None]
        limit = self.max_grad_norm if self.max_grad_norm > 0 else float("inf")
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

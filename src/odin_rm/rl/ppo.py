"""PPO on the quality reward (ODIN, Algorithm 1; Schulman et al. 2017).

Collect ``N`` responses with the current policy, cut them into minibatches of ``b``, make one clipped update with each.
All but the first update of a collection are stale: their responses come from the old policy, and the ratio to it is
what is clipped. Advantages by GAE from a critic that shares nothing with the policy.

Deviation from the paper's text: advantages may be whitened over the ``N`` responses (``--whiten_advantages``), as its
code base does.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from odin_rm.objectives.policy import ppo_policy_loss, value_loss
from odin_rm.objectives.returns import gae
from odin_rm.rl.experience import CollectedRewards, Minibatch

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class PPO:
    """The algorithm's own numbers; see the fields of the same names in ``RLConfig``."""

    clip_epsilon: float
    value_clip: float
    value_coef: float
    gamma: float
    gae_lambda: float
    whiten_advantages: bool

    needs_critic = True
    needs_greedy = False

    def advantages(self, collected: CollectedRewards) -> tuple[Tensor, Tensor]:
        """``(B, T)`` advantages by GAE and the returns that the critic learns."""
        return gae(collected.token_rewards_BT, collected.values_BT, collected.mask_BT, self.gamma, self.gae_lambda)

    def loss(self, policy_log_probs_BT: Tensor, values_BT: Tensor | None, rows: Minibatch) -> tuple[Tensor, Parts]:
        """The clipped policy loss plus ``value_coef`` times the clipped value loss."""
        assert values_BT is not None
        policy_part, parts = ppo_policy_loss(
            policy_log_probs_BT,
            rows.old_log_probs_BT,
            rows.advantages_BT,
            rows.weights_BT,
            epsilon=self.clip_epsilon,
        )
        value_part, value_parts = value_loss(
            values_BT, rows.old_values_BT, rows.returns_BT, rows.weights_BT, clip=self.value_clip
        )
        parts = parts | value_parts | {"policy_loss": policy_part.detach(), "value_loss": value_part.detach()}
        return policy_part + self.value_coef * value_part, parts

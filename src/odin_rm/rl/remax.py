"""ReMax on the quality reward (Li et al. 2023): REINFORCE with the reward of the greedy response as the baseline.

No critic and no ratio: each response is used once, by the policy that wrote it. Two responses per prompt, a sampled one
that is learnt from and a greedy one that only says what the policy earns there without luck. Of several sampled
responses to a prompt, the greedy one is the baseline of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from odin_rm.objectives.policy import reinforce_loss
from odin_rm.objectives.returns import greedy_baseline_advantages
from odin_rm.rl.experience import CollectedRewards, Minibatch

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class ReMax:
    """The algorithm's own number; see ``RLConfig``."""

    gamma: float

    whiten_advantages = False
    needs_critic = False
    needs_greedy = True

    def advantages(self, collected: CollectedRewards) -> tuple[Tensor, Tensor]:
        """``(B, T)`` return to go minus the greedy response's shaped reward, twice (there is no critic to teach)."""
        assert collected.greedy_B is not None
        advantages_BT = greedy_baseline_advantages(
            collected.token_rewards_BT, collected.greedy_B, collected.mask_BT, self.gamma
        )
        return advantages_BT, advantages_BT

    def loss(self, policy_log_probs_BT: Tensor, values_BT: Tensor | None, rows: Minibatch) -> tuple[Tensor, Parts]:
        """REINFORCE with the advantages of the minibatch."""
        policy_part = reinforce_loss(policy_log_probs_BT, rows.advantages_BT, rows.weights_BT)
        return policy_part, {"policy_loss": policy_part.detach(), "clip_fraction": policy_part.detach() * 0}

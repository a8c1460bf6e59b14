"""Policy and critic as one module, so that every engine of accelerate wraps, shards and steps them together."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from odin_rm.model.critic import Critic
from odin_rm.model.policy import ResponseBatch, base_policy, response_log_probs


class ActorCritic(nn.Module):
    """A policy and, for PPO, a critic.

    Args:
        policy: a causal language model (or a ``PeftModel`` around one).
        critic: values per token, or ``None``.
    """

    def __init__(self, policy: nn.Module, critic: Critic | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        self._no_split_modules = _units(policy, critic)

    def forward(
        self, batch: ResponseBatch, temperature: float = 1.0, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One pass over responses.

        Returns:
            ``(B, T)`` log-probs of the response tokens, entropies (nats, no gradient; ``None`` unless asked for) and
            the critic's values before each token (``None`` without a critic).
        """
        entropy_BT = None
        if with_entropy:
            policy_log_probs_BT, entropy_BT = response_log_probs(self.policy, batch, temperature, with_entropy=True)
        else:
            policy_log_probs_BT = response_log_probs(self.policy, batch, temperature)
        if self.critic is None:
            return policy_log_probs_BT, entropy_BT, None
        values_BT = self.critic(
            batch.input_ids_BS, batch.attention_mask_BS, batch.position_ids_BS, batch.response_ids_BT.shape[1]
        )
        return policy_log_probs_BT, entropy_BT, values_BT

    def begin(self) -> None:
        """Nothing; FSDP takes the module of its first call for the root, and the policy alone may write before."""

    def parameter_groups(self, learning_rate: float, critic_learning_rate: float) -> list[dict[str, Any]]:
        """Trained parameters for the optimiser: the policy's, then the critic's."""
        groups = [{"params": [p for p in self.policy.parameters() if p.requires_grad], "lr": learning_rate}]
        if self.critic is not None:
            groups.append({"params": [p for p in self.critic.parameters() if p.requires_grad]})
            groups[-1]["lr"] = critic_learning_rate
        return groups


def _units(policy: nn.Module, critic: Critic | None) -> list[str]:
    """Classes that FSDP gathers one by one (accelerate reads them): the layers, and around them the policy and the
    critic, so that each works when it is called on its own.
    """
    parts: list[Any] = [base_policy(policy), *([] if critic is None else [critic.backbone, critic])]
    names = {name for part in parts for name in getattr(part, "_no_split_modules", None) or ()}
    names |= {type(part).__name__ for part in (parts[0], *parts[2:])}
    present = {type(module).__name__ for part in parts for module in part.modules()}
    return sorted(names & present)
